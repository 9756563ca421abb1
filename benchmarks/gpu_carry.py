"""Takes the packages that are missing to a machine with a GPU and without a package index.

    python3 -m benchmarks.gpu_carry pack                # here, where everything is installed
    eval "$(python3 -m benchmarks.gpu_carry unpack)"    # there, in the root of the same checkout

`pack` writes runs/gpu-carry.tar.xz, which git ignores, to be taken there with the checkout.
`unpack` unpacks of it, beside it, what is not installed there or too old; links tokenreduce/cli and
tokenreduce/presets to where an installation would put them; and prints what a shell needs: the
paths, and the commit, since there may be no git. It says on stderr what is still too old or absent.

torch, transformers, numpy, pillow and pytest must be there already, with what they need: that is
typer and rich, jinja2, safetensors, huggingface-hub, pygments. The system and the processor must be
the same; Python need not be, but for packages compiled for one version. Uses the standard library
alone and imports nothing that it carries.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import sys
import tarfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks import record

ARCHIVE = record.ROOT / "runs" / "gpu-carry.tar.xz"
LIST = "gpu-carry.json"
CARRIED = (
    *("av", "bitsandbytes", "pysubs2", "platformdirs", "accelerate"),
    *("hypothesis", "sortedcontainers"),  # for the tests; compiled, so for one Python alone
)
NOT_NEEDED = ("decord",)
MOVED = {"cli": "tokenreduce.cli", "presets": "tokenreduce.presets"}
MEASURED = ("benchmarks", "cli", "presets", "tests", "tokenreduce")
DIRTY = "packed from a changed checkout: --resume will never take its results for its own"
COMMAND = """#!/bin/sh
exec python3 -c 'from tokenreduce.cli import app; app(prog_name="tokenreduce")' "$@"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("pack", "unpack"))
    parser.add_argument("--archive", type=Path, default=ARCHIVE, help="runs/gpu-carry.tar.xz")
    parser.add_argument("--cuda", default="130", help="of bitsandbytes' libraries, the one for it")
    options = parser.parse_args(arguments)
    if options.what == "pack":
        packed = pack(options.archive, options.cuda)
        print(f"{options.archive}: {packed / 1e6:.1f} MB", file=sys.stderr)
        if record.commit().endswith("-dirty"):
            print(f"benchmarks.gpu_carry: {DIRTY}", file=sys.stderr)
    else:
        print(unpack(options.archive, record.ROOT))
        for lack in lacking():
            print(f"benchmarks.gpu_carry: {lack}", file=sys.stderr)
    return 0


def pack(archive: Path, cuda: str, names: Sequence[str] = CARRIED) -> int:
    """Bytes of the archive. Raises PackageNotFoundError for a package that is not installed."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {
        "commit": record.commit(),
        "digest": digest(record.ROOT),
        "own": list(own()),
        "packages": {},
    }
    beside = archive.with_suffix(".part")
    with tarfile.open(beside, "w:xz", preset=6) as packed:
        for name in names:
            installed = metadata.distribution(name)
            files = sorted(files_of(installed, cuda))
            for file in files:
                packed.add(str(installed.locate_file(file)), str(file), recursive=False)
            about["packages"][name] = {
                "version": installed.version,
                "least": least().get(name, ""),
                "files": [str(file) for file in files],
            }
        _add_text(packed, LIST, json.dumps(about))
        for place, text in own().items():
            _add_text(packed, place, text)
    beside.replace(archive)
    return archive.stat().st_size


def files_of(installed: metadata.Distribution, cuda: str) -> Iterator[PurePosixPath]:
    """As its record lists them; no commands, no byte code, and of bitsandbytes' libraries, which
    are many, those of the CPU and of one version of CUDA."""
    for file in installed.files or ():
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        library = file.name.startswith("libbitsandbytes_")
        if not library or file.stem in ("libbitsandbytes_cpu", f"libbitsandbytes_cuda{cuda}"):
            yield file


def own() -> dict[str, str]:
    """This project's metadata by file, against which `tokenreduce doctor` compares versions."""
    about = metadata.distribution("tokenreduce")
    text = about.read_text("METADATA") or about.read_text("PKG-INFO") or ""
    return {f"tokenreduce-{about.version}.dist-info/METADATA": text}


