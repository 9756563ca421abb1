"""A cluster's worker without a cluster: what it sees, what it takes, how it ends."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tokenreduce.batch import messages as m
from tokenreduce.batch import worker as worker_module
from tokenreduce.batch.jobs import Task, Wanted
from tokenreduce.batch.ray_actor import RayWorker, as_seen_here
from tokenreduce.batch.ray_orders import Slot, Terms
from tokenreduce.batch.recipe import Recipe
from tokenreduce.cache.digest import of_file
from tokenreduce.models.base import Sampling
from tokenreduce.occupant import Placing
from tokenreduce.plan import Overrides
from tokenreduce.preset import load_preset

SLOT = Slot("10.0.0.1/cpu", "node", "10.0.0.1", "cpu", 1.0, 0.0, 1)


@pytest.fixture
def terms() -> Terms:
    recipe = Recipe("demo", load_preset("balanced"), Overrides(), Sampling(), Placing())
    return Terms(pickle.dumps(recipe), "1", None, {}, None)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor sets what is not set; here that ends with the test."""
    for name in ("OMP_WAIT_POLICY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HOME", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def serving(monkeypatch: pytest.MonkeyPatch, does: Any) -> None:
    monkeypatch.setattr(worker_module, "serve", does)


def task_of(path: Path, **changed: Any) -> Task:
    digest = of_file(path)
    assert digest is not None
    state = replace(digest.state, **changed)
    return Task(1, str(path), replace(digest, state=state), (Wanted("a", "k", "Q?"),))


def test_a_mount_that_is_numbered_otherwise_is_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "1.mp4"
    path.write_bytes(b"content")
    here = task_of(path)
    assert as_seen_here(here) == here
    assert as_seen_here(task_of(path, device=here.digest.state.device + 1)) == here


def test_without_the_same_numbers_the_content_decides(tmp_path: Path) -> None:
    path = tmp_path / "1.mp4"
    path.write_bytes(b"content")
    here = task_of(path)
    other = task_of(path, inode=12345, ctime_ns=1)
    found = as_seen_here(other)
    assert found is not None
    assert found.digest.state == here.digest.state
    assert found.digest.value == here.digest.value
    path.write_bytes(b"another")
    assert as_seen_here(other) == other  # the desk finds that it changed
    path.unlink()
    assert as_seen_here(other) is None


def test_tasks_in_and_messages_out(
    tmp_path: Path, terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []

    def serve(setup: Any, inbox: Any, tell: Any) -> None:
        devices.append(setup.recipe.placing.device)
        tell(m.Ready(setup.worker, "cpu", 0.0))
        while (task := inbox.get(block=True)) is not None and not inbox.stopping:
            tell(m.Done(setup.worker, task.number))

    serving(monkeypatch, serve)
    actor = RayWorker(SLOT, terms)
    assert actor.take(30.0) == [m.Ready(SLOT.name, "cpu", 0.0)]
    assert devices == ["cpu"]
    path = tmp_path / "1.mp4"
    path.write_bytes(b"content")
    actor.give(task_of(path))
    assert actor.take(30.0) == [m.Done(SLOT.name, 1)]
    assert actor.take(0.01) == []
    actor.stop()
    assert actor.take(30.0) == [m.Died(SLOT.name, "ended as it was told to")]


def test_a_file_that_is_not_on_this_node_fails_with_its_reason(
    tmp_path: Path, terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(setup: Any, inbox: Any, tell: Any) -> None:
        inbox.get(block=True)

    serving(monkeypatch, serve)
    actor = RayWorker(SLOT, terms)
    path = tmp_path / "1.mp4"
    path.write_bytes(b"content")
    task = task_of(path)
    path.unlink()
    actor.give(task)
    told = actor.take(30.0)
    told += actor.take(30.0) if len(told) < 2 else []
    replied, done = told
    assert isinstance(replied, m.Replied)
    assert replied.failure is not None
    assert (replied.id, replied.failure.kind) == ("a", "InputError")
    assert "cannot see it" in replied.failure.reason
    assert "\n" not in replied.failure.reason
    assert done == m.Done(SLOT.name, 1)
    actor.stop()


def test_a_node_without_the_videos_is_refused_before_a_model_is_loaded(
    terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[object] = []

    def serve(setup: Any, inbox: Any, tell: Any) -> None:
        served.append(setup)

    serving(monkeypatch, serve)
    actor = RayWorker(SLOT, replace(terms, witness="/nowhere/1.mp4"))
    (died,) = actor.take(30.0)
    assert isinstance(died, m.Died)
    assert died.refused == "InputError"
    assert "cannot see /nowhere/1.mp4" in died.reason
    assert served == []


def test_whatever_ends_its_work_is_told(terms: Terms, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(setup: Any, inbox: Any, tell: Any) -> None:
        raise RuntimeError("CUDA error:\nan illegal memory access")

    serving(monkeypatch, breaks)
    (died,) = RayWorker(SLOT, terms).take(30.0)
    reason = "ended unexpectedly: RuntimeError: CUDA error: an illegal memory access"
    assert died == m.Died(SLOT.name, reason)

    def refuses(setup: Any, inbox: Any, tell: Any) -> None:
        tell(m.Died(setup.worker, "no such model", "ModelError"))

    serving(monkeypatch, refuses)
    actor = RayWorker(SLOT, terms)
    assert actor.take(30.0) == [m.Died(SLOT.name, "no such model", "ModelError")]
    assert actor.take(0.05) == []  # one death


def test_relative_names_and_models_are_the_drivers(
    tmp_path: Path, terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # and back afterwards
    monkeypatch.setenv("HF_HOME", "/of/this/node")
    (tmp_path / "there").mkdir()
    environ = {"HF_HOME": "/of/the/driver", "HF_HUB_OFFLINE": "1"}
    given = replace(terms, folder=str(tmp_path / "there"), environ=environ)
    seen: list[Any] = []

    def serve(setup: Any, inbox: Any, tell: Any) -> None:
        seen.append((os.getcwd(), os.environ["HF_HOME"], os.environ["HF_HUB_OFFLINE"]))

    serving(monkeypatch, serve)
    assert RayWorker(SLOT, given).take(30.0)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    gone = replace(given, folder=str(tmp_path / "gone"))
    assert RayWorker(SLOT, gone).take(30.0)
    there = str(tmp_path / "there")
    assert seen == [(there, "/of/this/node", "1")] * 2
