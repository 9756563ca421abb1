"""The driver's side and the agent, joined by real pipes, with a Ray that is made up."""

from __future__ import annotations

import os
import runpy
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tokenreduce.batch import messages as m
from tokenreduce.batch import ray_agent, ray_pool
from tokenreduce.batch.child import Child
from tokenreduce.batch.jobs import Task, Wanted
from tokenreduce.batch.ray_agent import Orders, serve
from tokenreduce.batch.ray_orders import Join, Terms
from tokenreduce.batch.ray_pool import RayPool
from tokenreduce.batch.recipe import Recipe
from tokenreduce.batch.wire import receive, send
from tokenreduce.cache.digest import Digest, FileState
from tokenreduce.errors import CapacityError, SettingError, TokenReduceError
from tokenreduce.models.base import Sampling
from tokenreduce.occupant import Placing
from tokenreduce.plan import Overrides
from tokenreduce.preset import load_preset

FakeRay = runpy.run_path(str(Path(__file__).with_name("fake_ray.py")))["FakeRay"]
NAMES = ("10.0.0.1/cuda:0", "10.0.0.1/cuda:1")
DIGEST = Digest("77" * 32, FileState(1, 2, 3, 4, 5), memoised=False, fresh=False)
RECIPE = Recipe("demo", load_preset("balanced"), Overrides(), Sampling(), Placing())


def task(number: int) -> Task:
    return Task(number, f"{number}.mp4", DIGEST, (Wanted(f"row {number}", "key", "Q?"),))


class Agent:
    """As `Child`, with the agent in a thread."""

    def __init__(self, ray: Any, device: str = "auto", workers: int | None = None) -> None:
        (there, self._to), (self._from, back) = _pipe(), _pipe()
        self.ray = ray
        self.heard_all = threading.Event()
        join = Join("local", device, workers, Terms(b"", "1", None, {}, None))

        def work() -> None:
            with back:
                try:
                    serve(ray, join, Orders(there, there.close), back)
                except TokenReduceError as error:
                    send(back, ray_agent.refused(error))

        self.thread = threading.Thread(target=work)
        self.thread.start()

    def send(self, order: object) -> None:
        send(self._to, order)

    def receive(self) -> Any:
        try:
            return receive(self._from)
        except EOFError:
            self._from.close()
            self.heard_all.set()
            raise

    def ending(self) -> str:
        return (
            "ended unexpectedly (exit status 1): [2026-11-21 09:10:33,518 E 2039 2066] "
            "rpc_client.h:204: Failed to connect to GCS within 60 seconds. GCS may have been "
            "killed. It's either GCS is terminated by `ray stop` or"
        )

    def close(self, patience_seconds: float = 0.0) -> None:
        if not self._to.closed:
            self._to.close()
        self.thread.join(30.0)


def _pipe() -> tuple[Any, Any]:
    read, write = os.pipe()
    return os.fdopen(read, "rb"), os.fdopen(write, "wb")


@pytest.fixture
def pooled() -> Iterator[Callable[..., RayPool]]:
    made: list[Any] = []

    def make(ray: Any, **how: Any) -> RayPool:
        agent: Any = Agent(ray, **how)
        made.append(agent)
        return RayPool(agent, 30.0)

    yield make
    for agent in made:
        agent.close()
        assert not agent.thread.is_alive()
        agent.heard_all.wait(30.0)


def heard(pool: RayPool, count: int) -> list[m.Message]:
    found: list[m.Message] = []
    end = time.monotonic() + 30
    while len(found) < count and time.monotonic() < end:
        message = pool.next(0.2)
        found += [] if message is None else [message]
    return found


def test_orders_reach_the_actors_and_messages_the_driver(pooled: Callable[..., RayPool]) -> None:
    ray = FakeRay()
    pool = pooled(ray)
    assert pool.workers == NAMES
    assert pool.note == ""
    assert ray.actors == []
    for worker in NAMES:
        pool.start(worker)
    assert {message.worker for message in heard(pool, 2)} == set(NAMES)
    pool.give(NAMES[0], task(1))
    assert [type(message) for message in heard(pool, 3)] == [m.Working, m.Replied, m.Done]
    pool.kill(NAMES[1], "was stopped")
    assert heard(pool, 1) == [m.Died(NAMES[1], "was stopped")]
    pool.stop(NAMES[0])
    assert heard(pool, 1) == [m.Died(NAMES[0], "ended as it was told to")]
    assert pool.next(0.01) is None
    pool.start(NAMES[0])
    assert [type(message) for message in heard(pool, 1)] == [m.Ready]
    pool.close()
    assert [actor.slot.name for actor in ray.killed] == [NAMES[1], NAMES[0], NAMES[0]]
    pool.close()  # again is no error


