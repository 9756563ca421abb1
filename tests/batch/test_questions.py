"""Questions files as people, spreadsheets and programs write them, and as they break."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.batch import questions as module
from tokenreduce.batch.questions import MAX_ID_CHARACTERS, Questions, read_questions
from tokenreduce.batch.reading import MOST_BYTES
from tokenreduce.errors import InputError
from tokenreduce.question import MAX_QUESTION_CHARACTERS

Rows = list[tuple[str | None, str | None, str | None]]
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def save(content: str | bytes, name: str = "q.csv") -> str:
        data = content if isinstance(content, bytes) else content.encode("utf-8")
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return save


def told(questions: Questions) -> Rows:
    return [(one.file, one.question, one.id) for one in questions.entries]


def refusal(path: str, stdin: bytes | None = None) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(InputError) as caught:
        read_questions(path, None if stdin is None else io.BytesIO(stdin))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert len(message) < 400
    return message


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_as_spreadsheets_write_it(
    write: Write, separator: str, newline: str, mark: str
) -> None:
    rows = [
        ["File", " question ", "ID"],
        ["a.mp4", "Red, blue; or\tgreen?", "1"],
        ["sub/b.mp4", 'A "stop" sign\nor not?', "b-2"],
        ["", "", ""],
        ["a.mp4", "Who?", ""],
    ]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, lineterminator=newline).writerows(rows)
    questions = read_questions(write(mark + text.getvalue()))
    assert told(questions) == [
        ("a.mp4", "Red, blue; or\tgreen?", "1"),
        ("sub/b.mp4", 'A "stop" sign\nor not?', "b-2"),
        ("a.mp4", "Who?", None),
    ]
    assert [one.line for one in questions.entries] == [2, 3, 6]
    assert questions.files
    assert questions.asks
    assert questions.ignored == ()


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5))
def test_whatever_csv_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    """Or is refused in one line, where a question or a file is empty or an id is no id."""
    path = tmp_path_factory.getbasetemp() / "round.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "question", "id"), *rows])
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    ids = [row[2].strip() for row in rows if row[2].strip()]
    bad_id = any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for id in ids for c in id)
    empty = any(not row[0].strip() or not row[1].strip() for row in rows)
    if not rows or empty or bad_id or len(set(ids)) < len(ids):
        refusal(str(path))
        return
    expected = [(file, question.strip(), id.strip() or None) for file, question, id in rows]
    assert told(read_questions(str(path))) == expected


@given(st.binary(max_size=60), st.sampled_from(["csv", "jsonl", "json", "txt"]))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{ending}"
    path.write_bytes(data)
    try:
        entries = read_questions(str(path)).entries
    except InputError:
        refusal(str(path))
    else:
        assert entries


def test_line_breaks_in_a_question_stay_as_they_are(write: Write) -> None:
    questions = read_questions(write('question\r\n"x\r\ny\rz\n?"\r\n'))
    assert told(questions) == [(None, "x\r\ny\rz\n?", None)]


def test_without_a_file_column(write: Write) -> None:
    questions = read_questions(write("question\nIs there a person, or a car?\nWho; what?\n"))
    assert told(questions) == [
        (None, "Is there a person, or a car?", None),
        (None, "Who; what?", None),
    ]
    assert not questions.files


def test_without_a_question_column(write: Write) -> None:
    questions = read_questions(write("file\na, b.mp4\n c.mp4 \n"))
    assert told(questions) == [("a, b.mp4", None, None), (" c.mp4 ", None, None)]
    assert not questions.asks


def test_columns_that_mean_nothing_are_named(write: Write) -> None:
    questions = read_questions(write("file,note,question,label\na.mp4,x,y?,\n"))
    assert questions.ignored == ("note", "label")
    assert told(questions) == [("a.mp4", "y?", None)]


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "JSONL"])
def test_jsonl(write: Write, ending: str) -> None:
    rows: list[dict[str, Any]] = [
        {"file": "a.mp4", "question": "x\ny?", "id": 7, "score": [1, {}]},
        {"question": "z?", "file": "bad\udcff.mp4", "id": None},
    ]
    text = "\n\n".join(json.dumps(row) for row in rows)
    questions = read_questions(write("\ufeff" + text + "\r\n", f"q.{ending}"))
    assert told(questions) == [("a.mp4", "x\ny?", "7"), ("bad\udcff.mp4", "z?", None)]
    assert [one.line for one in questions.entries] == [1, 3]
    assert questions.ignored == ("score",)


def test_json_as_a_list(write: Write) -> None:
    text = '[\n {"file": "a.mp4",\n  "question": "x?"},\n\n {"file": "b.mp4", "question": "y?"}]\n'
    questions = read_questions(write(text, "q.json"))
    assert told(questions) == [("a.mp4", "x?", None), ("b.mp4", "y?", None)]
    assert [one.line for one in questions.entries] == [2, 5]


def test_json_as_files_with_their_questions(write: Write) -> None:
    """The same file twice loses neither question."""
    text = '{"a.mp4": "x?",\n "b.mp4": ["y?", "z?"],\n "a.mp4": ["w?"]}'
    assert told(read_questions(write(text, "q.json"))) == [
        ("a.mp4", "x?", None),
        ("b.mp4", "y?", None),
        ("b.mp4", "z?", None),
        ("a.mp4", "w?", None),
    ]


def test_txt_has_one_a_line(write: Write) -> None:
    questions = read_questions(write("\ufeffIs it red?\r\n\n  file,question  \n", "q.txt"))
    assert told(questions) == [(None, "Is it red?", None), (None, "file,question", None)]
    assert [one.line for one in questions.entries] == [1, 3]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"question": "x?"}\n{"question": "y?"}', [(None, "x?", None), (None, "y?", None)]),
        (b'\n [{"file": "a", "question": "x?"}]', [("a", "x?", None)]),
        (b"file;question\na;x?\n", [("a", "x?", None)]),
    ],
)
def test_standard_input_and_names_without_ending_tell_by_what_is_in_them(
    write: Write, data: bytes, expected: Rows
) -> None:
    assert told(read_questions("-", io.BytesIO(data))) == expected
    assert told(read_questions(write(data, "questions"))) == expected


def test_a_pipe_can_be_read() -> None:
    """As a shell's <(...) gives it."""
    read, written = os.pipe()
    os.write(written, b"question\nx?\n")
    os.close(written)
    try:
        assert told(read_questions(f"/dev/fd/{read}")) == [(None, "x?", None)]
    finally:
        os.close(read)


