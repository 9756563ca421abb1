"""Several processes share one folder: nothing torn, nothing raised, whatever the others do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenreduce.cache.store import Cache

Visual = Callable[..., dict[str, Tensor]]
WORKER = Path(__file__).with_name("worker.py")


def _start(folder: Path, role: str, rounds: int, max_bytes: int) -> subprocess.Popen[str]:
    arguments = [str(folder), role, str(rounds), str(max_bytes)]
    return subprocess.Popen(
        [sys.executable, str(WORKER), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _report(worker: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = worker.communicate(timeout=300)
    assert (worker.returncode, err) == (0, "")
    report: dict[str, Any] = json.loads(out)
    return report


def test_two_save_and_load_while_a_third_prunes(tmp_path: Path) -> None:
    """The writers have room for two of three keys, so they delete each other's entries as well."""
    folder = tmp_path / "cache"
    writers = [_start(folder, "save", 50, 60_000) for _ in range(2)]
    pruner = _start(folder, "prune", 100, 60_000)
    reports = [_report(worker) for worker in writers]
    assert _report(pruner)["trouble"] is None
    for report in reports:
        assert (report["torn"], report["trouble"]) == (0, None)
        assert report["loaded"] >= 25
    assert list(folder.rglob("*.part")) == []


def test_the_index_is_spoilt_under_their_hands(tmp_path: Path) -> None:
    """Nothing torn and nothing raised: order of use and digests may be lost."""
    folder = tmp_path / "cache"
    index = folder / "visual-tokens" / "index.sqlite"
    workers = [_start(folder, "save", 50, 10**9) for _ in range(2)]
    spoilt = 0
    while any(worker.poll() is None for worker in workers):
        time.sleep(0.05)
        if index.exists():
            spoilt += 1
            if spoilt % 2:
                index.unlink(missing_ok=True)
            else:
                index.write_bytes(b"rubbish" * 500)
    for worker in workers:
        report = _report(worker)
        assert report["torn"] == 0
        assert report["loaded"] >= 50
    assert spoilt > 1
    assert len(Cache(folder).lookup({"shared": True})) == 3


def test_a_writer_that_is_killed_leaves_no_entry_behind(tmp_path: Path, visual: Visual) -> None:
    folder = tmp_path / "cache"
    worker = _start(folder, "save", 10**6, 10**9)
    entries = folder / "visual-tokens"
    end = time.monotonic() + 120
    while not list(entries.glob("*.safetensors")) and time.monotonic() < end:
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.communicate(timeout=60)
    cache = Cache(folder)
    found = cache.lookup({"shared": True})
    assert found
    for entry in found:
        loaded = cache.load(entry)
        assert loaded is not None
        assert bool(loaded.tensors["x"].eq(loaded.facts["number"]).all())
    cache.save({}, {}, visual(), {})
    assert len(cache.lookup({})) == 1
    assert cache.trouble is None
