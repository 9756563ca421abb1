"""One worker's desk with sessions that do as a test says: what is prepared beside what, what
becomes of failures, and what is tried where memory does not suffice."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tokenreduce.batch import messages as m
from tokenreduce.batch.desk import Desk, Reporter, one_line
from tokenreduce.batch.jobs import Task, Wanted
from tokenreduce.batch.recipe import Recipe
from tokenreduce.batch.rows import SteppedDown
from tokenreduce.cache.digest import of_file
from tokenreduce.errors import CapacityError, InputError
from tokenreduce.events import Advanced, Started, Warned
from tokenreduce.models.base import Sampling
from tokenreduce.models.locate import read_spec
from tokenreduce.plan import Overrides, Plan, settle
from tokenreduce.preset import load_preset
from tokenreduce.turns import AHEAD


@dataclass
class Says:
    """What sessions do, by file's name; and what was done, in order."""

    does: dict[str, Callable[[Any], str]] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    hold: dict[str, threading.Event] = field(default_factory=dict)

    def note(self, what: str, name: str) -> None:
        with self.lock:
            self.log.append((what, name))


@dataclass
class FakeSession:
    says: Says
    path: str
    over: Overrides
    decoder: Any
    many: bool

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def plan(self) -> Any:
        return self.planned(self.over)

    def planned(self, over: Overrides) -> Any:
        return settle(load_preset("balanced"), read_spec("demo"), over, Sampling())

    def prepare(self, watch: Any) -> None:
        watch(Started("decode", 2))
        if event := self.says.hold.get(self.name):
            assert event.wait(20)
        self.says.note("prepared", self.name)

    def ask(self, question: str, watch: Any) -> Any:
        watch(Started("prefill"))
        self.says.note("asked", self.name)
        answer = self.says.does.get(self.name, lambda _: "yes")(self)
        return SimpleNamespace(to_json=lambda: {"question": question, "answer": answer})

    def close(self) -> None:
        self.says.note("closed", self.name)


@dataclass
class FakeRecipe:
    says: Says
    over: Overrides = field(default_factory=Overrides)

    def session(
        self, path: str, model: Any, decoder: Any, over: Overrides, *, many: bool, turn: Any
    ) -> Any:
        assert hasattr(turn, "acquire")
        return FakeSession(self.says, path, over, decoder, many)


