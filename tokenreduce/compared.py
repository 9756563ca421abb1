"""What a comparison found: a row for each setting, answered or refused, and its JSON object.

Knows nothing about how it was found, nor how it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenreduce.result import Answer


@dataclass(frozen=True)
class Row:
    """One setting.

    same        its answer is that of the unreduced model on the same frames; None for that model
                itself, and where it could not be asked
    peak_bytes  most memory of the device, or of the host where there is none, while it was reduced
                and answered; None where nobody tells
    encode_seconds  of the vision tower: its own pass where it reduces inside, else the one pass
                that it shares with others, in full
    """

    label: str
    answer: Answer
    same: bool | None
    peak_bytes: int | None
    encode_seconds: float

    @property
    def seconds(self) -> float:
        """What it would have taken alone, decoding and loading left out: the vision tower,
        reducing, reading and answering."""
        spent = self.answer.seconds
        return self.encode_seconds + spent.reduce + spent.prefill + spent.generate

    @property
    def llm_flops(self) -> float:
        """Of the language model's prefill and what the reduction itself computes."""
        return self.answer.flops.llm + self.answer.flops.overhead

    @property
    def flops(self) -> float:
        """The same with the vision tower, as if it had run for this setting alone."""
        return self.answer.flops.vision + self.llm_flops

    def to_json(self) -> dict[str, Any]:
        """As `ask --json` prints an answer, with what compares it."""
        return {
            "label": self.label,
            "same_as_full": self.same,
            "mean_visual_tokens": self.answer.tokens.mean_per_layer,
            "seconds_alone": self.seconds,
            "peak_bytes": self.peak_bytes,
            "encode_seconds": self.encode_seconds,
            "flops_alone": self.flops,
            **self.answer.to_json(),
        }


@dataclass(frozen=True)
class Refused:
    """One setting that cannot be, and why, in one line."""

    label: str
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"label": self.label, "refused": self.why}


@dataclass(frozen=True)
class Comparison:
    """settings: in the order they were wanted in, those of the same frames together, each such
    group after the unreduced model. shared_seconds: load, decode and encode, paid once for all."""

    settings: tuple[Row | Refused, ...]
    shared_seconds: dict[str, float]
    warnings: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """Those that were answered."""
        return tuple(one for one in self.settings if isinstance(one, Row))

    @property
    def refused(self) -> tuple[Refused, ...]:
        return tuple(one for one in self.settings if isinstance(one, Refused))

    def to_json(self) -> dict[str, Any]:
        """A plain object of strings, numbers, lists and objects."""
        return {
            "shared_seconds": dict(self.shared_seconds),
            "warnings": list(self.warnings),
            "rows": [one.to_json() for one in self.settings],
        }
