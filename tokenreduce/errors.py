"""The errors a user can cause; knows nothing about how they are shown.

TokenReduceError            one line: what was given, what is allowed, what to do
|-- InputError              a file, a question, a range or another input cannot be used (exit 2)
|-- SettingError            a preset, option or variable has no such name, type or value (exit 2)
|-- ModelError              a checkpoint is missing, incomplete or not what it says (exit 2)
`-- CapacityError           no such device, or its memory does not suffice (exit 5)

Every other exception is a bug and keeps its traceback.
"""


class TokenReduceError(Exception):
    """Base of all errors that are shown as one line. The message is that line."""


class InputError(TokenReduceError):
    """The video, the question or another input cannot be used."""


class SettingError(TokenReduceError):
    """A preset, an option or an environment variable names something that does not exist."""


class ModelError(TokenReduceError):
    """A model cannot be found, is incomplete, or does not fit its own configuration."""


class CapacityError(TokenReduceError):
    """The device that was asked for is absent, or its memory does not suffice."""