def test_its_own_folder(write: Write, tmp_path: Path) -> None:
    assert read_questions(write("question\nx?")).folder == str(tmp_path)
    assert read_questions("-", io.BytesIO(b"question\nx?")).folder == ""


BROKEN = [
    ("q.csv", "", "has no row"),
    ("q.csv", "file,question\n", "has no row"),
    ("q.csv", "\n\n", "has no row"),
    ("q.csv", "video,prompt\na,b\n", "no column 'question' and none 'file'"),
    ("q.csv", "id\na7\n", "the columns it has are 'id'"),
    ("q.csv", "file,question,File\na,b,c\n", "line 1: the column 'file' is there twice"),
    ("q.csv", "file,question\na.mp4,\n", "line 2: the question is empty"),
    ("q.csv", "file,question\na.mp4\n", "line 2: the question is empty"),
    ("q.csv", "file,question\na.mp4,x?\n  ,y?\n", "line 3: names no file"),
    ("q.csv", "file,question\na.mp4,red, or blue?\n", "line 2: has 3 columns, and the heading 2"),
    ("q.csv", 'file,question\na,"x\ny?"\nb,"z?\n', "line 4: is no valid csv"),
    ("q.csv", 'file,question\na,"stop" sign?\n', "line 2: is no valid csv"),
    ("q.csv", f"question\n{'x' * 140_000}\n", "line 2: is no valid csv"),
    (
        "q.csv",
        "question\n" + "x" * (MAX_QUESTION_CHARACTERS + 1),
        "line 2: the question has 20,001",
    ),
    ("q.csv", "question,id\nx?,a7\ny?,b\nz?, a7 \n", "duplicate id 'a7' in lines 2 and 4"),
    ("q.csv", "question,id\nx?,a\x1bb\n", "line 2: the id 'a\\x1bb' holds"),
    ("q.csv", 'question,id\nx?,"a\nb"\n', "line 2: the id"),
    ("q.csv", f"question,id\nx?,{'i' * (MAX_ID_CHARACTERS + 1)}\n", "the id has 201 characters"),
    ("q.jsonl", '{"question": "x?"}\n{"question": "y?"\n', "line 2: no valid JSON"),
    ("q.jsonl", '{"question": "x?"} {"question": "y?"}', "line 1: more follows"),
    ("q.jsonl", '{"question": "x?"}\n["y?"]\n', "line 2: a row is an object"),
    ("q.jsonl", '{"question": "x?"}\n{"file": "a"}\n', "line 1: names no file"),
    ("q.jsonl", '{"file": "a", "question": "x?"}\n{"file": "a"}', "line 2: the question is empty"),
    ("q.jsonl", '{"question": "x?", "file": "a"}\n{"question": "y?"}\n', "line 2: names no file"),
    ("q.jsonl", '{"question": ["x?"]}', "line 1: the question is ['x?']; it must be text"),
    ("q.jsonl", '{"question": "x?", "file": 3}', "line 1: the file is 3; it must be text"),
    ("q.jsonl", '{"question": "x?", "id": 1.5}', "line 1: the id is 1.5; it must be text"),
    ("q.jsonl", '{"question": "x?", "id": true}', "line 1: the id is True; it must be text"),
    ("q.jsonl", '{"question": "x?", "question": "y?"}', "line 1: the same key is there twice"),
    ("q.jsonl", '{"question": "x\\u0000?"}', "line 1: the question holds bytes"),
    ("q.jsonl", '{"question": "x\\ud800?"}', "line 1: the question holds bytes"),
    ("q.jsonl", '{"question": "x?", "file": "a\\u0000"}', "line 1: 'a\\x00' can be no file's name"),
    ("q.jsonl", '{"question": "x?", "file": "\\ud800"}', "can be no file's name"),
    ("q.jsonl", '{"question": "x?", "id": "\\ud800"}', "line 1: the id"),
    ("q.jsonl", '{"id": ' + "9" * 5000 + "}", "line 1: "),
    ("q.jsonl", "[" * 100_000, "line 1: nested too deeply"),
    ("q.json", "", "has no row"),
    ("q.json", "[]", "has no row"),
    ("q.json", "{}", "has no row"),
    ("q.json", "7", "line 1: it must be a list of objects"),
    ("q.json", '[{"question": "x?"}\n,\n]', "line 3: no valid JSON"),
    ("q.json", '[{"question": "x?"}\n{"question": "y?"}]', "line 2: ',' is missing"),
    ("q.json", '[{"question": "x?"}', "line 1: ',' is missing"),
    ("q.json", '\n["x?"]', "line 2: a row is an object"),
    ("q.json", '[{"question": "x?"}] []', "line 1: more follows"),
    ("q.json", '{"a.mp4": "x?"}\n{"b.mp4": "y?"}', "line 2: more follows; if it has one object"),
    ("q.json", '{"file": "a.mp4",\n "question": "x?"}', "put them in a list"),
    ("q.json", '{"a.mp4": "x?",\n "b.mp4": {"q": "y?"}}', "line 2: 'b.mp4' needs a question"),
    ("q.json", '{"a.mp4": [1]}', "line 1: 'a.mp4' needs a question"),
    ("q.json", '{"a.mp4": []}', "line 1: 'a.mp4' has no question"),
    ("q.json", '{"a.mp4" "x?"}', "line 1: ':' is missing"),
    ("q.json", '{7: "x?"}', "a file's name in quotes"),
    ("q.json", '[{"id": 1, "question": "x?"}, {"id": "1", "question": "y?"}]', "lines 1 and 1"),
    ("q.txt", "\n \n", "has no row"),
    ("q.txt", "x?\n" + "y" * (MAX_QUESTION_CHARACTERS + 1), "line 2: the question has 20,001"),
    ("q.xlsx", "x", "ends in .csv, .jsonl, .json or .txt"),
    ("q.csv", b"question\nx?\nGr\xfc\xdfe?\n", "line 3: is not valid UTF-8"),
    ("q.csv", "question\nx?\n".encode("utf-16"), "is UTF-16 text"),
    ("q.csv", b"PK\x03\x04\0\0question", "is no text"),
    ("q.csv", b"question\nx\0?\n", "is no text"),
]


@pytest.mark.parametrize(("name", "content", "expected"), BROKEN)
def test_what_is_wrong_is_said_with_its_line(
    write: Write, name: str, content: str | bytes, expected: str
) -> None:
    path = write(content, name)
    message = refusal(path)
    assert expected in message
    assert message.startswith(path)


def test_files_that_cannot_be_read(tmp_path: Path, write: Write) -> None:
    assert "no such file" in refusal(str(tmp_path / "none.csv"))
    (tmp_path / "folder.csv").mkdir()
    assert "Is a directory" in refusal(str(tmp_path / "folder.csv"))
    assert "standard input: has no row" in refusal("-", b"")
    assert "standard input line 2: the question is empty" in refusal("-", b"file,question\na,\n")


def test_a_file_of_half_a_gigabyte_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "huge.csv"
    with open(path, "wb") as file:
        file.write(b"question\nx?\n")
        file.truncate(500_000_000)
    assert f"larger than {MOST_BYTES >> 20} MiB" in refusal(str(path))


def test_more_rows_than_there_may_be(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 3)
    assert len(read_questions(write("question\n" + "x?\n" * 3)).entries) == 3
    assert "line 5: is row 4" in refusal(write("question\n" + "x?\n" * 4))
