"""The command line: parses, calls the library, renders. The library knows nothing of it."""

from .commands import app

__all__ = ["app"]
