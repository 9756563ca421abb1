"""Predicted memory against what torch's allocator really gives out, on the CPU, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from transformers import LlavaOnevisionConfig

from tokenreduce.budget import Layout
from tokenreduce.engine.generate import generate
from tokenreduce.engine.host import HostedLlavaOnevision, prepare
from tokenreduce.engine.stem import Stem
from tokenreduce.engine.types import Prompt, Prune, Sampling
from tokenreduce.footprint import (
    DRIVER_BYTES,
    RESIDENT_TOKENS,
    WORKSPACE_BYTES,
    Footprint,
    footprint,
    layers_of,
    of_plan,
)
from tokenreduce.footprint_stages import STEM_BYTES
from tokenreduce.footprint_weights import quantised, weights
from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.methods.ask_prune import AskPrune
from tokenreduce.methods.drift_merge import DriftMerge
from tokenreduce.models.builtin import builtin
from tokenreduce.models.chat import Chat
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.spec import ModelSpec, TextSpec, VisionSpec
from tokenreduce.paradigm import Method
from tokenreduce.plan import Overrides, settle
from tokenreduce.preset import load_preset
from tokenreduce.reducer import RESIDENT, Reducer
from tokenreduce.schedule import Once, Ramp
from tokenreduce.tokens import Tokens

SIDE = 13
VISION = VisionSpec(3, 128, 512, 4, SIDE * 14, 14)
TEXT = TextSpec(8, 256, 1024, 8, 2, 32, 512, 32768)
SPEC = ModelSpec("middle", VISION, TEXT, "bilinear", "grid", 8, time_text=True)
WORDS = 150
RAMP = Prune(AimPrune(), Ramp())
ASKED = Prune(AskPrune(), Once(Fraction(1, 2), Fraction(1, 4)))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def peak(work: Callable[[], Any], before: int = 0) -> int:
    """Most bytes alive at once of what `work` allocates, by the allocator's own account; `before`:
    of tensors that were there."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        work()
    events: Any = told.profiler
    changes = [
        (event.start_ns(), event.nbytes())
        for event in events.kineto_results.events()
        if event.name() == "[memory]"
    ]
    now = most = before
    for _, change in sorted(changes, key=lambda one: one[0]):
        now += change
        most = max(most, now)
    assert most > before  # something was recorded
    return most


def bytes_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _configured() -> LlavaOnevisionConfig:
    return LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
            "hidden_size": VISION.width,
            "intermediate_size": VISION.mlp_width,
            "num_hidden_layers": VISION.layers,
            "num_attention_heads": VISION.heads,
            "image_size": VISION.image_size,
            "patch_size": VISION.patch_size,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": TEXT.vocab,
            "hidden_size": TEXT.width,
            "intermediate_size": TEXT.mlp_width,
            "num_hidden_layers": TEXT.layers,
            "num_attention_heads": TEXT.heads,
            "num_key_value_heads": TEXT.kv_heads,
            "max_position_embeddings": TEXT.context,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": 0,
        },
    )


@cache
def model(dtype: torch.dtype) -> LlavaVideo:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        host: Any = HostedLlavaOnevision(_configured())
        host.eval().to(dtype)
    prepare(host)
    none: Any = None
    chat: Chat = none  # no text is encoded here
    return LlavaVideo(SPEC, host, chat, torch.device("cpu"), dtype, "none")


def predicted(per_layer: Sequence[int], dtype: torch.dtype, **changes: Any) -> Footprint:
    given = {
        "frames": 32,
        "raw_visual": per_layer[0],
        "per_layer": per_layer,
        "text_tokens": WORDS,
        "max_new_tokens": 2,
        "dtype_bytes": dtype.itemsize,
        "tower_batch": 4,
        "cuda": False,
        **changes,
    }
    return footprint(SPEC, **given)


