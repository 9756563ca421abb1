"""Files that appear whole or not at all; knows nothing of what is in them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Makes names that came or went in `folder` survive a power cut, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot, and need not
        return
    with suppress(OSError):  # nor can some network file systems
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_file(path: Path) -> None:
    """Raises OSError."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def name_new(part: Path, path: Path) -> None:
    """Gives the file `part` the name `path`, which must be free. Raises OSError, FileExistsError
    where it is taken."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(f"{path} exists") from None
        os.rename(part, path)
    else:
        os.unlink(part)
    sync_folder(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[BufferedWriter]:
    """A file to write, which takes the place of `path` once all is written and on the disk.

    Whatever fails, in here or within, leaves `path` as it was. An existing file's mode is kept. A
    writer that was killed leaves a file that the next one overwrites, so only one may write at a
    time. Raises OSError.
    """
    part = path.with_name(f".{path.name}.unfinished")
    with suppress(FileNotFoundError):
        part.unlink()
    try:
        with open(part, "xb") as file:
            with suppress(FileNotFoundError):
                mode = stat.S_IMODE(os.stat(path).st_mode)
                if mode != stat.S_IMODE(os.fstat(file.fileno()).st_mode):
                    os.chmod(part, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)