def least() -> dict[str, str]:
    """The lowest version of each dependency, as pyproject.toml has it."""
    project = tomllib.loads((record.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = (text.partition(";")[0] for text in project["project"]["dependencies"])
    pairs = (text.split(",")[0].partition(">=") for text in found)
    return {name.strip(): version.strip() for name, _, version in pairs}


def unpack(archive: Path, root: Path) -> str:
    """The lines for a shell. What is unpacked lies beside the archive."""
    site = archive.parent / "gpu-carried"
    with tarfile.open(archive) as packed:
        about = json.loads(_text(packed, LIST))
        wanted = {
            file
            for name, one in about["packages"].items()
            if missing(name, one)
            for file in one["files"]
        } | set(about["own"])
        members = [member for member in packed.getmembers() if member.name in wanted]
        packed.extractall(site, members, filter="data")
    for folder, module in MOVED.items():
        link = root.joinpath(*module.split("."))
        if not link.exists():
            link.symlink_to(Path("..") / folder, target_is_directory=True)
    command = site / "bin" / "tokenreduce"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text(COMMAND)
    command.chmod(0o755)
    return "\n".join(
        (
            f"export PYTHONPATH={shlex.quote(f'{site}:{root}')}${{PYTHONPATH:+:$PYTHONPATH}}",
            f"export PATH={shlex.quote(str(command.parent))}:$PATH",
            f"export COMMIT={shlex.quote(_commit(about, root))}",
        )
    )


def digest(root: Path) -> str:
    """Of all code that is measured or measures, as it lies there: which commit it is of."""
    whole = hashlib.sha256()
    for folder, inner, files in (one for name in MEASURED for one in os.walk(root / name)):
        inner.sort()  # links are not gone into
        for file in sorted(name for name in files if name.endswith((".py", ".toml"))):
            path = Path(folder, file)
            whole.update(f"{path.relative_to(root).as_posix()}\0".encode())
            whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _commit(about: Mapping[str, Any], root: Path) -> str:
    """That of the checkout, which the machine may not be able to tell."""
    if digest(root) == about["digest"]:
        return str(about["commit"])
    print(
        f"benchmarks.gpu_carry: packed of {about['commit']}, and the code here is another: "
        "pack again, or give --commit",
        file=sys.stderr,
    )
    return "unknown"


def lacking() -> Iterator[str]:
    """Once it is unpacked: each dependency that is absent or too old, for people."""
    for name, lowest in least().items():
        here = installed_version(name)
        if name not in (*CARRIED, *NOT_NEEDED) and (here is None or older(here, lowest)):
            yield f"{name} {here or 'is absent'}, and {lowest} or newer is wanted"


def missing(name: str, one: Mapping[str, Any]) -> bool:
    """Whether the machine has no such package, or one that is too old, and can use this one."""
    here = installed_version(name)
    if here is not None and not older(here, one["least"]):
        return False
    compiled = {part for file in one["files"] for part in file.split(".") if "cpython-" in part}
    tag = str(sys.implementation.cache_tag)
    if compiled and not any(part.startswith(f"{tag}-") for part in compiled):
        print(f"benchmarks.gpu_carry: {name} is compiled for another Python", file=sys.stderr)
        return False
    return True


def installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def older(here: str, lowest: str) -> bool:
    """Whether a version is below another; none is below "".

    >>> older("0.9.1", "0.28"), older("2.11.0+cu130", "2.6"), older("1", "")
    (True, False, False)
    """
    return numbers(here) < numbers(lowest)


def numbers(version: str) -> tuple[int, ...]:
    """Of its leading parts: enough to tell 0.9 from 0.28."""
    found: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def _add_text(packed: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), int(time.time())
    packed.addfile(info, BytesIO(data))


def _text(packed: tarfile.TarFile, name: str) -> str:
    file = packed.extractfile(name)
    if file is None:
        raise FileNotFoundError(name)
    return file.read().decode()


if __name__ == "__main__":
    raise SystemExit(main())
