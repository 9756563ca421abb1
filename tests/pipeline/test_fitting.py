"""A run made to fit: what is lowered, in which order, what is said, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tokenreduce.bytesizes import shown
from tokenreduce.cache.store import Cache
from tokenreduce.demo import clips
from tokenreduce.errors import CapacityError, InputError, SettingError
from tokenreduce.events import Event, Started, Warned
from tokenreduce.fitting import SHARE, fitted
from tokenreduce.footprint import DRIVER_BYTES
from tokenreduce.lowering import Knobs, halved
from tokenreduce.models.base import Sampling, VideoModel
from tokenreduce.models.batched import InBatches, batch_size, in_batches
from tokenreduce.models.builtin import builtin
from tokenreduce.models.placement import Placement
from tokenreduce.models.spec import ModelSpec
from tokenreduce.opening import Wanted
from tokenreduce.pipeline import answer
from tokenreduce.plan import Overrides, Plan, of_video, settle
from tokenreduce.preset import load_preset
from tokenreduce.result import Answer
from tokenreduce.room import LATER_BYTES, NO_LIMIT, Allowed, Room, room_on, unlimited
from tokenreduce.seen import Evidence, Need
from tokenreduce.session import Session
from tokenreduce.sizing import Asked, entering, text_estimate

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def known(alias: str) -> ModelSpec:
    spec = builtin(alias)
    assert spec is not None
    return spec


def asked(preset: str = "aim", quantize: Any = "nf4", alias: str = "llava-video-7b") -> Asked:
    """A model in half precision and a video of ten minutes at 30 frames a second."""
    spec, read = known(alias), load_preset(preset)

    def planned(over: Overrides) -> Plan:
        return of_video(settle(read, spec, over, Sampling()), spec, 600.0, 30.0, "a.mp4")

    where = Placement(CPU, torch.bfloat16, quantize)
    return Asked(spec, where, planned, lambda plan: text_estimate(spec, plan, 600.0))


def room(gib: float) -> Room:
    return Room(int(gib * 2**30), f"{gib} GiB")


def test_what_fits_stays_as_it_is() -> None:
    over = Overrides(frames=64)
    fit = fitted(asked(), over, room(24), lower=True)
    assert (fit.over, fit.changed) == (over, ())


def test_the_budget_goes_first_and_no_further_than_needed() -> None:
    this, over = asked(), Overrides(frames=256)
    whole = this.takes(this.planned(over), 4)
    limit = Room(int(whole.peak_bytes * 0.97), "less")
    fit = fitted(this, over, limit, lower=True)
    assert fit.over.frames == 256
    assert fit.over.budget is not None
    before, after = entering(this.planned(over)), entering(this.planned(fit.over))
    assert before / SHARE <= after < before
    assert fit.changed == (f"a budget of {before:,} visual tokens -> {after:,}",)
    more = this.takes(this.planned(replace(over, budget=after + 1)), fit.batch)
    assert limit.holds(fit.found)
    assert not limit.holds(more)


def test_then_frames_go_and_the_budget_keeps_to_its_floor() -> None:
    this, over = asked(quantize="none"), Overrides(frames=512)
    bare = this.takes(this.planned(Overrides(frames=1)), 1)
    limit = Room(bare.peak_bytes + (700 << 20), "little")
    fit = fitted(this, over, limit, lower=True)
    plan = this.planned(fit.over)
    assert fit.over.frames is not None
    assert 1 <= fit.over.frames < 512
    assert entering(plan) >= entering(this.planned(over)) * plan.frames // 512 // SHARE
    assert limit.holds(fit.found)
    assert [part.split()[1] for part in fit.changed if "frames ->" in part] == ["frames"]


def test_an_unreduced_model_can_only_look_at_fewer_frames() -> None:
    this, over = asked("none"), Overrides(frames=128)
    whole = this.takes(this.planned(over), 4)
    limit = Room(whole.peak_bytes * 9 // 10, "less")
    fit = fitted(this, over, limit, lower=True)
    assert (fit.over.budget, fit.over.keep) == (None, None)
    assert 1 <= (fit.over.frames or 0) < 128


def test_a_mean_budget_stays_one_and_a_rate_is_capped() -> None:
    this, over = asked(quantize="none"), Overrides(fps=1, mean_budget=12_000)
    bare = this.takes(this.planned(Overrides(frames=1)), 1)
    fit = fitted(this, over, Room(bare.peak_bytes + (600 << 20), "little"), lower=True)
    assert fit.over.mean_budget is not None
    assert fit.over.mean_budget < 12_000
    assert (fit.over.budget, fit.over.fps, fit.over.frames) == (None, 1, None)
    assert fit.over.max_frames is not None


def test_smaller_batches_come_before_everything_and_change_no_setting() -> None:
    this, over = asked("fast", "none", "llava-onevision-0.5b"), Overrides(frames=8)
    narrow, usual = (this.takes(this.planned(over), batch) for batch in (1, 4))
    assert usual.fullest.name == "encode"
    between = Room(int((narrow.peak_bytes + usual.peak_bytes) / 2 * 1.03), "between")
    fit = fitted(this, over, between, lower=False)
    assert (fit.over, fit.batch) == (over, 2)
    assert fit.changed == ("4 frames a batch in the tower -> 2",)


def test_without_leave_it_is_refused_with_what_would_fit() -> None:
    this, over = asked(), Overrides(frames=256)
    whole = this.takes(this.planned(over), 4)
    limit = Room(int(whole.peak_bytes * 0.95), "that much")
    with pytest.raises(CapacityError) as told:
        fitted(this, over, limit, lower=False)
    message = str(told.value)
    assert message.startswith("256 frames and 13,440 visual tokens take about ")
    assert "that much can be used: --budget " in message
    budget = int(message.split("--budget ")[1].split(maxsplit=1)[0])
    frames = int(message.split("--frames ")[1].split(maxsplit=1)[0])
    assert limit.holds(this.takes(this.planned(replace(over, budget=budget)), 4))
    assert limit.holds(this.takes(this.planned(replace(over, frames=frames)), 4))
    assert not limit.holds(this.takes(this.planned(replace(over, frames=frames + 1)), 4))


@pytest.mark.parametrize("lower", [True, False])
def test_where_nothing_fits_the_weights_are_named(lower: bool) -> None:
    with pytest.raises(CapacityError, match=r"weights alone take 15\.0 GiB; use --quantize nf4"):
        fitted(asked(quantize="none"), Overrides(), room(8), lower=lower)
    for quantize in ("nf4", "none"):  # which would not do either
        with pytest.raises(CapacityError, match="; use a smaller --model or a larger device"):
            fitted(asked(quantize=quantize), Overrides(), room(4), lower=lower)
    with pytest.raises(CapacityError, match=r"beside 5\.9 GiB of weights nothing smaller fits"):
        fitted(asked(), Overrides(), room(6), lower=lower)


def test_halves() -> None:
    this, over = asked(), Overrides(frames=10)
    plan = this.plan(over)
    half = halved(over, this.plan)
    assert half is not None
    assert (half.over.frames, half.over.budget) == (5, entering(plan) // 2)
    assert (half.plan.frames, entering(half.plan)) == (5, entering(plan) // 2)
    assert Knobs(over, plan).halves(this.plan) == (f"--budget {entering(plan) // 2}", "--frames 5")


@pytest.mark.parametrize(
    ("preset", "over", "flags"),
    [
        ("balanced", Overrides(fps=1.0), ("--budget", "--max-frames")),
        ("none", Overrides(frames=32), ("--frames",)),
        ("balanced", Overrides(frames=32, mean_budget=900), ("--mean-budget", "--frames")),
        ("balanced", Overrides(frames=32, method="fastv"), ("--frames",)),
        ("balanced", Overrides(frames=32, method="fewer-frames"), ("--budget",)),
        (
            "balanced",
            Overrides(frames=32, method="fewer-frames", mean_budget=900),
            ("--mean-budget",),
        ),
    ],
)
def test_what_is_advised_can_be_given(preset: str, over: Overrides, flags: tuple[str, ...]) -> None:
    this = asked(preset)
    plan = this.plan(over)
    told = Knobs(over, plan).halves(this.plan)
    assert tuple(one.split()[0] for one in told) == flags
    for one in told:
        flag, count = one.split()
        name = flag.removeprefix("--").replace("-", "_")
        setting: dict[str, Any] = {name: int(count)}
        then = this.plan(replace(over, **setting))
        assert then.frames < plan.frames or entering(then) < entering(plan) or "mean" in flag
    half = halved(over, this.plan)
    assert half is not None
    assert half.plan.frames == plan.frames // 2
    assert entering(half.plan) < entering(plan)


def test_what_would_change_nothing_is_not_advised() -> None:
    this, over = asked("none"), Overrides()
    one = replace(over, frames=1)
    assert Knobs(one, this.plan(one)).halves(this.plan) == ()
    mean = Overrides(frames=4, mean_budget=50_000)  # more than there are
    plan = this.plan(mean)
    assert Knobs(mean, plan).tokens == entering(plan)
    half = halved(mean, this.plan)
    assert half is not None
    assert half.over.mean_budget == entering(plan) // 2
    kept = Overrides(frames=4, keep=0.5)
    tokens, frames = Knobs(kept, asked().plan(kept)).halves(asked().plan)
    assert tokens.endswith(" (instead of --keep)")
    assert frames == "--frames 2"


def test_a_lower_mean_budget_is_told() -> None:
    this, over = asked(), Overrides(frames=256, mean_budget=9000)
    whole = this.takes(this.plan(over), 4)
    fit = fitted(this, over, Room(int(whole.peak_bytes * 0.97), "less"), lower=True)
    assert fit.over.mean_budget is not None
    assert f"a mean budget of 9,000 -> {fit.over.mean_budget:,}" in fit.changed


def test_half_a_frame_cannot_be_asked_for() -> None:
    this, over = asked(), Overrides(method="fewer-frames", budget=300)
    assert this.plan(over).frames == 1
    assert halved(over, this.plan) is None
    assert Knobs(over, this.plan(over)).halves(this.plan) == ()


@pytest.mark.parametrize("given", ["fastv", "fewer-frames", "sparsevlm"])
def test_a_smallest_setting_that_cannot_be_is_no_end_of_the_search(given: str) -> None:
    """Of a mean budget or of whole frames, few tokens are not possible, and more would fit."""
    mean = None if given == "fewer-frames" else 6000
    this, over = asked(), Overrides(frames=64, method=given, mean_budget=mean)
    bare = this.takes(this.plan(Overrides(frames=1, method="fewer-frames", budget=300)), 1)
    whole = this.takes(this.plan(over), 4)
    for share in (0.9, 0.2):
        limit = Room(
            int(bare.peak_bytes * 1.04 + share * (whole.peak_bytes - bare.peak_bytes)), "it"
        )
        fit = fitted(this, over, limit, lower=True)
        assert limit.holds(this.takes(this.plan(fit.over), fit.batch))
        assert fit.changed
        with pytest.raises(
            CapacityError, match=r"it can be used: --.* fits; --fit chooses"
        ) as told:
            fitted(this, over, limit, lower=False)
        offered = re.findall(r"--(budget|mean-budget|frames) (\d+)", str(told.value))
        assert offered
        for name, count in offered:
            setting: dict[str, Any] = {name.replace("-", "_"): int(count)}
            made = replace(over, **setting)
            assert limit.holds(this.takes(this.plan(made), fit.batch))


class Card:
    """What torch.cuda says of a card of `total` bytes with `free` left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, total: int) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, total))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 100)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Toy 3060")


