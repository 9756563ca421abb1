"""The actors' lives, and a driver over them, with a Ray that is made up."""

from __future__ import annotations

import os
import runpy
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenreduce.batch import messages as m
from tokenreduce.batch.driver import Driver
from tokenreduce.batch.exporting import Projection
from tokenreduce.batch.feeding import Feed
from tokenreduce.batch.jobs import Asked, Job, Task, Wanted
from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.owing import Owing
from tokenreduce.batch.ray_crew import PLACE_SECONDS, Crew, how
from tokenreduce.batch.ray_orders import Slot, Terms
from tokenreduce.batch.rows import Row
from tokenreduce.cache.digest import Digest, FileState
from tokenreduce.errors import CapacityError, SettingError

FakeRay = runpy.run_path(str(Path(__file__).with_name("fake_ray.py")))["FakeRay"]
TERMS = Terms(b"", "1", None, {}, None)
DIGEST = "77" * 32
ONE = "10.0.0.1/cuda:0"
TWO = "10.0.0.2/cuda:0"


def slot(name: str) -> Slot:
    ip = name.split("/", maxsplit=1)[0]
    return Slot(name, f"node of {ip}", ip, "cuda", 1.0, 1.0, 4)


def task(number: int, file: str = "1.mp4") -> Task:
    digest = Digest(DIGEST, FileState(1, 2, 3, 4, 5), memoised=False, fresh=False)
    return Task(number, file, digest, (Wanted(f"row {number}", "key", "Q?"),))


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def crew_of(ray: Any, *names: str, clock: Clock | None = None) -> Crew:
    clock = clock or Clock()
    return Crew(ray, [slot(name) for name in names], TERMS, clock, clock.sleep)


def heard(crew: Crew) -> list[m.Message]:
    found = []
    while (message := crew.next(0.0)) is not None:
        found.append(message)
    return found


def test_an_actor_in_each_slot_that_ray_never_restarts() -> None:
    ray = FakeRay()
    crew = crew_of(ray, ONE, TWO)
    assert crew.workers == (ONE, TWO)
    assert crew.gpus == 2
    assert ray.actors == []
    for worker in crew.workers:
        crew.start(worker)
    assert [actor.slot.name for actor in ray.actors] == [ONE, TWO]
    for actor in ray.actors:
        assert (actor.options["max_restarts"], actor.options["max_task_retries"]) == (0, 0)
        assert (actor.options["num_gpus"], actor.options["num_cpus"]) == (1.0, 1.0)
        assert actor.options["scheduling_strategy"] == (f"node of {actor.slot.ip}", True)
    assert {message.worker for message in heard(crew)} == {ONE, TWO}


def test_ready_tells_the_gpu_and_the_node_that_ray_chose() -> None:
    ray = FakeRay()
    crew = crew_of(ray, ONE)
    crew.start(ONE)
    assert heard(crew) == [m.Ready(ONE, "cuda:3", 1.0, "host of 10.0.0.1")]
    ray.actors[0].die("The actor died because its node has died. Node Id: ab")
    assert heard(crew) == [m.Died(ONE, "was lost with its node")]
    ray.ip = "10.0.0.9"
    crew.start(ONE)
    assert heard(crew) == [m.Ready(ONE, "10.0.0.9/cuda:3", 1.0, "host of 10.0.0.9")]


def test_tasks_go_in_and_news_comes_out() -> None:
    ray = FakeRay()
    crew = crew_of(ray, ONE)
    crew.start(ONE)
    heard(crew)
    crew.give(ONE, task(1))
    kinds = [type(message) for message in heard(crew)]
    assert kinds == [m.Working, m.Replied, m.Done]
    before = ray.actors[0].asked
    assert crew.next(0.0) is None
    assert ray.actors[0].asked == before  # the call that is out is waited for, not repeated
    crew.stop(ONE)
    assert heard(crew) == [m.Died(ONE, "ended as it was told to")]
    assert ray.killed == ray.actors  # the process, too
    crew.give(ONE, task(2))
    crew.stop(ONE)
    crew.kill(ONE, "was stopped")
    assert heard(crew) == []  # its Died was told


