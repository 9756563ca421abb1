"""What a question is about: one video, or one or more pictures, known before they are looked at.

Knows the model by its ModelSpec only, and nothing about questions and reductions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

from tokenreduce.budget import Layout
from tokenreduce.clock import Clock
from tokenreduce.errors import InputError
from tokenreduce.images import Pictures, is_image, read_images
from tokenreduce.models.spec import ModelSpec
from tokenreduce.result import ImageFacts, VideoFacts
from tokenreduce.stills import layouts
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.inputs import checked, shown
from tokenreduce.video.types import Probe

FilePath = str | PathLike[str]


@dataclass(frozen=True)
class Files:
    """What was given: the path of one video, or those of pictures, as they were written."""

    paths: tuple[FilePath, ...]
    pictures: bool


@dataclass(frozen=True)
class Footage:
    """One video that was probed."""

    probe: Probe

    @property
    def facts(self) -> VideoFacts:
        probe = self.probe
        return VideoFacts(
            probe.path, probe.seconds, probe.width, probe.height, probe.fps, probe.codec
        )

    @property
    def images(self) -> tuple[ImageFacts, ...]:
        return ()


@dataclass(frozen=True)
class Stills:
    """Pictures that were read, and their paths as they were given."""

    pictures: Pictures
    paths: tuple[str, ...]

    @property
    def facts(self) -> VideoFacts:
        """Of the first, which has neither duration nor frame rate."""
        width, height = self.pictures.sizes[0]
        return VideoFacts(self.paths[0], 0.0, width, height, 0.0, self.pictures.formats[0])

    @property
    def images(self) -> tuple[ImageFacts, ...]:
        sizes = self.pictures.sizes
        return tuple(ImageFacts(path, *size) for path, size in zip(self.paths, sizes, strict=True))

    def layouts(self, spec: ModelSpec) -> tuple[Layout, ...]:
        return layouts(spec, self.pictures.sizes)


Subject = Footage | Stills


def told_apart(path: FilePath | Sequence[FilePath]) -> Files:
    """Whether `path` is a video or a picture; several are pictures. Raises InputError for none, for
    several videos, and for both kinds at once."""
    paths = (path,) if isinstance(path, (str, PathLike)) else tuple(path)
    if not paths:
        raise InputError("no file: give the path of a video, or of one or more pictures")
    if len(paths) == 1:
        return Files(paths, is_image(paths[0]))
    for one in paths:
        if is_image(one):
            continue
        if not os.path.exists(one):
            raise InputError(
                f"{shown(one)}: no such file; several files are pictures, and the question is one "
                "argument in quotes"
            )
        checked(one)
        raise InputError(
            f"{shown(one)}: is no picture; give one video, or only pictures (JPEG, PNG, WebP)"
        )
    return Files(paths, True)


def check_there(path: FilePath | Sequence[FilePath]) -> None:
    """Raises InputError for files that cannot be read, and as `told_apart`; opens no video."""
    for one in told_apart(path).paths:
        checked(one)


def read_stills(files: Files, spec: ModelSpec, clock: Clock) -> Stills:
    """The pictures at `files`. Raises InputError as `images.read_images`."""
    with clock.part("probe"):
        pictures = read_images(files.paths, spec)
        layouts(spec, pictures.sizes)  # refuses what is too long and narrow
    return Stills(pictures, tuple(os.fspath(path) for path in files.paths))


def probed(files: Files, child: Decoder, clock: Clock) -> Footage:
    """The video at `files`. Raises InputError for whatever is not one."""
    with clock.part("probe"):
        return Footage(child.probe(files.paths[0]))