def test_busy_gpus_are_told(pooled: Callable[..., RayPool]) -> None:
    ray = FakeRay()
    ray.free_gpus = 1.0
    assert pooled(ray).note.startswith("only 1 of 2 GPUs are free now")
    assert pooled(ray, workers=1).note == ""
    assert pooled(ray, device="cpu", workers=3).note == ""


def test_a_refusal_is_the_same_error_here(pooled: Callable[..., RayPool]) -> None:
    with pytest.raises(SettingError, match="give auto, cuda or cpu"):
        pooled(FakeRay(), device="mps")
    with pytest.raises(CapacityError, match="--workers N"):
        pooled(FakeRay(), device="cpu")


def test_a_lost_connection_ends_the_run_in_one_line(pooled: Callable[..., RayPool]) -> None:
    ray = FakeRay()
    pool = pooled(ray)

    def gone(*arguments: Any, **options: Any) -> Any:
        raise BrokenPipeError  # ends the agent

    ray.wait = gone
    pool.start(NAMES[0])
    with pytest.raises(CapacityError, match="is lost") as raised:
        heard(pool, 1)
    assert str(raised.value).endswith(
        "it ended unexpectedly (exit status 1): Failed to connect to GCS within 60 seconds; run "
        "again to go on"
    )


def test_an_agent_that_says_nothing_is_not_waited_for() -> None:
    class Silent:
        gate = threading.Event()

        def receive(self) -> Any:
            self.gate.wait(60)
            raise EOFError

    silent: Any = Silent()
    with pytest.raises(CapacityError, match=r"did not answer within 0\.05 s"):
        RayPool(silent, 0.05)
    silent.gate.set()


def test_an_agent_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Broken(Child):
        def __init__(self, module: str, environ: Any) -> None:
            super().__init__("tokenreduce.batch.no_such_module", environ)
            made.append(self)

    monkeypatch.setattr(ray_pool, "find_spec", lambda _: object())
    monkeypatch.setattr(ray_pool, "Child", Broken)
    with pytest.raises(CapacityError, match="ModuleNotFoundError"):
        RayPool.join("local", RECIPE, 2, None)
    assert len(made) == 1


def test_where_models_lie_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class Recording:
        def __init__(self, module: str, environ: Any) -> None: ...

        def send(self, message: Join) -> None:
            sent.append(message)
            raise CapacityError("that is enough")

        def close(self) -> None: ...

    monkeypatch.setattr(ray_pool, "find_spec", lambda _: object())
    monkeypatch.setattr(ray_pool, "Child", Recording)
    monkeypatch.setenv("TOKENREDUCE_MODELS", "/of/the/driver")
    monkeypatch.setenv("HF_TOKEN", "secret")
    with pytest.raises(CapacityError, match="enough"):
        RayPool.join("local", RECIPE, 1, None)
    environ = sent[0].terms.environ
    assert environ["TOKENREDUCE_MODELS"] == "/of/the/driver"
    assert "HF_TOKEN" not in environ


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"pip install 'tokenreduce\[ray\]'"):
        RayPool.join("auto", RECIPE, None, None)


def test_an_address_is_called_before_ray_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert ray_agent.reached(address) == address
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert ray_agent.reached("auto") == address
        assert ray_agent.reached("local") == "local"
    with pytest.raises(CapacityError, match="cannot be joined"):
        ray_agent.reached(address)
    with pytest.raises(CapacityError, match=address):
        ray_agent.reached("auto")
    monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.1:10001")
    with pytest.raises(SettingError, match="without ray://"):
        ray_agent.reached("auto")
    monkeypatch.delenv("RAY_ADDRESS")
    assert ray_agent.reached("auto") == "auto"