def test_a_death_is_told_once_and_a_new_actor_takes_the_place() -> None:
    ray = FakeRay()
    crew = crew_of(ray, ONE, TWO)
    crew.start(ONE)
    crew.start(TWO)
    heard(crew)
    ray.actors[0].die()
    (died,) = heard(crew)
    assert died == m.Died(ONE, how(Exception("Worker exit type: X")))
    crew.start(ONE)
    assert heard(crew) == [m.Ready(ONE, "cuda:3", 1.0, "host of 10.0.0.1")]
    crew.give(ONE, task(1))
    assert {message.worker for message in heard(crew)} == {ONE}
    assert ray.actors[1].dead is None


def test_what_was_told_before_a_kill_is_heard_before_it() -> None:
    ray = FakeRay()
    crew = crew_of(ray, ONE)
    crew.start(ONE)
    heard(crew)
    crew.give(ONE, task(1))
    crew.kill(ONE, "was stopped, for it took more than 3 s")
    told = heard(crew)
    assert [type(message) for message in told] == [m.Working, m.Replied, m.Done, m.Died]
    assert told[-1] == m.Died(ONE, "was stopped, for it took more than 3 s")
    assert ray.killed == ray.actors


def test_a_kill_of_one_that_just_died_tells_one_death() -> None:
    ray = FakeRay()
    crew = crew_of(ray, ONE)
    crew.start(ONE)
    heard(crew)
    ray.actors[0].die()
    crew.kill(ONE, "was stopped")
    assert [type(message) for message in heard(crew)] == [m.Died]


def test_where_there_is_no_room_it_is_told_after_a_while() -> None:
    ray, clock = FakeRay(), Clock()
    crew = crew_of(ray, ONE, clock=clock)
    ray.placed = False
    crew.start(ONE)
    clock.seconds = PLACE_SECONDS
    assert heard(crew) == []
    clock.seconds += 1
    assert heard(crew) == [m.Died(ONE, f"found no room in the Ray cluster within {300} s")]
    assert ray.killed == ray.actors  # else it would start when nobody waits for it any more
    crew.start(ONE)
    ray.actors[1].placed = True
    assert [type(message) for message in heard(crew)] == [m.Ready]
    clock.seconds += 10 * PLACE_SECONDS
    assert heard(crew) == []


def test_another_version_on_a_node_is_refused() -> None:
    ray = FakeRay()
    ray.version = "0.0.1"
    crew = crew_of(ray, ONE)
    crew.start(ONE)
    (died,) = heard(crew)
    assert isinstance(died, m.Died)
    assert died.refused == "SettingError"
    assert "0.0.1 on node host of 10.0.0.1" in died.reason


def test_without_actors_it_waits_and_in_the_end_kills_all() -> None:
    ray, clock = FakeRay(), Clock()
    crew = crew_of(ray, ONE, TWO, clock=clock)
    assert crew.next(0.25) is None
    assert clock.seconds == 0.25
    crew.start(ONE)
    crew.start(TWO)
    crew.close()
    assert ray.killed == ray.actors
    assert crew.next(0.0) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x\nThe actor died because its node has died. Node Id: 1", "was lost with its node"),
        ("Task was killed due to the node running low on memory.\n...", "ran low on memory"),
        ("The actor is dead because it was killed by `ray.kill`.", "ray.kill"),
        ("... Worker exit type: SYSTEM_ERROR Worker exit detail: ...", "crashed or was killed"),
        ("The actor 1 is unavailable: the connection broke", "was out of reach"),
        (
            "an error raised in its creation task, \x1b[36mray::X()\x1b[39m\n  File\n"
            "ModuleNotFoundError: No module named 'tokenreduce', unavailable\n",
            "could not start: ModuleNotFoundError: No module named 'tokenreduce', unavailable",
        ),
        ("", "was lost: Ray gives no reason"),
        ("a\n" * 500 + "b" * 5000, "was lost: " + "b" * 300),
    ],
)
def test_rays_many_lines_become_one(text: str, said: str) -> None:
    line = how(Exception(text))
    assert said in line
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 400


