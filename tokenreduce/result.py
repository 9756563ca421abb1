"""What an answer is and what it cost: the frozen result of one question, and its JSON object.

Keys are only ever added. docs/json.md documents each. Knows nothing about how the numbers came
about, nor how they are shown.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FrameSource = Literal["decoded", "session", "cache"]
Road = Literal["stock", "slots", "graphs"]
"""How tokens after the first are computed: transformers' own forward; a cache whose tensors stay in
place; and that one replayed by CUDA graphs."""

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
    """What was looked at; pictures count as frames and have no times.

    requested  to be sampled          decoded  and encoded
    seconds    presentation time of each of these on the video's own clock
    until      of the last sampled frame that each stands for, itself or one that repeats it
    repeats    sampled and not encoded, for they show what the one before shows
    batch      frames that go through the vision tower together
    source     "decoded" for this question, for an earlier one of the same "session", or "cache"
    """

    requested: int
    decoded: int
    seconds: tuple[float, ...]
    until: tuple[float, ...] = ()
    repeats: int = 0
    batch: int = 0
    source: FrameSource = "decoded"


@dataclass(frozen=True)
class TextTokens:
    """Tokens of the prompt's text by part, each counted by itself: the time instruction, subtitles,
    and what was said before in a chat."""

    time: int = 0
    subtitles: int = 0
    history: int = 0


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
    text_parts: TextTokens = TextTokens()

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
    """Wall time of each part; digest: of the file, by which the cache knows it. first_token counts
    from the start of the question, loading excluded; generate is decoding after the first token;
    total includes everything."""

    load: float
    decode: float
    encode: float
    reduce: float
    prefill: float
    first_token: float
    generate: float
    total: float
    digest: float = 0.0


@dataclass(frozen=True)
class MemoryBytes:
    """device_peak is None without a CUDA device; host_peak is the resident peak of this process."""

    device_peak: int | None
    host_peak: int
    kv_cache: int
    kv_cache_unreduced: int


@dataclass(frozen=True)
class Decoding:
    """How the tokens after the first were computed.

    because      what stood in the way of anything faster; empty if nothing did
    cache_bytes  of the cache of slots when it was largest; 0 for stock
    recordings   of graphs, one for each time that the slots were laid out
    seconds      that recording took
    """

    road: Road = "stock"
    because: str = ""
    cache_bytes: int = 0
    recordings: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Fitted:
    """What was foreseen of the device's memory, and what was done to fit it.

    limit      bytes that tensors might take, None where nothing limited them
    predicted  bytes of tensors at the fullest moment, None where nothing was predicted
    changed    what was other than asked for, in words
    """

    limit: int | None = None
    predicted: int | None = None
    changed: tuple[str, ...] = ()


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
    fitted: Fitted = Fitted()
    decoding: Decoding = Decoding()

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