def test_a_card_s_room(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, free=9 << 30, total=12 << 30)
    cuda = torch.device("cuda", 0)
    assert room_on(cuda, NO_LIMIT) is None
    free = room_on(cuda, Allowed("auto"))
    assert free == room_on(cuda, Allowed(None, fit=True))
    # Kernels that are loaded later take memory that is free now.
    left = (9 << 30) + 100 - LATER_BYTES
    assert free == Room(left, "8.8 GiB of the 9.0 GiB free on cuda:0")
    # Of a size of one's own the driver takes its share; never more than is free.
    own = room_on(cuda, Allowed(8 << 30))
    assert own == Room((8 << 30) - DRIVER_BYTES, "7.5 GiB of 8.0 GiB, the rest being the driver's,")
    less = room_on(cuda, Allowed(12 << 30))
    assert less == Room(left, "8.8 GiB of the 9.0 GiB free on cuda:0 (not all of 12.0 GiB)")
    with pytest.raises(CapacityError, match=r"16.0 GiB: cuda:0 \(Toy 3060\) has 12.0 GiB; give at"):
        room_on(cuda, Allowed(16 << 30))


def test_a_limit_that_is_not_known_is_told() -> None:
    cuda = torch.device("cuda", 0)
    for allowed in (NO_LIMIT, Allowed(1 << 30), Allowed(1 << 30, fit=True)):
        assert unlimited(CPU, allowed) is None
    for allowed, flag in ((Allowed("auto"), "--vram auto: "), (Allowed(fit=True), "--fit: ")):
        assert unlimited(cuda, allowed) is None
        told = unlimited(CPU, allowed)
        assert told is not None
        assert told.startswith(flag)


