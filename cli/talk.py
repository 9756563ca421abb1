"""A conversation about one video or pictures: lines in, answers out, and commands about them.

Knows neither where lines come from nor how answers come about.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenreduce.errors import CapacityError, InputError, ModelError, SettingError, TokenReduceError
from tokenreduce.events import Event
from tokenreduce.result import Answer

from . import render
from .front import BAD_INPUT, NO_CAPACITY
from .interrupts import INTERRUPTED, Stopper
from .lines import Lines
from .safe import escaped
from .transcript import save
from .watch import Watch

if TYPE_CHECKING:
    from tokenreduce.session import Session


@dataclass(frozen=True)
class Command:
    """What a line that begins with / does. takes: what stands after the name, in capitals."""

    says: str
    run: Callable[[str], None]
    takes: str = ""


class Talk:
    """One conversation; what was said before goes along with each question as text.

    What cannot be done is one line on stderr, and the conversation goes on; what would stand in the
    way of every question, such as a file that is no video, is raised.
    """

    def __init__(
        self, session: Session, files: Sequence[str], *, quiet: bool, as_json: bool
    ) -> None:
        self._session = session
        self._files = files
        self._quiet = quiet
        self._as_json = as_json
        self._answers: list[Answer] = []
        self._hopeless: TokenReduceError | None = None
        self._left = False
        self._code = 0
        self._commands = {
            "/frames": Command("the times of the frames the last answer is about", self._frames),
            "/cost": Command("what the last answer cost", self._cost),
            "/preset": Command("another preset from the next question on", self._preset, "NAME"),
            "/save": Command("the conversation as .md or .json", self._save, "FILE"),
            "/help": Command("this list", self._help),
            "/quit": Command("leave, as Ctrl-D does", self._quit),
        }

    def run(self, lines: Lines) -> int:
        """Until there are no more lines; the exit code. With typed lines, errors have been seen and
        are no failure; Ctrl-C twice in a row leaves."""
        interrupts = 0
        while not self._left:
            try:
                line = lines.next()
                if line is None:
                    break
                interrupts = 0
                if line:
                    self._take(line, typed=lines.typed)
            except KeyboardInterrupt:
                if not lines.typed:
                    raise
                interrupts += 1
                if interrupts > 1:
                    render.show("")
                    return INTERRUPTED
                render.show("\nstopped; Ctrl-C again or Ctrl-D leaves")
            except TokenReduceError as error:
                if error is self._hopeless or type(error) is TokenReduceError:
                    raise  # also where nothing can be written any more
                self._failed(error)
        return 0 if lines.typed else self._code

    def _take(self, line: str, *, typed: bool) -> None:
        if not line.startswith("/"):
            self._ask(line, typed=typed)
            return
        name, _, rest = line.partition(" ")
        command, given = self._commands.get(name), rest.strip()
        if command is None:
            raise InputError(f"no command {name}; there are: {', '.join(sorted(self._commands))}")
        if given and not command.takes:
            raise InputError(f"{name} takes nothing, not {given!r}: type {name} alone")
        command.run(given)

    def _ask(self, question: str, *, typed: bool) -> None:
        from tokenreduce.plan import check_question

        check_question(question)
        stopper = Stopper()
        with Watch(quiet=self._quiet, stream=not self._as_json) as watch:

            def see(event: Event) -> None:
                stopper.see(event)
                watch(event)

            said = tuple((one.question, one.answer) for one in self._answers if one.answer)
            with stopper if typed else nullcontext():
                try:
                    answer = self._session.ask(question, history=said, stop=stopper, watch=see)
                except TokenReduceError as error:
                    self._hopeless = error if self._ends_all(error) else None
                    raise
            watch.finish(answer)
        self._answers.append(answer)
        if self._as_json:
            render.json_object(answer.to_json())
        if answer.finish_reason == "interrupted":
            render.show("stopped")

    def _ends_all(self, error: TokenReduceError) -> bool:
        """Whether every question would fail like this one: it is about the file or the model."""
        if self._answers or self._session.viewed is not None:
            return False
        opened = self._session.plan is not None
        return isinstance(error, ModelError) or not opened

    def _failed(self, error: TokenReduceError) -> None:
        render.error(str(error))
        code = NO_CAPACITY if isinstance(error, CapacityError) else BAD_INPUT
        self._code = max(self._code, code)

    def _last(self) -> Answer:
        if not self._answers:
            raise InputError("nothing has been answered yet: ask a question first")
        return self._answers[-1]

    def _frames(self, given: str) -> None:
        last = self._last()
        seconds, count = last.frames.seconds, last.frames.decoded
        if not seconds:
            render.line(f"{count} picture{'' if count == 1 else 's'}, without times")
            return
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1 << 20
        times = f"{count} frame{'' if count == 1 else 's'}: {', '.join(map(moment, seconds))}"
        for text in textwrap.wrap(times, max(20, width), break_on_hyphens=False):
            render.line(text)

    def _cost(self, given: str) -> None:
        render.cost(self._last())

    def _preset(self, given: str) -> None:
        from tokenreduce.shipped import preset_names

        if not given:
            listed = ", ".join(preset_names())
            raise SettingError(f"/preset needs a name or a .toml file; there are: {listed}")
        self._session.change(preset=given)
        if not self._quiet:
            render.show(f"preset {escaped(given)} from the next question on")
            if changed := self._session.fitted.changed:
                render.warning(f"made to fit: {'; '.join(changed)}")

    def _save(self, given: str) -> None:
        if not given:
            raise InputError("/save needs a file name that ends in .md or .json")
        self._last()
        target = save(_unquoted(given), self._files, self._answers)
        if not self._quiet:
            render.show(f"saved to {escaped(str(target))}")

    def _help(self, given: str) -> None:
        rows = [(f"{name} {one.takes}".rstrip(), one.says) for name, one in self._commands.items()]
        render.columns([*rows, ("Ctrl-C", "stop an answer; twice in a row, leave")])

    def _quit(self, given: str) -> None:
        self._left = True


def moment(seconds: float) -> str:
    """A time of a video to a tenth of a second, rounded down as players do.

    >>> moment(59.99), moment(3725)
    ('0:59.9', '1:02:05.0')
    """
    tenths = int(seconds * 10 + 1e-6)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    clock = f"{tenths // 10:02d}.{tenths % 10}"
    return f"{hours}:{minutes:02d}:{clock}" if hours else f"{minutes}:{clock}"


def _unquoted(name: str) -> str:
    """A file name as a shell would read it, if it could."""
    if name[0] in "\"'":
        try:
            parts = shlex.split(name)
        except ValueError:
            return name
        return parts[0] if len(parts) == 1 else name
    return name
