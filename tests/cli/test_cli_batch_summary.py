"""The summary of a batch: its numbers are the sums of its rows, and it is clean in 40 columns."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenreduce.batch.happenings import Happening, Known, Planned, Recorded, Stopping, WorkerReady
from tokenreduce.batch.rows import Failure, Row
from tokenreduce.result import Answer

Part = Callable[[str], ModuleType]

STAGES = ("load", "digest", "decode", "encode", "reduce", "prefill", "generate")

WIDE = """\
answered       2 of 10 rows, 4 files
failed         3: InputError 2, Timeout 1
known before   4, 1 of them failed
seconds        load 24.20, digest 0.00, decode 6.42, encode 2.36, reduce 0.14, prefill 1.62,
               generate 4.26; summed over rows
visual tokens  26,880 raw -> 6,720 merged (25.0% kept)
prefill        498 TFLOP unreduced -> 47.2 TFLOP spent in the LLM, 10.6x less
peak memory    6.1 GiB device, 2.3 GiB host: the most of any row
wall clock     600 s (10 min), 0.5 rows/min
output         answers.jsonl
ledger         answers.jsonl.ledger
next           1 row left: run the same command again to go on
               failed rows stay failed until you ask them again:
               tokenreduce results retry answers.jsonl --failed
"""

NARROW = """\
answered       2 of 10 rows, 4 files
failed         3: InputError 2,
               Timeout 1
known before   4, 1 of them failed
seconds        load 24.20, digest 0.00,
               decode 6.42, encode 2.36,
               reduce 0.14,
               prefill 1.62,
               generate 4.26; summed
               over rows
visual tokens  26,880 raw -> 6,720
               merged (25.0% kept)
prefill        498 TFLOP unreduced ->
               47.2 TFLOP spent in the
               LLM, 10.6x less
peak memory    6.1 GiB device, 2.3 GiB
               host: the most of any row
wall clock     600 s (10 min),
               0.5 rows/min
output         answers.jsonl
ledger         answers.jsonl.ledger
next           1 row left: run the same
               command again to go on
               failed rows stay failed
               until you ask them again:
