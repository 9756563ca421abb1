"""What is prepared ahead of its question, in another thread: the same answer, the same account."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tokenreduce.cache.store import Cache
from tokenreduce.demo import clips
from tokenreduce.errors import InputError
from tokenreduce.events import Event, Started
from tokenreduce.models.base import Sampling, VideoModel
from tokenreduce.opening import Wanted
from tokenreduce.plan import Overrides
from tokenreduce.reducer import Reducer
from tokenreduce.room import Allowed
from tokenreduce.session import Session
from tokenreduce.turns import Turn, alone
from tokenreduce.video.decoder import Decoder

QUESTION, OTHER = "What colour is the star that appears briefly?", "How many stars appear?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    clips.write(path, clips.draw(7, 0)[0], 4, size=96)
    return path


@pytest.fixture
def wanted(clip: Path) -> Wanted:
    return Wanted(clip, "balanced", Overrides(frames=12), Sampling(8))


def _in_a_thread(session: Session) -> None:
    thread = threading.Thread(target=session.prepare)
    thread.start()
    thread.join()


def test_the_answer_and_who_pays_are_as_without(wanted: Wanted, demo: VideoModel) -> None:
    with Session(wanted, model=demo) as session:
        plain = [session.ask(QUESTION), session.ask(OTHER)]
    with Session(wanted, model=demo) as session:
        clock = [time.perf_counter()]
        _in_a_thread(session)
        session.prepare()  # again: nothing is left to do
        clock.append(time.perf_counter())
        time.sleep(0.5)
        clock.append(time.perf_counter())
        made = [session.ask(QUESTION)]
        clock.append(time.perf_counter())
        made.append(session.ask(OTHER))
    for one, other in zip(made, plain, strict=True):
        assert one.answer == other.answer
        assert one.tokens == other.tokens
        assert one.flops == other.flops
        assert one.frames == other.frames
    assert made[0].frames.source == "decoded"
    assert min(made[0].seconds.decode, made[0].seconds.encode) > 0
    spent = made[0].seconds
    assert spent.total >= spent.decode + spent.encode + spent.reduce + spent.prefill
    # What it waited for its question is nobody's time.
    assert spent.first_token <= spent.total <= clock[1] - clock[0] + clock[3] - clock[2]


def test_what_happens_is_told_to_who_watches_then(wanted: Wanted, demo: VideoModel) -> None:
    before: list[str] = []
    after: list[str] = []

    def into(parts: list[str]) -> object:
        def note(event: Event) -> None:
            if isinstance(event, Started):
                parts.append(event.part)

        return note

    with Session(wanted, model=demo) as session:
        session.prepare(into(before))  # type: ignore[arg-type]  # a watcher
        session.ask(QUESTION, watch=into(after))  # type: ignore[arg-type]  # a watcher
    assert before[0] == "probe"
    assert {"decode", "encode"} <= set(before)
    assert after == ["prefill", "answer"]


def test_it_waits_for_its_turn_at_the_model_and_nobody_pays_for_that(
    wanted: Wanted, demo: VideoModel
) -> None:
    """While another video is encoded this one is decoded, and goes no further."""
    turn, parts = threading.Lock(), list[str]()

    def note(event: Event) -> None:
        if isinstance(event, Started):
            parts.append(event.part)

    with Session(wanted, model=demo, turn=turn) as session:
        turn.acquire()
        thread = threading.Thread(target=session.prepare, args=(note,))
        thread.start()
        end = time.monotonic() + 30
        while "encode" not in parts:
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(1.0)
        assert session.viewed is None
        turn.release()
        thread.join()
        answer = session.ask(QUESTION)
        assert turn.acquire(blocking=False)
    assert answer.frames.source == "decoded"
    assert answer.seconds.encode + answer.seconds.decode < answer.seconds.total - 0.9
    with Session(wanted, model=demo) as session:
        assert session.ask(QUESTION).tokens == answer.tokens


def test_a_file_that_cannot_be_read_fails_when_it_is_prepared(
    tmp_path: Path, demo: VideoModel
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with Session(Wanted(tmp_path / "a.mp4"), model=demo) as session:
        for attempt in (session.prepare, lambda: session.ask(QUESTION)):
            with pytest.raises(InputError):
                attempt()


def test_a_lent_decoder_outlives_its_sessions(wanted: Wanted, demo: VideoModel) -> None:
    with Decoder() as decoder:
        children = set()
        for _ in range(2):
            with Session(wanted, model=demo, decoder=decoder) as session:
                session.prepare()
            children.add(decoder.pid)
        assert len(children) == 1
        assert None not in children


def test_a_loaded_model_with_a_name_uses_the_cache(
    wanted: Wanted, demo: VideoModel, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "cache")
    with Session(wanted, model="demo", cache=cache) as session:
        session.ask(QUESTION)
    for name, source in ((None, "decoded"), ("demo", "cache")):
        with Session(wanted, model=demo, named=name, cache=cache) as session:
            session.prepare()
            assert session.ask(QUESTION).frames.source == source


@pytest.mark.parametrize("beside", [False, True])
def test_what_is_prepared_beside_others_does_not_begin_their_peak_anew(
    wanted: Wanted, demo: VideoModel, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    begun: list[object] = []
    monkeypatch.setattr("tokenreduce.memory.reset_device_peak", begun.append)
    with Session(wanted, model=demo, turn=threading.Lock() if beside else None) as session:
        session.prepare()
        session.ask(QUESTION)
    assert begun == ([] if beside else [demo.device])


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "one.png"
    Image.new("RGB", (96, 96), (200, 30, 30)).save(path)
    return path


def _held_while(
    monkeypatch: pytest.MonkeyPatch, demo: VideoModel, wanted: Wanted, allowed: Allowed
) -> dict[str, bool]:
    """Whether a batch's turn was held during each of what takes much of a device."""
    turn, found = threading.Lock(), dict[str, bool]()

    def noted(place: str, name: str) -> None:
        does: Callable[..., object] = getattr(importlib.import_module(place), name)

        def noting(*given: Any, **named: Any) -> object:
            found[name] = turn.locked()
            return does(*given, **named)

        monkeypatch.setattr(f"{place}.{name}", noting)

    noted("tokenreduce.session", "asked")
    noted("tokenreduce.viewing", "look")
    noted("tokenreduce.viewing", "merge")
    finish = Reducer.finish

    def finishing(self: Reducer, *given: Any) -> object:
        found["finish"] = turn.locked()
        return finish(self, *given)

    monkeypatch.setattr(Reducer, "finish", finishing)
    with Session(wanted, model=demo, turn=turn, allowed=allowed) as session:
        session.prepare()
        assert session.ask(QUESTION).fitted.changed == ()
    assert not turn.locked()
    return found


