"""Who works on a batch, as the command line decides it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import Result

from tokenreduce.batch import ray_pool
from tokenreduce.batch.jobs import Job

Part = Callable[[str], ModuleType]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "1.mp4"
    path.write_bytes(b"a clip")
    return path


@pytest.fixture
def refused(run: Callable[..., Result], tmp_path: Path, clip: Path) -> Callable[..., Any]:
    """What is said of a batch that never begins, and its exit code."""

    def told(*options: str) -> tuple[int, str]:
        output = tmp_path / "out.jsonl"
        result = run("batch", str(clip), "Who?", "-o", str(output), "--model", "demo", *options)
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
        assert list(tmp_path.glob("out.jsonl*")) == []
        return result.exit_code, result.stderr

    return told


@pytest.mark.parametrize(
    "address", ["", "somewhere", "10.0.0.1", "ray://10.0.0.1:10001", "a b:1", "h:123456", "LOCAL"]
)
def test_what_is_no_address_is_refused(refused: Callable[..., Any], address: str) -> None:
    code, told = refused("--cluster", address)
    assert code == 2
    assert told.startswith("error: --cluster is")
    assert "10.0.0.1:6379" in told


def test_without_ray_it_says_what_to_install(
    refused: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "find_spec", lambda _: None)
    code, told = refused("--cluster", "auto")
    assert code == 2
    assert "pip install 'tokenreduce[ray]'" in told


class Pool:
    """As `RayPool`, without anybody in it."""

    workers = ("10.0.0.1/cuda:0",)
    note = "only 1 of 2 GPUs are free now"
    closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("quiet", [False, True])
def test_a_cluster_is_joined_with_a_file_that_is_there_and_left_whatever_happens(
    part: Part,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    quiet: bool,
) -> None:
    asked: list[Any] = []
    pool = Pool()

    def join(*arguments: Any) -> Pool:
        asked.append(arguments)
        return pool

    monkeypatch.setattr(ray_pool.RayPool, "join", join)
    jobs = (Job("/nowhere/0.mp4", ()), Job(str(clip), ()), Job(__file__, ()))
    recipe = SimpleNamespace(placing=SimpleNamespace(device="auto", device_map="none"))
    numbers = {"cluster": "10.0.0.1:6379", "workers": 3}
    listing = SimpleNamespace(jobs=jobs)
    hired = part("batch_workers").hired
    broken = ValueError("broken")
    with pytest.raises(ValueError, match="broken"):  # noqa: PT012, SIM117  # the order matters
        with hired(recipe, numbers, listing, quiet=quiet) as found:
            assert found is pool
            raise broken
    assert asked == [("10.0.0.1:6379", recipe, 3, str(clip))]
    assert pool.closed == 1
    assert ("only 1 of 2 GPUs" in capsys.readouterr().err) is not quiet


def test_without_a_cluster_it_is_this_machine(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any) -> Any:
        raise AssertionError("nobody asked for a cluster")

    monkeypatch.setattr(ray_pool.RayPool, "join", never)
    recipe = SimpleNamespace(
        placing=SimpleNamespace(device="cpu", device_map="none"), weights_bytes=0
    )
    numbers = {"cluster": None, "workers": 2}
    with part("batch_workers").hired(
        recipe, numbers, SimpleNamespace(jobs=()), quiet=False
    ) as pool:
        assert pool.workers == ("cpu/1", "cpu/2")