def test_without_a_card_a_size_stands_for_one() -> None:
    assert room_on(CPU, Allowed("auto", fit=True)) is None
    assert room_on(CPU, Allowed(5 * MIB)) == Room(5 * MIB, "5 MiB")


def test_the_prompt_s_text_is_estimated_by_its_characters() -> None:
    plan = asked().planned(Overrides(frames=64))
    spec = known("llava-video-7b")
    stamps = text_estimate(spec, plan, 60.0) - text_estimate(
        spec, replace(plan, time_text=False), 60.0
    )
    assert stamps == sum(len(f"{i * 60 / 64:.2f}s,") for i in range(64))
    assert (
        text_estimate(spec, plan, 60.0, "x" * 30, "y" * 60) == text_estimate(spec, plan, 60.0) + 30
    )


def test_smaller_batches_give_the_same_features(demo: VideoModel) -> None:
    side = demo.spec.vision.image_size
    frames = torch.randint(0, 255, (7, side, side, 3), dtype=torch.uint8)
    narrow = in_batches(demo, 3)
    assert isinstance(narrow, InBatches)
    assert (batch_size(narrow), batch_size(demo)) == (3, 4)
    torch.testing.assert_close(narrow.encode(frames), demo.encode(frames), rtol=1e-4, atol=1e-4)
    assert in_batches(demo, 4) is demo
    assert in_batches(demo, None) is demo


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    scene, _, _ = clips.draw(7, 0)
    clips.write(folder / "clip.mp4", scene, 4, size=96)
    return folder / "clip.mp4"