ON_A_CARD = torch.device("cuda")
LIMITED = Allowed(vram=64 << 30)


@pytest.mark.parametrize(
    ("allowed", "device", "held"),
    [
        (LIMITED, ON_A_CARD, True),
        (Allowed(), ON_A_CARD, False),
        (LIMITED, torch.device("cpu"), False),
    ],
)
def test_where_memory_is_limited_nothing_large_is_on_a_card_beside_an_answer(
    wanted: Wanted,
    picture: Path,
    demo: VideoModel,
    monkeypatch: pytest.MonkeyPatch,
    allowed: Allowed,
    device: torch.device,
    held: bool,
) -> None:
    def on_device(turn: Turn | None, _: torch.device, *, limited: bool) -> Turn | None:
        return alone(turn, device, limited=limited)

    monkeypatch.setattr("tokenreduce.session.alone", on_device)
    assert _held_while(monkeypatch, demo, wanted, allowed) == {"finish": held, "asked": held}
    still = replace(wanted, path=picture, over=Overrides())
    found = _held_while(monkeypatch, demo, still, allowed)
    assert found == dict.fromkeys(("look", "merge", "finish", "asked"), held)


def test_a_batch_counts_what_it_prepares_beside(wanted: Wanted, demo: VideoModel) -> None:
    predicted = []
    for turn in (None, threading.Lock()):
        with Session(wanted, model=demo, turn=turn, allowed=LIMITED) as session:
            predicted.append(session.ask(QUESTION).fitted.predicted)
    single, batch = predicted
    assert single is not None
    assert batch is not None
    assert batch > single