@dataclass
class Inbox:
    tasks: deque[Task]
    stopping: bool = False

    def get(self, *, block: bool) -> Task | None:
        return self.tasks.popleft() if self.tasks else None


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder, self.says, self.told = folder, Says(), list[m.Message]()
        self.decoders: list[Any] = []

    def task(self, number: int, *questions: str, alone: bool = False) -> Task:
        path = self.folder / f"{number}.mp4"
        path.write_bytes(f"content {number}".encode())
        digest = of_file(path)
        assert digest is not None
        wanted = tuple(Wanted(f"{number}{q}", f"{number}{q}", q) for q in questions or ("Q?",))
        return Task(number, str(path), digest, wanted, alone)

    def work(self, *tasks: Task, over: Overrides | None = None, told: Any = None) -> Inbox:
        inbox = Inbox(deque(tasks))
        recipe = cast(Recipe, FakeRecipe(self.says, over or Overrides()))
        model = cast(Any, SimpleNamespace(device=torch.device("cpu")))

        def decoder() -> Any:
            self.decoders.append(SimpleNamespace(closed=False))
            made = self.decoders[-1]
            made.close = lambda: setattr(made, "closed", True)
            return made

        def tell(message: m.Message) -> None:
            self.told.append(message)
            if told is not None:
                told(message, inbox)

        with Desk(recipe, model, "w", inbox, tell, decoder) as desk:
            desk.work()
        assert [one.closed for one in self.decoders] == [True] * (AHEAD + 1)
        return inbox

    @property
    def replies(self) -> list[m.Replied]:
        return [one for one in self.told if isinstance(one, m.Replied)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_all_is_told_in_order(bench: Bench) -> None:
    bench.work(bench.task(1, "Q?", "R?"), bench.task(2), bench.task(3))
    assert [one.id for one in bench.replies] == ["1Q?", "1R?", "2Q?", "3Q?"]
    assert all(one.answer and one.answer["answer"] == "yes" for one in bench.replies)
    assert [one.task for one in bench.told if isinstance(one, m.Done)] == [1, 2, 3]
    assert [name for what, name in bench.says.log if what == "closed"] == [
        "1.mp4",
        "2.mp4",
        "3.mp4",
    ]
    order = [one for one in bench.told if isinstance(one, m.Working) and one.task == 1]
    assert [one.part for one in order] == ["decode", "prefill", "prefill"]


def test_each_row_s_peak_begins_where_the_last_row_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begins(_: torch.device) -> None:
        assert threading.current_thread() is threading.main_thread()
        bench.says.note("peak begins", "")

    monkeypatch.setattr("tokenreduce.memory.reset_device_peak", begins)
    bench.work(bench.task(1, "Q?", "R?"), bench.task(2))
    told = [what for what, _ in bench.says.log if what in ("peak begins", "asked")]
    assert told == ["peak begins", *["asked", "peak begins"] * 3]
    log = bench.says.log
    assert log.index(("peak begins", "")) < log.index(("prepared", "1.mp4"))


def test_the_next_is_prepared_while_this_one_is_answered(bench: Bench) -> None:
    prepared = threading.Event()
    bench.says.hold["2.mp4"] = prepared

    def first(session: FakeSession) -> str:
        prepared.set()  # only now can the second be ready: it must be on its way already
        return "yes"

    bench.says.does["1.mp4"] = first
    bench.work(bench.task(1), bench.task(2))
    assert [one.id for one in bench.replies] == ["1Q?", "2Q?"]
    assert prepared.is_set()


def test_while_one_is_encoded_another_is_decoded(bench: Bench) -> None:
    """Both of the next two are on their way while the first is asked about, and while one waits."""
    begun = threading.Event()
    bench.says.hold["2.mp4"] = begun

    def first(session: FakeSession) -> str:
        end = time.monotonic() + 20
        while ("prepared", "3.mp4") not in bench.says.log:
            assert time.monotonic() < end
            time.sleep(0.01)
        begun.set()
        return "yes"

    bench.says.does["1.mp4"] = first
    bench.work(bench.task(1), bench.task(2), bench.task(3), bench.task(4))
    assert [one.id for one in bench.replies] == ["1Q?", "2Q?", "3Q?", "4Q?"]


def test_files_in_hand_never_share_a_decoder(bench: Bench) -> None:
    used: dict[str, Any] = {}

    def note(session: FakeSession) -> str:
        used[session.name] = session.decoder
        return "yes"

    bench.says.does = {f"{n}.mp4": note for n in range(1, 8)}
    bench.work(*(bench.task(n) for n in range(1, 8)))
    for n in range(1, 5):
        assert len({id(used[f"{m}.mp4"]) for m in range(n, n + AHEAD + 1)}) == AHEAD + 1
        assert used[f"{n}.mp4"] is used[f"{n + AHEAD + 1}.mp4"]


@pytest.mark.parametrize("which", [1, 2])
def test_what_must_be_alone_is(bench: Bench, which: int) -> None:
    bench.work(bench.task(1, alone=which == 1), bench.task(2, alone=which == 2), bench.task(3))
    log = bench.says.log
    assert log.index(("prepared", "2.mp4")) > log.index(("closed", "1.mp4"))
    if which == 2:
        assert log.index(("prepared", "3.mp4")) > log.index(("closed", "2.mp4"))


def test_a_failure_is_one_row_and_a_bug_keeps_its_traceback(bench: Bench) -> None:
    def bad(session: FakeSession) -> str:
        raise InputError("is no\nvideo")

    def bug(session: FakeSession) -> str:
        raise ZeroDivisionError("by zero")

    bench.says.does = {"1.mp4": bad, "2.mp4": bug}
    bench.work(bench.task(1), bench.task(2), bench.task(3))
    first, second, third = bench.replies
    assert first.failure is not None
    assert (first.failure.kind, first.failure.reason, first.trace) == (
        "InputError",
        "is no video",
        None,
    )
    assert not first.unread
    assert second.failure is not None
    assert second.failure.kind == "ZeroDivisionError"
    assert "def bug" not in (second.trace or "")
    assert 'raise ZeroDivisionError("by zero")' in (second.trace or "")
    assert third.failure is None


def test_an_answer_that_json_cannot_say_is_a_failure(bench: Bench) -> None:
    bench.says.does["1.mp4"] = lambda _: cast(str, float("nan"))
    bench.work(bench.task(1), bench.task(2))
    failure = bench.replies[0].failure
    assert failure is not None
    assert failure.kind == "ValueError"
    assert bench.replies[0].answer is None
    assert bench.replies[1].failure is None


def test_a_file_that_changed_meanwhile_is_not_answered(bench: Bench) -> None:
    task = bench.task(1)
    Path(task.path).write_bytes(b"something else, longer")
    bench.work(task, bench.task(2))
    failure = bench.replies[0].failure
    assert failure is not None
    assert "changed while it was read" in failure.reason
    assert [one.unread for one in bench.replies] == [True, False]
    assert ("asked", "1.mp4") not in bench.says.log
    assert bench.replies[1].failure is None


def test_where_memory_does_not_suffice_it_is_tried_alone_then_halved_once(bench: Bench) -> None:
    seen: list[Overrides] = []

    def short(session: FakeSession) -> str:
        seen.append(session.over)
        if len(seen) < 3:
            raise CapacityError("too little")
        return "at last"

    bench.says.does["1.mp4"] = short
    bench.work(bench.task(1, "Q?", "R?"), bench.task(2), over=Overrides(frames=12, budget=100))
    assert [(over.frames, over.budget) for over in seen] == [(12, 100), (12, 100), (6, 50), (6, 50)]
    first, second = bench.replies[:2]
    assert first.stepped_down == second.stepped_down == SteppedDown(6, 50)
    assert first.answer == {"question": "Q?", "answer": "at last"}
    assert bench.replies[2].stepped_down is None


def test_half_of_what_was_made_to_fit_is_tried_not_half_of_what_was_given(bench: Bench) -> None:
    seen: list[Overrides] = []

    def short(session: FakeSession) -> str:
        seen.append(session.over)
        if len(seen) < 3:
            session.over = Overrides(frames=4, budget=30)  # as --fit does, when it opens the file
            raise CapacityError("too little")
        return "at last"

    bench.says.does["1.mp4"] = short
    bench.work(bench.task(1, "Q?"), over=Overrides(frames=12, budget=100))
    assert [(over.frames, over.budget) for over in seen] == [(12, 100), (12, 100), (2, 15)]
    assert bench.replies[0].stepped_down == SteppedDown(2, 15)


def test_halved_once_and_no_more(bench: Bench) -> None:
    calls: list[int] = []

    def short(session: FakeSession) -> str:
        calls.append(1)
        raise CapacityError("too little")

    bench.says.does["1.mp4"] = short
    bench.work(bench.task(1, "Q?", "R?"))
    assert len(calls) == 4  # three for the first question; the second knows better
    for reply in bench.replies:
        assert reply.failure is not None
        assert reply.failure.kind == "CapacityError"
        assert reply.stepped_down == SteppedDown(16, 168)  # of 32 frames, a quarter kept


def test_a_device_that_is_of_no_use_any_more_ends_the_worker(bench: Bench) -> None:
    def broken(session: FakeSession) -> str:
        raise RuntimeError("CUDA error: device-side assert triggered")

    bench.says.does["1.mp4"] = broken
    with pytest.raises(RuntimeError, match="device-side"):
        bench.work(bench.task(1), bench.task(2))
    assert bench.replies == []


def test_told_to_stop_it_finishes_the_row_in_hand(bench: Bench) -> None:
    def stop(message: m.Message, inbox: Inbox) -> None:
        inbox.stopping = inbox.stopping or isinstance(message, m.Replied)

    bench.work(bench.task(1, "Q?", "R?"), bench.task(2), told=stop)
    assert [one.id for one in bench.replies] == ["1Q?"]
    assert not any(isinstance(one, m.Done) for one in bench.told)


def test_signs_of_life_are_few_and_warnings_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("tokenreduce.batch.desk.time.monotonic", lambda: now[0])
    told: list[m.Message] = []
    report = Reporter("w", 3, told.append)
    report(Started("decode", 64))
    for done in range(1, 11):
        now[0] += 0.1
        report(Advanced("decode", done))
    report(Warned("ends early"))
    assert told == [
        m.Working("w", 3, "decode", 0, 64),
        m.Working("w", 3, "decode", 3, 64),
        m.Working("w", 3, "decode", 6, 64),
        m.Working("w", 3, "decode", 9, 64),
        m.Warning("w", 3, "ends early"),
    ]


def test_a_message_is_one_line() -> None:
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 10_000))) == 500


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (Overrides(), {"frames": 16, "budget": 168}),
        (Overrides(frames=1), {"frames": 1, "budget": 5}),
        (Overrides(keep=Fraction(1, 2), frames=10), {"frames": 5, "budget": 105, "keep": None}),
        (Overrides(fps=1.0), {"max_frames": 16, "fps": 1.0, "frames": None}),
        (Overrides(mean_budget=100), {"frames": 16, "mean_budget": 50, "budget": None}),
        (Overrides(method="fastv", mean_budget=300), {"mean_budget": 150, "budget": None}),
    ],
)
def test_half_of_everything(given: Overrides, made: dict[str, Any]) -> None:
    from tokenreduce.batch.stepping import smaller

    spec = read_spec("demo")

    def planned(over: Overrides) -> Plan:
        return settle(load_preset("balanced"), spec, over, Sampling())

    plan = planned(given)
    less = smaller(given, planned)
    assert less is not None
    over, step = less
    assert {name: getattr(over, name) for name in made} == made
    again = settle(load_preset("balanced"), spec, over, Sampling())  # it is possible
    assert again.frames == step.frames == max(1, plan.frames // 2)