@dataclass
class Small:
    """The demo model on a device whose memory fails `failures` times while frames are encoded."""

    model: VideoModel
    failures: int
    looked: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def look(self, frames: Tensor, needs: frozenset[Need]) -> tuple[Tensor, Evidence]:
        self.looked += 1
        if self.failures:
            self.failures -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model.look(frames, needs)


def ask(model: Any, clip: Path, **given: Any) -> tuple[Any, list[str]]:
    told: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Warned):
            told.append(event.message)

    found = answer(
        clip,
        "What colour is the star?",
        model=model,
        frames=16,
        max_new_tokens=2,
        watch=watch,
        **given,
    )
    return found, told


def test_what_is_made_to_fit_is_probed_once(demo: VideoModel, clip: Path) -> None:
    parts: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Started):
            parts.append(event.part)

    limit = ask(demo, clip, vram=1)[0].fitted.predicted * 99 // 100
    size = f"{limit / MIB:.3f}MiB"
    made = answer(clip, "Which?", model=demo, frames=16, vram=size, fit=True, watch=watch)
    assert made.fitted.changed
    assert parts.count("probe") == 1


def test_an_answer_says_what_was_changed(demo: VideoModel, clip: Path) -> None:
    free, quiet = ask(demo, clip)
    assert free.fitted.limit is None
    assert free.fitted.changed == ()
    assert not any("made to fit" in message for message in quiet)
    roomy, _ = ask(demo, clip, vram=1)
    assert roomy.fitted.limit == 2**30
    assert roomy.fitted.changed == ()
    assert (roomy.answer, roomy.tokens) == (free.answer, free.tokens)
    limit = roomy.fitted.predicted * 99 // 100
    size = f"{limit / MIB:.3f}MiB"
    made, told = ask(demo, clip, vram=size, fit=True)
    assert made.fitted.changed
    assert f"made to fit: {'; '.join(made.fitted.changed)}" in told
    assert made.fitted.predicted <= limit
    assert made.tokens.merged < free.tokens.merged or made.frames.requested < 16
    with pytest.raises(CapacityError, match="--fit chooses"):
        ask(demo, clip, vram=size)


def test_out_of_memory_steps_down_once_where_that_is_allowed(demo: VideoModel, clip: Path) -> None:
    free, _ = ask(demo, clip)
    found, told = ask(Small(demo, 1), clip, fit=True)
    assert found.frames.requested == 8
    assert found.tokens.merged == free.tokens.budget // 2
    half = f"memory did not suffice: 8 frames, {free.tokens.budget // 2:,} visual tokens"
    assert found.fitted.changed == (half,)
    assert f"made to fit: {half}" in told
    assert found.frames.batch == 2
    spent = r"8 frames and 8\d visual tokens: set --budget 4\d or --frames 4, or .*larger device$"
    with pytest.raises(CapacityError, match=spent):
        ask(Small(demo, 2), clip, fit=True)


def test_out_of_memory_says_what_would_fit_where_it_is_not(demo: VideoModel, clip: Path) -> None:
    small = Small(demo, 1)
    with pytest.raises(
        CapacityError, match="--frames 8, or use --quantize nf4, or let --fit choose"
    ):
        ask(small, clip)
    assert small.looked == 1


