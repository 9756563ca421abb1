"""Times as people write them, and the range two of them make of a video."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.errors import InputError, SettingError, TokenReduceError
from tokenreduce.moments import GRACE_SECONDS, Moment, parse, span


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90", 90),
        (90, 90),
        ("90.5", 90.5),
        (".5", 0.5),
        ("0", 0),
        ("90s", 90),
        ("1.5m", 90),
        ("90min", 5400),
        ("1h02m", 3720),
        ("1h 2m 3.5s", 3723.5),
        ("1H02M", 3720),
        ("2h", 7200),
        ("1h5", 3605),
        ("10:00", 600),
        ("0:07.30", 7.3),
        ("90:00", 5400),
        ("1:02:03.5", 3723.5),
        ("001:02:03", 3723),
        (" 10:00 ", 600),
        (1e-05, 1e-05),
    ],
)
def test_a_time_is_read(written: str | float, seconds: float) -> None:
    moment = parse(written)
    assert moment.at(10_000) == pytest.approx(seconds)
    assert not moment.of_length


@pytest.mark.parametrize(
    ("written", "share"), [("25%", 0.25), ("0%", 0), ("100 %", 1), ("12.5%", 0.125)]
)
def test_a_share_is_of_the_length(written: str, share: float) -> None:
    assert parse(written) == Moment(share, of_length=True)
    assert parse(written).at(60) == share * 60
    assert str(parse(written)) == written


@pytest.mark.parametrize(
    "written",
    [
        *(
            "",
            " ",
            "h",
            "s",
            ".",
            "%",
            "nan",
            "inf",
            "Infinity",
            "1:90",
            "1:60:00",
            "5:3",
            "1:2:03",
        ),
        *("1:2:3:4", "ten", "1_0", "0x10", "٣", "10:00%", "1m1h", "1s2s", "--5", "1;5", "1e999"),
        *("9" * 5000, "1:00\x1b[0m", True),
    ],
)
def test_what_is_no_time_is_refused_in_one_line(written: str) -> None:
    with pytest.raises(SettingError, match="is no time; it must be a time such as 90") as caught:
        parse(written)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("written", ["-5", "-1:00", "-0", "-5%", -1.5])
def test_before_the_start_is_refused(written: str | float) -> None:
    with pytest.raises(SettingError, match="before the start; a time can be 0 or more"):
        parse(written)


@pytest.mark.parametrize("written", ["101%", "100.1%", "999999999%"])
def test_more_than_the_whole_is_refused(written: str) -> None:
    with pytest.raises(SettingError, match="past the end; a share can be 0% to 100%"):
        parse(written)


@given(st.floats(0, 1e8))
def test_any_number_of_seconds_is_itself(seconds: float) -> None:
    assert parse(seconds).at(1) == parse(str(seconds)).at(1) == seconds


@given(st.integers(0, 400), st.integers(0, 59), st.integers(0, 59_999))
def test_all_forms_of_a_time_agree(hours: int, minutes: int, milliseconds: int) -> None:
    seconds = f"{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"
    expected = pytest.approx(hours * 3600 + minutes * 60 + milliseconds / 1000)
    assert parse(f"{hours}:{minutes:02d}:{seconds}").at(1) == expected
    assert parse(f"{hours}h{minutes}m{seconds}s").at(1) == expected
    assert parse(f"{hours * 60 + minutes}:{seconds}").at(1) == expected


@given(st.text("0123456789:.hms%- einfa_", max_size=12))
def test_any_text_is_a_finite_time_or_one_error(text: str) -> None:
    with suppress(SettingError):
        assert 0 <= parse(text).value < math.inf


def test_a_range() -> None:
    assert span(None, None, 60, "a.mp4") == (0, None)
    assert span("0:10", "50%", 60, "a.mp4") == (10, 30)
    assert span(parse("25%"), 59.5, 60, "a.mp4") == (15, 59.5)
    assert span(None, "100%", 60, "a.mp4") == (0, 60)


def test_an_end_that_a_player_rounded_up_is_the_end() -> None:
    assert span("12:00", "12:30", 749.97, "a.mp4") == (720, 749.97)
    assert span(None, 60 + GRACE_SECONDS, 60, "a.mp4") == (0, 60)


@pytest.mark.parametrize(
    ("start", "end", "kind", "message"),
    [
        ("0:30", "0:20", SettingError, "start 0:30 is not before end 0:20; give an end after"),
        ("30", "50%", SettingError, "start 30 is not before end 50%"),
        (None, "0", SettingError, "start 0 s is not before end 0;"),
        ("2h", "1h", SettingError, "start 2h is not before end 1h"),
        ("1:00", None, InputError, "a.mp4: lasts 60.00 s, so nothing starts at 1:00; give an ear"),
        ("100%", None, InputError, "a.mp4: lasts 60.00 s, so nothing starts at 100%"),
        ("10", "1:01.1", InputError, "a.mp4: lasts 60.00 s, so it has no 1:01.1; give an earlier"),
        ("1h", "2h", InputError, "a.mp4: lasts 60.00 s, so nothing starts at 1h"),
        ("x", None, SettingError, "'x' is no time"),
        (None, float("nan"), SettingError, "'nan' is no time"),
    ],
)
def test_a_range_that_is_none_is_refused(
    start: str | None, end: str | float | None, kind: type[TokenReduceError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        span(start, end, 60, "a.mp4")
    assert str(caught.value).startswith(message)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.01, 100))
def test_a_range_lies_within_the_video(start: float, end: float, duration: float) -> None:
    try:
        first, last = span(start, end, duration, "a.mp4")
    except TokenReduceError:
        assert start >= min(end, duration) or end > duration + GRACE_SECONDS
    else:
        assert last is not None
        assert 0 <= first < last <= duration
