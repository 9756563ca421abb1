"""Puts a file in its place whole or not at all; knows nothing of what it holds."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tokenreduce.batch import durable
from tokenreduce.batch.ledger import ledger_of
from tokenreduce.errors import InputError
from tokenreduce.video.inputs import shown


def check(path: str, *, force: bool) -> None:
    """Whether a file can be put at `path`, to be asked before the work.

    force: another file there may go, but never a batch's output or its ledger. Raises InputError
    for those, for a file that is there without `force`, for a folder, pipe or device there, and for
    a folder that is missing or closed to this user.
    """
    name, target = shown(path), os.path.abspath(path)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise InputError(f"{name}: there is no folder {shown(folder)}; make it, or choose another")
    if target.endswith(str(ledger_of(""))) or ledger_of(target).exists():
        raise InputError(f"{name}: belongs to a batch and is not replaced; choose another name")
    if os.path.lexists(target):
        if not os.path.isfile(target):
            raise InputError(f"{name}: is no regular file; choose another name")
        if not force:
            raise _there_already(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{name}: no permission to write there; choose another folder")


@contextmanager
def placed(path: str, *, force: bool) -> Iterator[BinaryIO]:
    """A file to write, found at `path` once the block has ended well, on disk by then.

    Raises as `check` does, InputError too where it cannot be written, as on a full disk, and where
    a file has come there meanwhile and `force` is not given.
    """
    check(path, force=force)
    target = Path(os.path.abspath(path))
    try:
        with durable.replacing(target) if force else _new(target) as file:
            yield file
    except FileExistsError:
        raise _there_already(path) from None
    except OSError as error:
        raise InputError(
            f"{shown(path)}: cannot be written ({error.strerror or error}); choose another place, "
            "or make room"
        ) from error


@contextmanager
def _new(path: Path) -> Iterator[BinaryIO]:
    """Unlike `durable.replacing`, never in place of a file that has come meanwhile."""
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.unfinished")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        durable.name_new(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


def _there_already(path: str) -> InputError:
    return InputError(f"{shown(path)}: is there already; --force replaces it")
