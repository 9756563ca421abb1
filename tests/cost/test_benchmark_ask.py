"""benchmarks/record.py on known commands, benchmarks/ask.py against a stand-in for the command."""

import importlib
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/ is not part of the installed package, so the checkout lends it."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.record")


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def test_a_process_is_measured(record: ModuleType) -> None:
    busy = "import sys, time; x = bytearray(64 << 20)\nwhile time.process_time() < .3: pass\n"
    run = record.run_process(
        python(busy + "print('out'); print('err', file=sys.stderr); sys.exit(3)")
    )
    assert (run.returncode, run.stdout, run.stderr) == (3, "out\n", "err\n")
    assert 0.3 <= run.cpu_seconds < 3
    assert run.wall_seconds >= 0.3
    assert 64 * MIB <= run.peak_bytes < 128 * MIB


def test_a_process_does_not_inherit_the_peak_of_whoever_measures_it(record: ModuleType) -> None:
    block = bytearray(b"x") * (256 * MIB)
    run = record.run_process(python("pass"))
    assert len(block) > 128 * MIB > run.peak_bytes


def test_a_command_that_does_not_exist(record: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="no-such-command: could not be started"):
        record.run_process(["no-such-command"])


def test_a_process_is_killed_when_it_is_late(record: ModuleType, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    code = f"import time\nwhile True: open({str(beat)!r}, 'a').write('x'); time.sleep(.02)"
    with pytest.raises(subprocess.TimeoutExpired):
        record.run_process(python(code), timeout_seconds=2)
    size = beat.stat().st_size
    time.sleep(0.2)
    assert 0 < size == beat.stat().st_size


def test_alternating_turns_the_order_round(record: ModuleType) -> None:
    calls: list[str] = []

    def case(name: str, value: float) -> dict[str, float]:
        calls.append(name)
        return {"seconds": value * len(calls)}

    taken = record.alternating({"a": lambda: case("a", 1), "b": lambda: case("b", 10)}, 3)
    assert "".join(calls) == "abbaab"
    assert taken["a"]["seconds"] == record.Spread(4, 1, 5, 3)
    assert taken["b"]["seconds"] == record.Spread(30, 20, 60, 3)


def test_a_record_says_where_it_comes_from(
    record: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    path = record.write("x", {"spread": record.Spread(2, 1, 3, 3)}, {"repeats": 3})
    written = json.loads(path.read_text())
    assert written["result"] == {"spread": {"median": 2, "low": 1, "high": 3, "runs": 3}}
    assert written["arguments"] == {"repeats": 3}
    assert written["commit"] == record.commit()
    assert {"cpu", "cores", "memory_bytes", "torch_threads", "python"} <= written["machine"].keys()
    assert str(ROOT) not in path.read_text()


STAND_IN = """
    import json, pathlib, sys
    if sys.argv[1:3] == ["demo", "make"]:
        pathlib.Path(sys.argv[3], "clip-0000.mp4").touch()
    else:
        verb, clip, question, *options = sys.argv[1:]
        ok = verb == "ask" and pathlib.Path(clip).exists() and "--json" in options
        print(json.dumps({"answer": question.upper(), "tokens": {"merged": 7},
                          "seconds": {"load": 1.0, "total": 2.0}}))
        sys.exit(0 if ok else 4)
"""


def ask(stand_in: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    script = folder / "stand_in.py"
    script.write_text(textwrap.dedent(stand_in))
    command = f"{sys.executable} -I -S {script}"
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.ask", "--command", command, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_ask_runs_the_command_and_sums_up(tmp_path: Path) -> None:
    done = ask(STAND_IN, tmp_path, "--repeats", "2", "--question", "why?")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["answers"] == ["WHY?"]
    assert result["process"]["wall_seconds"]["runs"] == 2
    assert result["inside_seconds"]["total"]["median"] == 2.0
    assert result["met"] is True


def test_ask_says_in_one_line_that_the_command_failed(tmp_path: Path) -> None:
    done = ask("raise SystemExit('no demo here')", tmp_path, "--repeats", "1")
    assert done.returncode == 1
    assert done.stderr == "benchmarks.ask: demo make exited with 1: no demo here\n"
