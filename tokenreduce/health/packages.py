"""Versions of Python and of the packages, against the ranges that this package's metadata names.

Reads metadata alone: nothing is imported that could be broken.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version

from tokenreduce.health.finding import Asked, Finding

NAME = "tokenreduce"
_LISTED = ("torch", "transformers", "accelerate", "bitsandbytes", "huggingface-hub")
_EXTRAS = {"ray": "for batch --cluster", "parquet": "for results export to Parquet"}
_OWN_LINES = ("bitsandbytes", "decord")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w-]+)['"]""")


def python(asked: Asked) -> Iterator[Finding]:
    """Against Requires-Python, and the versions that the classifiers list as tested."""
    here = platform.python_version()
    try:
        about = metadata(NAME)
    except PackageNotFoundError:
        yield Finding("python", "ok", here)
        return
    wanted = next(iter(about.get_all("Requires-Python") or [""]))
    tested = _tested(about.get_all("Classifier") or [])
    if not _within(here, wanted):
        yield Finding("python", "problem", f"{here}, and {wanted} is needed: install that")
    elif tested and ".".join(here.split(".")[:2]) not in tested:
        yield Finding("python", "warning", f"{here}; tested with {', '.join(tested)}")
    else:
        yield Finding("python", "ok", here)


def packages(asked: Asked) -> Iterator[Finding]:
    """One line for what is as it should be, and one for each package that is not."""
    try:
        wanted = metadata(NAME).get_all("Requires-Dist") or []
    except PackageNotFoundError:
        yield Finding(
            "packages", "warning", f"{NAME} is not installed as a package: versions not compared"
        )
        return
    try:
        import packaging.requirements  # noqa: F401  # not ours: the libraries bring it
    except ImportError:
        yield Finding("packages", "warning", "packaging is not installed: versions not compared")
        return
    wrong = [one for text in wanted if (one := _compared(text)) is not None]
    yield from wrong
    if not wrong:
        listed = (f"{name} {installed(name)}" for name in _LISTED if installed(name))
        yield Finding("packages", "ok", ", ".join(listed) + ", all in the tested ranges")


def extras(asked: Asked) -> Iterator[Finding]:
    """What only some commands need."""
    for name, package in (("ray", "ray"), ("parquet", "pyarrow")):
        found = installed(package)
        if found is None:
            text = f"not installed; only {_EXTRAS[name]}: pip install 'tokenreduce[{name}]'"
        else:
            text = f"{found}, {_EXTRAS[name]}"
        yield Finding(package, "ok", text)


def installed(package: str) -> str | None:
    """The version that its metadata names."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _compared(text: str) -> Finding | None:
    """What is wrong with a package that Requires-Dist names; None where it is as wanted, not
    wanted on this machine, or optional and absent."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = Requirement(text)
    except InvalidRequirement:
        return None
    found = _EXTRA.search(text)
    extra, here = found[1] if found else "", installed(wanted.name)
    if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
        return None
    if here is None:
        if extra or wanted.name in _OWN_LINES:
            return None
        line = f"pip install '{wanted.name}{wanted.specifier}'"
        return Finding(wanted.name, "problem", f"not installed: {line}")
    if extra not in ("", *_EXTRAS) or wanted.specifier.contains(here, prereleases=True):
        return None
    range_ = _read(str(wanted.specifier))
    line = f"pip install '{wanted.name}{wanted.specifier}'"
    return Finding(wanted.name, "warning", f"{here}; tested with {range_}: {line}")


def _within(here: str, wanted: str) -> bool:
    """Whether a version meets a specifier; True where that cannot be told."""
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return True
    return bool(SpecifierSet(wanted).contains(here, prereleases=True))


def _read(specifier: str) -> str:
    """
    >>> _read("<5.24,>=5.17")
    '>=5.17, <5.24'
    """
    return ", ".join(sorted(specifier.split(","), key=lambda one: one.startswith("<")))


def _tested(classifiers: list[str]) -> list[str]:
    """
    >>> _tested(["Programming Language :: Python :: 3.12", "Typing :: Typed"])
    ['3.12']
    """
    found = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", c) for c in classifiers)
    return [one[1] for one in found if one]