tokenreduce results retry answers.jsonl --failed
"""


def row(answer: dict[str, Any] | None, kind: str = "", worker: str = "w0") -> Recorded:
    failure = None if answer is not None else Failure(kind, "why")
    status: Any = "failed" if failure else "answered"
    return Recorded(
        Row("id", "k", "s", "c", "a.mp4", "Q", status, 1, "", "", "h", worker, answer, failure)
    )


def tally(part: Part, *happenings: Happening) -> Any:
    made = part("batch_tally").Tally()
    for happening in happenings:
        made.see(happening, 0.0)
    return made


def text(
    part: Part, made: Any, width: int, output: str = "answers.jsonl", wall: float = 600.0
) -> str:
    lines = part("batch_summary").summary_lines(made, wall, output, f"{output}.ledger", width)
    assert all(line.startswith(label) for label, line in lines)
    return "".join(f"{line}\n" for _, line in lines)


@pytest.fixture
def mixed(part: Part, sample: Answer) -> Any:
    answer = sample.to_json()
    return tally(
        part,
        Planned(4, 10, ("w0",)),
        Known("old.mp4", 4, 1),
        row(answer),
        row(None, "InputError"),
        row(None, "InputError"),
        row(None, "Timeout"),
        row(answer),
        Stopping("interrupted"),
    )


@pytest.mark.parametrize(("width", "shown"), [(40, NARROW), (100, WIDE), (200, WIDE)])
def test_the_summary_as_it_is_shown(part: Part, mixed: Any, width: int, shown: str) -> None:
    assert text(part, mixed, width) == shown


def test_a_run_that_asked_nothing_has_little_to_say(part: Part) -> None:
    made = tally(part, Planned(2, 4, ("w0",)), Known("a", 2), Known("b", 1))
    assert text(part, made, 80, wall=1.25) == (
        "answered       0 of 4 rows, 2 files\n"
        "known before   3\n"
        "wall clock     1.2 s\n"
        "output         answers.jsonl\n"
        "ledger         answers.jsonl.ledger\n"
    )


def test_failures_of_an_earlier_run_stay_failed_and_it_says_how_to_ask_again(part: Part) -> None:
    shown = text(part, tally(part, Planned(1, 2, ("w0",)), Known("a", 2, 1)), 80)
    assert "known before   2, 1 of them failed\n" in shown
    assert shown.endswith(
        "next           failed rows stay failed until you ask them again:\n"
        "               tokenreduce results retry answers.jsonl --failed\n"
    )


def test_paths_and_the_command_can_be_copied(part: Part) -> None:
    output = "out of reach/" + "long" * 20 + "/it's.jsonl"
    lines = text(part, tally(part, row(None, "Timeout")), 40, output).splitlines()
    assert lines[lines.index("output") + 1] == output
    assert lines[lines.index("ledger") + 1] == f"{output}.ledger"
    quoted = "'" + output.replace("'", "'\"'\"'") + "'"
    assert lines[-1] == f"tokenreduce results retry {quoted} --failed"


def test_names_cannot_drive_the_terminal(part: Part) -> None:
    made = tally(part, row(None, "Bad\x1b[2J\nError"))
    shown = text(part, made, 80, "a\x1b[2J\n\u202eb.jsonl")
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "Bad\\x1b[2J\\nError 1" in shown
    assert "a\\x1b[2J\\n\\u202eb.jsonl\n" in shown


def test_loading_is_counted_once_whoever_tells_of_it(part: Part, sample: Answer) -> None:
    answer = sample.to_json()
    ready = WorkerReady("w0", "cpu", 30.0)
    assert "load 30.00," in text(part, tally(part, ready, row(answer)), 80)
    assert "load 24.20," in text(part, tally(part, row(answer), row(answer)), 80)


@pytest.mark.parametrize(
    "answer", [{}, {"answer": "yes", "tokens": None, "seconds": {"load": "?"}, "memory_bytes": {}}]
)
def test_an_answer_that_lacks_figures_ends_nothing(part: Part, answer: dict[str, Any]) -> None:
    shown = text(part, tally(part, Planned(1, 1, ("w0",)), row(answer)), 80)
    assert shown.startswith("answered       1 of 1 row, 1 file\n")
    assert "visual tokens" not in shown
    assert "peak memory" not in shown


COUNT = st.integers(0, 10**7)
SPENT = st.integers(0, 10**6).map(lambda hundredths: hundredths / 100)
MADE = st.fixed_dictionaries(
    {
        "tokens": st.fixed_dictionaries({"raw": COUNT, "merged": COUNT}),
        "seconds": st.fixed_dictionaries(dict.fromkeys(STAGES, SPENT)),
        "flops": st.fixed_dictionaries({"llm": COUNT, "llm_unreduced": COUNT, "overhead": COUNT}),
        "memory_bytes": st.fixed_dictionaries(
            {"device_peak": st.none() | COUNT, "host_peak": COUNT}
        ),
    }
)


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    answers=st.lists(MADE, max_size=6),
    failures=st.lists(st.sampled_from(["InputError", "Timeout", "WorkerDied"]), max_size=6),
    width=st.integers(40, 220),
)
def test_its_numbers_are_the_sums_of_the_rows(
    part: Part, answers: list[dict[str, Any]], failures: list[str], width: int
) -> None:
    made = tally(part, *map(row, answers), *(row(None, kind) for kind in failures))
    shown = text(part, made, width)
    # One line, so that what is wrapped can be looked for.
    flat = " ".join(shown.split())
    assert f"answered {len(answers):,} of " in flat
    for kind in set(failures):
        assert f"{kind} {failures.count(kind)}" in flat
    if answers:
        for stage in STAGES:
            spent = sum(answer["seconds"][stage] for answer in answers)
            assert f"{stage} {spent:,.2f}" in flat
        raw, merged = (sum(answer["tokens"][k] for answer in answers) for k in ("raw", "merged"))
        assert (f"{raw:,} raw -> {merged:,} merged" in flat) is (raw > 0)
        told = [answer["memory_bytes"]["device_peak"] for answer in answers]
        peaks = [peak for peak in told if peak is not None]
        assert made.sums.device_peak == max(peaks, default=None)
        assert made.sums.host_peak == max(a["memory_bytes"]["host_peak"] for a in answers)
        assert made.sums.unreduced == sum(answer["flops"]["llm_unreduced"] for answer in answers)
        assert made.sums.spent == sum(a["flops"]["llm"] + a["flops"]["overhead"] for a in answers)
    for line in shown.splitlines():
        assert len(line) <= width or re.match("tokenreduce results retry ", line)
