"""A real Ray on this machine, with two actors: whatever is killed, the rows are those of a run
without it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tokenreduce.batch.driver import Driver
from tokenreduce.batch.exporting import Projection
from tokenreduce.batch.feeding import Feed
from tokenreduce.batch.happenings import Happening, Recorded, Stage
from tokenreduce.batch.jobs import Asked, Job
from tokenreduce.batch.ledger import Ledger, ledger_of
from tokenreduce.batch.owing import Owing
from tokenreduce.batch.ray_pool import RayPool
from tokenreduce.batch.recipe import Recipe
from tokenreduce.batch.rows import Row
from tokenreduce.demo import clips
from tokenreduce.models.base import Sampling
from tokenreduce.occupant import Placing
from tokenreduce.plan import Overrides
from tokenreduce.preset import load_preset

# Found and not imported: only processes that the tests start have to do with Ray.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc"),
]

QUESTIONS = ("What colour is the star that appears briefly?", "How many stars appear?")
CLIPS = 7
FRAMES = 8
RECIPE = Recipe(
    "demo",
    load_preset("balanced"),
    Overrides(frames=FRAMES),
    Sampling(),
    Placing(device="cpu"),
)
_HEAD = """
import logging, ray, sys
found = ray.init(
    address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False,
    logging_level=logging.ERROR, object_store_memory=100 << 20,
)
print(found.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""


class Cluster:
    """address: of a Ray that runs as long as the tests of this file; head: its first process."""

    def __init__(self, head: subprocess.Popen[str]) -> None:
        self.head = head
        assert head.stdout is not None
        self.address = head.stdout.readline().strip()
        assert self.address, "Ray does not start"

    def actors(self) -> list[int]:
        """The processes of the actors that live now."""
        return [pid for pid in _below(self.head.pid) if b"ray::RayWorker" in _of(pid, "cmdline")]


def _of(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


def _below(root: int) -> list[int]:
    """The descendants of a process."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        fields = _of(pid, "stat").rpartition(b")")[2].split()
        if len(fields) > 1:
            parents[pid] = int(fields[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


@pytest.fixture(scope="module")
def environ() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "57" * 32)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def cluster(environ: None) -> Iterator[Cluster]:
    head = subprocess.Popen(
        [sys.executable, "-c", _HEAD],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        made = Cluster(head)
        yield made
        below = _below(head.pid)
        head.communicate(timeout=60)
        wait_for(lambda: not any(_of(pid, "cmdline") for pid in below))
    finally:
        head.kill()  # Ray's own processes end with it
        head.communicate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(CLIPS):
        clips.write(folder / f"{number}.mp4", clips.draw(7, number)[0], 4, size=96)
    (folder / "broken.mp4").write_bytes(b"no video at all")
    return folder


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def start(folder: Path, environ: None) -> Start:
    """`tokenreduce batch` on the folder's clips, in a folder of its own."""

    def begin(where: Path, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-c", "from tokenreduce.cli import app; app()", "batch"]
        asked = [part for question in QUESTIONS for part in ("-q", question)]
        options = ["--model", "demo", "--frames", str(FRAMES), "--device", "cpu", "--no-cache"]
        where.mkdir(exist_ok=True)
        return subprocess.Popen(
            [*command, str(folder), *asked, "-o", "out.jsonl", *options, *arguments],
            cwd=where,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture(scope="module")
def expected(start: Start, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a run of processes on this machine."""
    where = tmp_path_factory.mktemp("local")
    process = start(where, "--workers", "1")
    _, told = process.communicate(timeout=300)
    assert process.returncode == 3, told
    found = lines(where)
    assert len(by_id(found)) == 2 * (CLIPS + 1)
    return found


def lines(where: Path) -> list[dict[str, Any]]:
    path = where / "out.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def by_id(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What depends neither on who answered nor on what was answered before; no row twice."""
    other = ("started", "finished", "host", "worker", "seconds", "memory_bytes", "attempts")
    paid = ("frames", "flops")  # a second question about a file pays for itself alone
    found = {row["id"]: {key: row[key] for key in row if key not in other + paid} for row in rows}
    assert len(found) == len(rows)
    return found


def paid(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row["id"]: (row.get("frames"), row.get("flops")) for row in rows}


def wait_for(truth: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_rows_are_those_of_processes(
    cluster: Cluster, start: Start, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    process = start(tmp_path, "--cluster", cluster.address, "--workers", "2")
    printed, told = process.communicate(timeout=300)
    assert process.returncode == 3, told
    assert printed == ""
    assert "ray" not in told.lower()  # it keeps quiet
    rows = lines(tmp_path)
    assert by_id(rows) == by_id(expected)
    assert paid(rows) == paid(expected)
    assert {row["worker"].split("/", 1)[1] for row in rows} == {"cpu/1", "cpu/2"}
    assert {row["host"] for row in rows} == {os.uname().nodename}
    wait_for(lambda: not cluster.actors(), 30.0)
    again = start(tmp_path, "--cluster", cluster.address, "--workers", "2")
    _, told = again.communicate(timeout=300)
    assert lines(tmp_path) == rows


def test_a_driver_that_is_killed_loses_nothing(
    cluster: Cluster, start: Start, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    given = ("--cluster", cluster.address, "--workers", "2")
    process = start(tmp_path, *given)
    wait_for(lambda: len(lines(tmp_path)) >= 3)
    process.kill()
    process.communicate()
    known = len(lines(tmp_path))
    assert known < len(expected)  # else it was through before
    wait_for(lambda: not cluster.actors(), 60.0)  # nobody works for nobody
    process = start(tmp_path, *given)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 3, told
    assert by_id(lines(tmp_path)) == by_id(expected)


def test_ctrl_c_finishes_the_current_answers(
    cluster: Cluster, start: Start, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    given = ("--cluster", cluster.address, "--workers", "2")
    process = start(tmp_path, *given)
    wait_for(lambda: len(lines(tmp_path)) >= 2)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert 2 <= len(lines(tmp_path)) < len(expected)
    wait_for(lambda: not cluster.actors(), 30.0)
    process = start(tmp_path, *given)
    _, told = process.communicate(timeout=300)
    assert by_id(lines(tmp_path)) == by_id(expected)


def test_a_cluster_of_its_own_is_gone_afterwards(
    start: Start, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    # Ray would have actors import whatever lies in the working directory.
    (tmp_path / "torch.py").write_text("raise SystemExit('not this one')")
    process = start(tmp_path, "--cluster", "local", "--workers", "2")
    wait_for(lambda: b"raylet" in b"".join(_of(pid, "comm") for pid in _below(process.pid)))
    below = _below(process.pid)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 3, told
    assert by_id(lines(tmp_path)) == by_id(expected)
    wait_for(lambda: not any(b"ray" in _of(pid, "cmdline") for pid in below), 30.0)


def test_without_a_gpu_the_number_of_workers_is_needed(
    cluster: Cluster, start: Start, tmp_path: Path
) -> None:
    process = start(tmp_path, "--cluster", cluster.address)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 5
    assert told.count("\n") == 1
    assert "--workers N" in told
    assert list(tmp_path.iterdir()) == []  # nothing was begun


class Desk:
    """A driver over real actors, whose watcher may kill them."""

    def __init__(self, cluster: Cluster, folder: Path, output: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.output = output

    def run(self, names: list[str], workers: int, watch: Callable[[Happening], None]) -> list[Row]:
        asked = tuple(Asked(question) for question in QUESTIONS)
        jobs = [Job(str(self.folder / name), asked) for name in names]
        pool = RayPool.join(self.cluster.address, RECIPE, workers, jobs[0].path)
        with Ledger.create(ledger_of(self.output)) as ledger:
            ledger.add_settings(RECIPE.digest, {}, {})
            with Projection(self.output, ledger) as projection, Feed(jobs, ledger) as feed:
                driver = Driver(ledger, projection, Owing(ledger, RECIPE.digest), pool, watch=watch)
                try:
                    driver.run(feed)
                finally:
                    pool.close()
                projection.finish()
            return list(ledger.rows())


def test_an_actor_that_is_killed_loses_nothing(
    cluster: Cluster, folder: Path, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    killed: list[int] = []

    def watch(happening: Happening) -> None:
        if isinstance(happening, Recorded) and not killed:
            killed.append(cluster.actors()[0])
            os.kill(killed[0], signal.SIGKILL)

    names = sorted(path.name for path in folder.iterdir())
    rows = Desk(cluster, folder, tmp_path / "out.jsonl").run(names, 2, watch)
    assert len(killed) == 1
    assert by_id(lines(tmp_path)) == by_id(expected)
    assert len(rows) == len(expected)


def test_a_clip_that_kills_its_worker_twice_is_failed_and_the_rest_answered(
    cluster: Cluster, folder: Path, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    """The killing is the test's, as soon as a worker is at that clip."""
    killed: list[int] = []
    here = tmp_path / "here"
    here.mkdir()
    for number in range(3):
        (here / f"{number}.mp4").symlink_to(folder / f"{number}.mp4")
    # Long enough to be killed while it is decoded.
    clips.write(here / "bad.mp4", clips.draw(8, 0)[0], 12, size=256)

    def watch(happening: Happening) -> None:
        if isinstance(happening, Stage) and happening.file.endswith("bad.mp4"):
            for pid in cluster.actors():
                if pid not in killed:
                    killed.append(pid)
                    os.kill(pid, signal.SIGKILL)

    names = ["0.mp4", "bad.mp4", "1.mp4", "2.mp4"]
    rows = Desk(cluster, here, tmp_path / "out.jsonl").run(names, 1, watch)
    assert len(killed) == 2
    failed = [row for row in rows if row.status == "failed"]
    assert {Path(row.file).name for row in failed} == {"bad.mp4"}
    assert len(failed) == len(QUESTIONS)
    for row in failed:
        assert row.failure is not None
        assert row.failure.kind == "WorkerDied"
        assert "crashed or was killed" in row.failure.reason
    answered = {row.id: row.answer for row in rows if row.status == "answered"}
    assert len(answered) == 3 * len(QUESTIONS)
    told = by_id(expected)
    for id, answer in answered.items():
        assert answer is not None
        assert answer["answer"] == told[id]["answer"]
