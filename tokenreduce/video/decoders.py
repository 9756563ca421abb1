"""The decoders there are, by name: the one place where one is added. Child side only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from tokenreduce.video import with_decord, with_pyav
from tokenreduce.video.pictures import Sample
from tokenreduce.video.source import Beat, Source
from tokenreduce.video.times import Span
from tokenreduce.video.types import Request


class Decode(Protocol):
    """Yields what became of each wanted frame, in order of time; no picture twice.

    source: the file as libav opened it under the whitelists, so whatever gets here was accepted
    span:   of its frames, as the probe measured it
    beat:   to be called at least every few packets

    Raises InputError for what it cannot read.
    """

    def __call__(
        self, source: Source, request: Request, span: Span, beat: Beat, /
    ) -> Iterator[Sample]: ...


DECODERS: Mapping[str, Decode] = {
    # auto never retries a refused file with another decoder: the refusal may be the whitelist's.
    "auto": with_pyav.decode,
    "pyav": with_pyav.decode,
    "decord": with_decord.decode,
}