def of_parts(found: Footprint, stage: Any, without: Sequence[str] = ()) -> int:
    """A stage's bytes but for the weights, which no test allocates."""
    left = {"weights", *without}
    return sum(size for name, size in found.of(stage).parts if name not in left)


def near(measured: int, told: int) -> None:
    """Within 10 %, and never under by more than 3 %."""
    assert 0.97 * measured <= told <= 1.10 * measured, f"{told / measured:.3f} of what is used"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_the_tower_s_activations(dtype: torch.dtype, batch: int) -> None:
    frames = torch.randint(0, 255, (batch, *[SIDE * 14] * 2, 3), dtype=torch.uint8)
    loaded = model(dtype)
    used = peak(lambda: loaded.look(frames, frozenset()))
    found = predicted([batch * 49] * 8, dtype, frames=batch, tower_batch=batch)
    near(used, of_parts(found, "encode", without=["visual tokens"]))


@pytest.mark.parametrize("frames", [8, 16])
def test_the_features_of_a_whole_chunk_stand_beside_the_last_batch(frames: int) -> None:
    pixels = torch.randint(0, 255, (frames, *[SIDE * 14] * 2, 3), dtype=torch.uint8)
    loaded = model(torch.float32)
    used = peak(lambda: loaded.look(pixels, frozenset()))
    found = predicted([frames * 49] * 8, torch.float32, frames=frames, tower_batch=4)
    near(used, of_parts(found, "encode"))


