"""What an answer is and what it cost: the frozen result of one question, and its JSON object.

Keys are only ever added. docs/json.md documents each. Knows nothing about how the numbers came
about, nor how they are shown.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "interrupted"]


@dataclass(frozen=True)
class VideoFacts:
    """What the probe found. seconds: duration; width and height after rotation, in pixels. Of
    pictures: the first one, with seconds and fps 0 and its format as codec."""

    path: str
    seconds: float
    width: int
    height: int
    fps: float
    codec: str


@dataclass(frozen=True)
class ImageFacts:
    """A picture that was asked about. width and height upright, in pixels."""

    path: str
    width: int
    height: int


@dataclass(frozen=True)
class FramesUsed:
    """seconds: presentation time of each decoded frame on the video's own clock; of pictures,
    which are counted as frames, there are none."""

    requested: int
    decoded: int
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class TokenCounts:
    """Visual tokens, newline embeddings included, and text tokens.

    budget     asked for
    raw        what an unreduced model would read
    merged     what entered the first LLM layer: min(budget, raw), exactly
    text       prompt tokens that are not visual
    per_layer  visual tokens each LLM layer attended to, its own input
    """

    budget: int
    raw: int
    merged: int
    text: int
    per_layer: tuple[int, ...]

    @property
    def mean_per_layer(self) -> float:
        """What methods are compared at, wherever they remove: cost follows it."""
        return sum(self.per_layer) / len(self.per_layer)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of the prefill, multiply and add counted as two.

    vision          tower and projector over all encoded frames
    llm             charged where the reduction acts
    llm_unreduced   the same prompt with every raw visual token in every layer
    overhead        what the reduction itself computes: importance scores and merging
    ratio_llm       llm_unreduced / (llm + overhead)
    ratio_total     (vision + llm_unreduced) / (vision + llm + overhead)
    """

    vision: float
    llm: float
    llm_unreduced: float
    ratio_llm: float
    ratio_total: float
    overhead: float = 0.0


@dataclass(frozen=True)
class Seconds:
    """Wall time of each part. first_token counts from the start of the question, loading excluded;
    generate is decoding after the first token; total includes everything."""

    load: float
    decode: float
    encode: float
    reduce: float
    prefill: float
    first_token: float
    generate: float
    total: float


@dataclass(frozen=True)
class MemoryBytes:
    """device_peak is None without a CUDA device; host_peak is the resident peak of this process."""

    device_peak: int | None
    host_peak: int
    kv_cache: int
    kv_cache_unreduced: int


@dataclass(frozen=True)
class Answer:
    """One question answered. `to_json` gives exactly the object that `ask --json` prints."""

    answer: str
    finish_reason: FinishReason
    question: str
    video: VideoFacts
    frames: FramesUsed
    tokens: TokenCounts
    flops: Flops
    seconds: Seconds
    memory_bytes: MemoryBytes
    model: str
    quantize: str
    preset: str
    method: str
    seed: int
    generated_tokens: int
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    images: tuple[ImageFacts, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain object of strings, numbers, lists and objects."""
        listed: dict[str, Any] = _lists(asdict(self))
        return listed


def _lists(value: Any) -> Any:
    """Tuples as lists, so that the object equals what json.loads gives back."""
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_lists(inner) for inner in value]
    return value
