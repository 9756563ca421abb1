"""The folder that entries lie in: made, listed, written to, swept; knows no entry's content.

Writers, readers and pruners of several processes need no lock: a file appears whole under its name
and any file may vanish at any time. All calls raise OSError as the file system does.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO
from pathlib import Path

from .head import NAME, Head, Unsound, read

_UNFINISHED = ".part"
_ABANDONED_SECONDS = 3600.0


class Folder:
    """One folder within the user's: whatever else lies in that one is none of ours."""

    def __init__(self, outer: Path) -> None:
        self._outer = outer
        self.path = outer / "visual-tokens"

    def make(self) -> None:
        # A folder that is there keeps its permissions: it may be meant to be shared.
        self._outer.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)

    def files(self) -> list[tuple[str, os.stat_result]]:
        """Names and states of the entries, whole or not. None where there is no folder."""
        files: list[tuple[str, os.stat_result]] = []
        with suppress(FileNotFoundError), os.scandir(self.path) as found:
            for one in found:
                with suppress(FileNotFoundError):
                    if NAME.fullmatch(one.name) and one.is_file(follow_symlinks=False):
                        files.append((one.name, one.stat(follow_symlinks=False)))
        return files

    @contextmanager
    def opened(self, name: str) -> Iterator[tuple[FileIO, Head]]:
        """An entry that stands at its data. Unsound, raised here or within, is passed on once the
        file is deleted, unless another one took its name meanwhile."""
        path = self.path / name
        with open(path, "rb", buffering=0) as file:
            try:
                head = read(file)
                if head.name != name:
                    raise Unsound("another entry's name")
                yield file, head
            except Unsound:
                with suppress(OSError):
                    if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                        path.unlink()
                raise

    @contextmanager
    def unfinished(self, name: str) -> Iterator[tuple[BufferedWriter, Callable[[], None]]]:
        """A new file for one writer, and what gives it its name once all is written; whatever has
        no name by the end is deleted."""
        temporary = self.path / f"{name}.{os.getpid()}-{secrets.token_hex(4)}{_UNFINISHED}"
        try:
            with open(temporary, "xb", opener=_private) as file:

                def finish() -> None:
                    file.flush()
                    os.fsync(file.fileno())
                    file.close()  # Windows renames no open file
                    os.replace(temporary, self.path / name)

                yield file, finish
        finally:
            with suppress(OSError):
                temporary.unlink()

    def delete(self, name: str) -> bool:
        """Whether it was there."""
        try:
            (self.path / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def sweep(self) -> None:
        """Deletes unfinished files that nobody has written to for an hour, by a clock that may
        have been set."""
        with suppress(FileNotFoundError), os.scandir(self.path) as found:
            for one in found:
                if one.name.endswith(_UNFINISHED):
                    with suppress(FileNotFoundError):
                        if abs(time.time() - one.stat().st_mtime) > _ABANDONED_SECONDS:
                            os.unlink(one.path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