def drive(folder: Path, names: Sequence[str], ray: Any, workers: Sequence[str]) -> list[Row]:
    """What a driver records that works with these actors; the ledger may be there already."""
    for name in names:
        (folder / name).write_bytes(f"content of {name}".encode())
    output = folder / "out.jsonl"
    path = ledger_of(output)
    jobs = [Job(str(folder / name), (Asked("Q?"), Asked("R?"))) for name in names]
    with Ledger.open(path) if path.exists() else Ledger.create(path) as ledger:
        ledger.add_settings(DIGEST, {}, {})
        with Projection(output, ledger) as projection, Feed(jobs, ledger) as feed:
            Driver(ledger, projection, Owing(ledger, DIGEST), crew_of(ray, *workers)).run(feed)
            projection.finish()
        return list(ledger.rows())


def test_a_clip_that_kills_two_actors_is_failed_and_the_rest_answered(tmp_path: Path) -> None:
    ray = FakeRay(lambda file: "die" if file == "bad.mp4" else "ok")
    names = ["1.mp4", "bad.mp4", "2.mp4", "3.mp4", "4.mp4"]
    rows = drive(tmp_path, names, ray, (ONE, TWO))
    assert len({row.id for row in rows}) == len(rows) == 10
    failed = [row for row in rows if row.status == "failed"]
    assert {os.path.basename(row.file) for row in failed} == {"bad.mp4"}
    assert all(row.failure and row.failure.kind == "WorkerDied" for row in failed)
    assert all(row.failure and "crashed or was killed" in row.failure.reason for row in failed)
    assert len(ray.actors) == 4  # two, and another for each that died
    assert {row.host for row in rows if row.status == "answered"} <= {
        "host of 10.0.0.1",
        "host of 10.0.0.2",
    }


def test_a_node_with_another_version_leaves_the_work_to_the_others(tmp_path: Path) -> None:
    ray = FakeRay()
    ray.version = "0.0.1"
    with pytest.raises(SettingError, match=r"0\.0\.1"):
        drive(tmp_path, ["1.mp4"], ray, (ONE, TWO))
    assert len(ray.actors) == 2  # nobody tries again what cannot change


def test_actors_that_never_start_end_the_run(tmp_path: Path) -> None:
    ray = FakeRay()
    init = "raised in its creation task, ray::RayWorker.__init__()\nImportError: no torch"
    plain = ray.remote

    def stillborn(**groups: Any) -> Any:
        def of(cls: type) -> Any:
            inner = plain(**groups)(cls)

            class Options:
                def options(self, **more: Any) -> Any:
                    class Made:
                        def remote(self, *arguments: Any) -> Any:
                            actor = inner.options(**more).remote(*arguments)
                            actor.die(init)
                            return actor

                    return Made()

            return Options()

        return of

    ray.remote = stillborn
    with pytest.raises(CapacityError, match="could not start: ImportError: no torch"):
        drive(tmp_path, ["1.mp4"], ray, (ONE,))
    assert len(ray.actors) == 2


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    plan=st.lists(st.sampled_from(["ok", "die", "once"]), min_size=1, max_size=8),
    workers=st.integers(1, 3),
)
def test_whatever_dies_each_row_is_told_once(
    tmp_path_factory: pytest.TempPathFactory, plan: list[str], workers: int
) -> None:
    died = Counter[str]()

    def behave(file: str) -> str:
        what = file.split("-")[1].removesuffix(".mp4")
        died[file] += what != "ok"
        return "die" if what == "die" or (what == "once" and died[file] == 1) else "ok"

    ray: Callable[..., Any] = FakeRay(behave)
    names = [f"{number}-{what}.mp4" for number, what in enumerate(plan)]
    crew = [f"10.0.0.{number}/cuda:0" for number in range(workers)]
    rows = drive(tmp_path_factory.mktemp("run"), names, ray, crew)
    assert len({row.id for row in rows}) == len(rows) == 2 * len(names)
    for row in rows:
        assert (row.status == "failed") == row.file.endswith("-die.mp4")