def test_a_session_goes_back_to_what_was_given_when_it_is_changed(
    demo: VideoModel, clip: Path
) -> None:
    roomy, _ = ask(demo, clip, vram=1)
    limit = Allowed(roomy.fitted.predicted * 99 // 100, fit=True)
    wanted = Wanted(clip, over=Overrides(frames=16))
    with Session(wanted, model=demo, allowed=limit) as session:
        first = session.ask("What colour is the star?")
        assert first.fitted.changed
        session.change(over=Overrides(frames=4))
        second = session.ask("What colour is the star?")
    assert second.frames.requested == 4
    assert second.fitted.changed == ()
    assert shown(first.fitted.limit or 0).endswith("MiB")


def test_after_a_step_down_other_settings_are_new(demo: VideoModel, clip: Path) -> None:
    """Neither told as stepped down nor kept to its batch; and they may step down themselves."""
    small = Small(demo, 1)
    wanted = Wanted(clip, over=Overrides(frames=16))
    with Session(wanted, model=cast(VideoModel, small), allowed=Allowed(fit=True)) as session:
        first = session.ask("What colour is the star?")
        assert (first.frames.requested, first.frames.batch) == (8, 2)
        session.change(preset="fast")
        second = session.ask("What colour is the star?")
        assert (second.frames.requested, second.frames.batch) == (16, 4)
        assert second.fitted.changed == ()
        session.change(over=Overrides(frames=12))
        small.failures = 1
        third = session.ask("What colour is the star?")
    assert (third.frames.requested, third.frames.batch) == (6, 2)
    assert len(third.fitted.changed) == 1


def test_a_limit_that_is_not_known_is_told_once(demo: VideoModel, clip: Path) -> None:
    told: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Warned):
            told.append(event.message)

    wanted = Wanted(clip, over=Overrides(frames=4, start=100))
    with Session(wanted, model=demo, allowed=Allowed(fit=True), watch=watch) as session:
        for _ in range(2):
            with pytest.raises((InputError, SettingError)):
                session.ask("What?")
    assert len(told) == 1
    assert told[0].startswith("--fit: nothing limits the memory")


def test_weights_that_do_not_fit_are_no_matter_of_the_video(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        try:
            raise torch.OutOfMemoryError("out of memory")
        except torch.OutOfMemoryError as error:
            raise CapacityError("the weights are too much") from error

    monkeypatch.setattr("tokenreduce.occupant.load", full)
    with Session(Wanted(clip), model="demo", allowed=Allowed(fit=True)) as session:
        with pytest.raises(CapacityError, match=r"^the weights are too much$"):
            session.ask("What?")
        assert session.fitted.changed == ()


def test_what_is_made_to_fit_is_kept_where_it_is_looked_for(
    demo: VideoModel, clip: Path, tmp_path: Path
) -> None:
    """The same settings, asked for or arrived at, share the cache."""
    roomy, _ = ask(demo, clip, vram=1)
    limit = Allowed(roomy.fitted.predicted * 99 // 100, fit=True)
    cache = Cache(tmp_path)

    def first_of(wanted: Wanted, allowed: Allowed) -> tuple[Answer, Overrides]:
        with Session(wanted, model="demo", cache=cache, allowed=allowed) as session:
            return session.ask("What colour is the star?"), session.over

    made, over = first_of(Wanted(clip, over=Overrides(frames=16)), limit)
    assert made.fitted.changed
    again, _ = first_of(Wanted(clip, over=over), NO_LIMIT)
    assert (made.frames.source, again.frames.source) == ("decoded", "cache")


def test_where_half_cannot_be_it_is_refused_with_what_is_left(demo: VideoModel, clip: Path) -> None:
    """One whole frame is the least there is; it is no mistake of who asks."""
    with pytest.raises(
        CapacityError, match=r"1 frame and 42 visual tokens: use --quantize nf4, or"
    ):
        ask(Small(demo, 1), clip, fit=True, method="fewer-frames", budget=50)


def test_attention_that_is_written_out_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a card before 8.0 in bfloat16: two float32 copies of 28 x n x n."""
    this = asked()
    plan = this.planned(Overrides(frames=64))
    usual = this.takes(plan, 4)
    monkeypatch.setattr("tokenreduce.sizing.writes_attention", lambda *_: True)
    told = this.takes(plan, 4)
    length = plan.budget_for(plan.raw)
    assert dict(told.fullest.parts)["attention"] > 2 * 4 * 28 * length**2
    assert told.peak_bytes > usual.peak_bytes
    assert "attention" not in {name for stage in usual.stages for name, _ in stage.parts}