def read(
    dtype: torch.dtype, visual: int, prunes: Sequence[Prune], stem: Stem | None = None
) -> tuple[int, Any]:
    """Peak of a prefill with what a session holds beside it, and what it gave."""
    length = visual + WORDS
    kept = Tokens.fresh(torch.randn(1, visual, TEXT.width).to(dtype))
    embeds = torch.randn(1, length, TEXT.width).to(dtype)
    at = torch.arange(14, 14 + visual)
    prompt = Prompt(embeds, at, kept.bare(), Layout(1, 1, visual))
    given: list[Any] = []
    host = model(dtype).host

    def nothing(_: Any) -> None: ...

    def ask() -> None:
        given.append(
            generate(
                host, lambda _: "", prompt, prunes, Sampling(2), [], nothing, nothing, stem=stem
            )
        )

    return peak(ask, bytes_of(kept.x, kept.size, kept.place, embeds, at)), given[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("visual", [1000, 2000, 3000])
@pytest.mark.parametrize("prunes", [(), (RAMP,), (ASKED,)], ids=["merged", "aim", "asked"])
def test_the_prefill(dtype: torch.dtype, visual: int, prunes: tuple[Prune, ...]) -> None:
    used, given = read(dtype, visual, prunes)
    found = predicted(given.per_layer, dtype, blockwise=prunes == (RAMP,))
    near(used, of_parts(found, "prefill"))


@pytest.mark.parametrize("prunes", [(), (RAMP,)], ids=["merged", "aim"])
def test_the_prefill_where_attention_writes_out_all_pairs(prunes: tuple[Prune, ...]) -> None:
    with sdpa_kernel(SDPBackend.MATH):
        used, given = read(torch.bfloat16, 1000, prunes)
    found = predicted(given.per_layer, torch.bfloat16, written=True)
    near(used, of_parts(found, "prefill"))
    assert found.peak_bytes > 2 * predicted(given.per_layer, torch.bfloat16).peak_bytes


def test_the_tower_where_attention_writes_out_all_pairs() -> None:
    frames = torch.randint(0, 255, (2, *[SIDE * 14] * 2, 3), dtype=torch.uint8)
    loaded = model(torch.bfloat16)
    with sdpa_kernel(SDPBackend.MATH):
        used = peak(lambda: loaded.look(frames, frozenset()))
    found = predicted([2 * 49] * 8, torch.bfloat16, frames=2, tower_batch=2, written=True)
    near(used, of_parts(found, "encode", without=["visual tokens"]))


def test_a_choice_among_few_rows_can_be_what_is_widest() -> None:
    """In half precision the float32 buffers of scoring exceed a small model's own activations."""
    counts = [1000] * 5 + [300] * 3
    small = predicted(counts, torch.bfloat16)
    assert "scoring" in dict(small.of("prefill").parts)
    assert "scoring" not in dict(predicted([1000] * 8, torch.bfloat16).of("prefill").parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("method", "site", "frames", "budget"),
    [
        (None, "frames", 32, 6720),
        (AimMerge(), "frames", 96, 3000),
        (AimMerge(), "frames", 120, 12000),
        (DriftMerge(), "clip", 96, 5000),
        (DriftMerge(), "clip", 40, 2000),
    ],
)
def test_reducing_stays_below_its_bound(
    dtype: torch.dtype, method: Method | None, site: Any, frames: int, budget: int
) -> None:
    width, one = 64, Layout(1, 14, 14, "grid")
    chunk = torch.randn(16, 196, width).to(dtype)
    raw = Layout(frames, 14, 14, "grid").available
    wanted = min(budget, raw)

    def work() -> None:
        reducer = Reducer(one, wanted, method, torch.zeros(width, dtype=dtype), site=site)
        for start in range(0, frames, 16):
            reducer.add(chunk[: min(16, frames - start)])
        assert reducer.finish(wanted).count == wanted

    used = peak(work, bytes_of(chunk))
    spec = replace(
        SPEC, text=replace(TEXT, width=width), vision=replace(VISION, image_size=28 * 14)
    )
    found = footprint(
        spec,
        frames=frames,
        raw_visual=raw,
        per_layer=[wanted] * 8,
        text_tokens=WORDS,
        dtype_bytes=dtype.itemsize,
        cuda=False,
    )
    told = sum(size for name, size in found.of("reduce").parts if name != "weights")
    assert 0.97 * used <= told <= 4 * used


def test_what_is_held_is_what_the_reducer_holds() -> None:
    assert RESIDENT_TOKENS == RESIDENT
    assert Stem().limit_bytes == STEM_BYTES


@pytest.mark.parametrize("prunes", [(), (RAMP,)], ids=["merged", "aim"])
def test_what_is_kept_for_the_next_question(prunes: tuple[Prune, ...]) -> None:
    _, given = read(torch.float32, 1000, prunes, Stem())
    stem = given.stem
    assert stem is not None
    parts = dict(predicted(given.per_layer, torch.float32, many=True).of("decode").parts)
    near(stem.nbytes, parts["questions before"])
    alone = predicted(given.per_layer, torch.float32).of("decode").parts
    assert "questions before" not in dict(alone)


def test_the_weights_are_those_of_the_classes_that_hold_them() -> None:
    host = model(torch.float32).host
    there = sum(parameter.numel() for parameter in host.parameters())
    assert abs(weights(SPEC, "none", 4) / (4 * there) - 1) < 0.001


@pytest.mark.parametrize("name", ["llava-video-7b", "llava-onevision-0.5b", "llava-1.5-7b"])
def test_the_weights_of_published_models(name: str) -> None:
    """Against the sizes of their files, which are known roughly."""
    from tokenreduce.models.aliases import ALIASES

    spec = builtin(name)
    assert spec is not None
    assert weights(spec, "none", 2) == pytest.approx(ALIASES[name].download_bytes, rel=0.05)


def test_nf4_takes_what_bitsandbytes_takes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    matrix = torch.randn(1024, 768)
    packed, state = functional.quantize_4bit(matrix, quant_type="nf4", compress_statistics=True)
    second = state.state2
    held = [packed, state.absmax, state.code, state.offset, second.absmax, second.code]
    assert quantised(matrix.numel(), 1024, "nf4", 2) == pytest.approx(bytes_of(*held), abs=16)


def test_a_7b_in_four_bits() -> None:
    """The parts of a 7B at 64 unreduced frames and at a quarter of their tokens."""
    spec = builtin("llava-video-7b")
    assert spec is not None

    def of(visual: int, quantize: str, layers: Sequence[int] | None = None) -> Footprint:
        return footprint(
            spec,
            frames=64,
            raw_visual=13_440,
            per_layer=layers or [visual] * 28,
            text_tokens=500,
            quantize=quantize,
        )

    whole, merged = of(13_440, "nf4"), of(3_360, "nf4")
    pruned = of(3_360, "nf4", [3_360] * 15 + [1_000] * 13)
    assert 5.0e9 < dict(whole.stages[0].parts)["weights"] < 6.5e9
    assert whole.fullest.name == "prefill"
    assert pruned.peak_bytes <= merged.peak_bytes < whole.peak_bytes
    assert whole.card_bytes == whole.peak_bytes + DRIVER_BYTES
    assert of(3_360, "none").peak_bytes > merged.peak_bytes + 8e9
    # A matrix is written out beside the products where these are narrower than it.
    assert "dequantised" in dict(of(1_000, "nf4").of("prefill").parts)
    assert "dequantised" not in dict(whole.of("prefill").parts)


def test_more_frames_more_tokens_and_larger_batches_never_take_less() -> None:
    spec = builtin("llava-video-7b")
    assert spec is not None
    peaks = [
        footprint(
            spec,
            frames=frames,
            raw_visual=frames * 210,
            per_layer=[budget] * 28,
            text_tokens=500,
            tower_batch=batch,
        ).peak_bytes
        for frames, budget, batch in [(32, 1000, 1), (32, 1000, 16), (64, 1000, 16), (64, 9000, 16)]
    ]
    assert peaks == sorted(peaks)


def test_files_prepared_beside_are_counted_by_their_tokens_and_their_threads() -> None:
    spec = builtin("llava-video-7b")
    assert spec is not None

    def of(beside: int, *, many: bool = False) -> Footprint:
        return footprint(
            spec,
            frames=64,
            raw_visual=13_440,
            per_layer=[3_360] * 28,
            text_tokens=500,
            many=many,
            beside=beside,
        )

    one, three = of(0), of(2)
    tokens = dict(one.of("encode").parts)["visual tokens"]
    for before, after in zip(one.stages, three.stages, strict=True):
        assert dict(after.parts)["other files"] == 2 * tokens
        assert after.total == before.total + 2 * tokens + 2 * WORKSPACE_BYTES
    # What the file that is asked about keeps between its questions is there while others are read.
    kept = dict(of(2, many=True).of("encode").parts)["questions before"]
    assert kept == dict(of(0, many=True).of("prefill").parts)["questions before"] > 0
    assert "questions before" not in dict(of(0, many=True).of("encode").parts)


def test_of_a_plan() -> None:
    spec = builtin("llava-video-7b")
    assert spec is not None
    plan = settle(load_preset("aim"), spec, Overrides(frames=64), Sampling())
    counts = layers_of(plan)
    assert counts[0] == plan.budget_for(plan.raw) == 3360
    assert counts[14] == 3360 > counts[20] > counts[27] == 0
    told = of_plan(spec, plan, text_tokens=500)
    assert told == footprint(
        spec, frames=64, raw_visual=13_440, per_layer=counts, text_tokens=500, max_new_tokens=256
    )


def test_counts_of_another_depth_are_refused() -> None:
    with pytest.raises(ValueError, match="3 counts for a model of 8 layers"):
        predicted([5, 5, 5], torch.float32)


def test_the_cache_of_the_prefill_is_what_the_engine_says() -> None:
    used, given = read(torch.float32, 1000, (RAMP,))
    parts = dict(predicted(given.per_layer, torch.float32).of("decode").parts)
    free = 2 * TEXT.kv_width * 4 * (2 * 8 + 1000 + WORDS + 2)  # slots, and one layer twice
    assert parts["KV cache"] == given.kv_cache_bytes + free
    assert used > given.kv_cache_bytes
