"""What is asked of which file, and what is refused before a model is loaded."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.batch.sharding import Shard
from tokenreduce.batch.sources import Listing, Source, jobs
from tokenreduce.errors import TokenReduceError

Told = list[tuple[str, list[tuple[str, str | None]]]]


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four videos and a text in clips/, below the current folder."""
    for name in ("clip10.mp4", "clip2.mp4", "notes.txt", "sub/a.mkv", "sub/b.webm"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "clips"


ALL = ["clips/clip2.mp4", "clips/clip10.mp4", "clips/sub/a.mkv", "clips/sub/b.webm"]


def told(listing: Listing) -> Told:
    return [(job.path, [(one.question, one.id) for one in job.asked]) for job in listing.jobs]


def paths(listing: Listing) -> list[str]:
    return [job.path for job in listing.jobs]


def refusal(source: Source, stdin: bytes = b"") -> str:
    with pytest.raises(TokenReduceError) as caught:
        jobs(source, io.BytesIO(stdin))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    return message


def save(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def test_a_folder_and_a_question(clips: Path) -> None:
    listing = jobs(Source(("clips",), (" Is there a person? ",)))
    assert told(listing) == [(path, [("Is there a person?", None)]) for path in ALL]
    assert (listing.files, listing.rows, listing.missing) == (4, 4, 0)
    assert listing.notes == ("1 file skipped, by their names no videos, such as clips/notes.txt",)


def test_several_questions_are_asked_of_each_file_once(clips: Path) -> None:
    listing = jobs(Source(("clips/sub",), ("x?", "y?", "x? ")))
    assert told(listing) == [
        ("clips/sub/a.mkv", [("x?", None), ("y?", None)]),
        ("clips/sub/b.webm", [("x?", None), ("y?", None)]),
    ]
    assert listing.rows == 4
    assert listing.jobs[0].asked is listing.jobs[1].asked
    assert listing.notes == ("1 question left out: asked before of the same file",)


def test_a_file_named_directly_is_taken_whatever_it_is_called(clips: Path) -> None:
    listing = jobs(Source(("clips/notes.txt", "clips/clip10.mp4"), ("x?",)))
    assert paths(listing) == ["clips/notes.txt", "clips/clip10.mp4"]


def test_the_same_path_is_one_job_however_it_is_written(clips: Path) -> None:
    Path("link").symlink_to("clips")
    given = ("clips/sub/../clip10.mp4", str(clips), "clips/", "./clips/sub", "link/clip2.mp4")
    listing = jobs(Source(given, ("x?",)))
    assert [os.path.realpath(path) for path in paths(listing)] == [
        os.path.realpath(path) for path in (ALL[1], ALL[0], *ALL[2:])
    ]
    assert paths(listing)[0] == "clips/sub/../clip10.mp4"


def test_dots_after_a_link_are_not_what_they_look_like(clips: Path) -> None:
    """up/../x.mp4 lies where the link leads, not beside it: two files, not one."""
    Path("elsewhere/inner").mkdir(parents=True)
    Path("up").symlink_to("elsewhere/inner")
    Path("x.mp4").touch()
    Path("elsewhere/x.mp4").touch()
    assert len(jobs(Source(("x.mp4", "up/../x.mp4"), ("x?",))).jobs) == 2


def test_hard_links_are_two_jobs(clips: Path) -> None:
    """That their content is one is found by whoever reads it."""
    os.link("clips/sub/a.mkv", "clips/sub/z.mkv")
    listing = jobs(Source(("clips/sub",), ("x?",)))
    assert paths(listing) == ["clips/sub/a.mkv", "clips/sub/b.webm", "clips/sub/z.mkv"]


def test_patterns(clips: Path) -> None:
    listing = jobs(Source(("clips",), ("x?",), patterns=("clip?.*", "*.TXT")))
    assert paths(listing) == ["clips/clip2.mp4", "clips/notes.txt"]
    assert listing.notes == ("3 files skipped, no --pattern matches, such as clips/clip10.mp4",)
    given = jobs(Source(("clips/clip2.mp4",), ("x?",), patterns=("*.gif",)))
    assert given.notes == ("--pattern is of no effect: it chooses in folders, and none was given",)


def test_names_from_a_list(clips: Path) -> None:
    hostile = ["clips/a\nb.mp4", "-x.mp4", "bad\udcff.mp4"]
    for name in hostile:
        Path(name).touch()
    listed = [*hostile, "clips", "clips/notes.txt", "gone.mp4", "./-x.mp4"]
    data = b"".join(os.fsencode(name) + b"\0" for name in listed)
    listing = jobs(Source((), ("x?",), names_from="-"), io.BytesIO(data))
    assert paths(listing) == [*hostile, "clips/notes.txt", "gone.mp4"]
    assert [job.missing for job in listing.jobs] == [False] * 4 + [True]
    assert listing.notes == (
        "1 folder skipped in standard input",
        "1 file not there, such as gone.mp4",
    )
    Path("list").write_bytes(data.rstrip(b"\0"))
    both = jobs(Source(("clips/sub",), ("x?",), names_from="list"))
    assert paths(both) == ["clips/sub/a.mkv", "clips/sub/b.webm", *paths(listing)]


def test_one_name_without_its_end_may_hold_a_line_break(clips: Path) -> None:
    Path("a\nb.mp4").touch()
    listing = jobs(Source((), ("x?",), names_from="-"), io.BytesIO(b"a\nb.mp4"))
    assert paths(listing) == ["a\nb.mp4"]


QUESTIONS = """file,question,id
sub/a.mkv,What?,q1
clip2.mp4,Who?,
./sub/a.mkv,Where?,
gone.mp4,Who?,q4
sub/a.mkv,What?,q5
clip2.mp4,Who?,
"""


def test_rows_of_one_file_are_one_job_in_order(clips: Path) -> None:
    listing = jobs(Source(("clips",), (), save("q.csv", QUESTIONS)))
    assert told(listing) == [
        ("clips/sub/a.mkv", [("What?", "q1"), ("Where?", None), ("What?", "q5")]),
        ("clips/clip2.mp4", [("Who?", None)]),
        ("clips/gone.mp4", [("Who?", "q4")]),
    ]
    assert [job.missing for job in listing.jobs] == [False, False, True]
    assert (listing.files, listing.rows, listing.missing) == (3, 5, 1)
    assert listing.notes == (
        "q.csv names 1 file not there, such as clips/gone.mp4: 1 row will fail",
        "1 question left out: asked before of the same file",
    )


def test_names_are_relative_to_the_questions_file(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("clips/q.csv", QUESTIONS)
    expected = ["clips/sub/a.mkv", "clips/clip2.mp4", "clips/gone.mp4"]
    assert paths(jobs(Source((), (), "clips/q.csv"))) == expected
    monkeypatch.chdir(clips)
    assert paths(jobs(Source((), (), "q.csv"))) == ["sub/a.mkv", "clip2.mp4", "gone.mp4"]
    piped = jobs(Source((), (), "-"), io.BytesIO(QUESTIONS.encode()))
    assert paths(piped) == ["sub/a.mkv", "clip2.mp4", "gone.mp4"]


def test_an_absolute_name_is_taken_as_it_is(clips: Path) -> None:
    save("q.csv", f"file,question\n{clips}/clip2.mp4,x?\nclip2.mp4,y?\n")
    assert told(jobs(Source(("clips",), (), "q.csv"))) == [
        (f"{clips}/clip2.mp4", [("x?", None), ("y?", None)])
    ]


def test_questions_for_every_file(clips: Path) -> None:
    for name, text in (
        ("q.txt", "x?\ny?\n"),
        ("q.csv", "question\nx?\ny?\n"),
        ("q.jsonl", '{"question": "x?"}\n{"question": "y?"}\n'),
    ):
        listing = jobs(Source(("clips",), (), save(name, text)))
        assert told(listing) == [(path, [("x?", None), ("y?", None)]) for path in ALL]


def test_one_question_of_the_named_files(clips: Path) -> None:
    save("q.csv", "file,id,extra\nsub/a.mkv,1,\nclip2.mp4,2,\n")
    listing = jobs(Source(("clips",), ("x?",), "q.csv"))
    assert told(listing) == [("clips/sub/a.mkv", [("x?", "1")]), ("clips/clip2.mp4", [("x?", "2")])]
    assert listing.notes == ("q.csv: these columns are not used: 'extra'",)


def test_ids_belong_to_one_row_each(clips: Path) -> None:
    save("every.csv", "question,id\nx?,a\ny?,b\n")
    one = jobs(Source(("clips/clip2.mp4",), (), "every.csv"))
    assert told(one) == [("clips/clip2.mp4", [("x?", "a"), ("y?", "b")])]
    assert "every.csv line 2: the id would stand for 4 files" in refusal(
        Source(("clips",), (), "every.csv")
    )
    save("files.csv", "file,id\nclip2.mp4,a\n")
    assert "files.csv line 2: the id would stand for 2 questions" in refusal(
        Source(("clips",), ("x?", "y?"), "files.csv")
    )


def test_shards_are_disjoint_and_complete(clips: Path) -> None:
    for number in range(40):
        (clips / f"more{number}.mp4").touch()
    Path("other").symlink_to(clips)
    save("q.csv", QUESTIONS)
    for source in (Source(("clips",), ("x?", "y?")), Source(("clips",), (), "q.csv")):
        parts = [
            jobs(Source(source.paths, source.questions, source.questions_file, shard=Shard(n, 3)))
            for n in (1, 2, 3)
        ]
        together = [job for part in parts for job in part.jobs]
        assert sorted(together, key=str) == sorted(jobs(source).jobs, key=str)
        assert sum(part.rows for part in parts) == jobs(source).rows
    # However the folder is called or reached, and for names in a questions file alike.
    save("names.csv", "file\n" + "".join(f"more{n}.mp4\n" for n in range(40)))
    ways = [
        Source((folder,), ("x?",), questions_file, shard=Shard(2, 3), patterns=patterns)
        for folder in ("clips", str(clips), "other", "./clips/")
        for questions_file, patterns in ((None, ("more*",)), ("names.csv", ()))
    ]
    taken = [[os.path.basename(path) for path in paths(jobs(way))] for way in ways]
    assert all(one == taken[0] for one in taken)
    assert 0 < len(taken[0]) < 40


def test_an_empty_shard_is_no_mistake(clips: Path) -> None:
    parts = [jobs(Source(("clips/clip2.mp4",), ("x?",), shard=Shard(n, 2))) for n in (1, 2)]
    assert sorted(part.files for part in parts) == [0, 1]
    (empty,) = (part for part in parts if not part.jobs)
    assert empty.notes[0].endswith("has none of the 1 file")


def test_links_that_lead_nowhere(clips: Path) -> None:
    """A shell's * names them, too: told, and no typo."""
    Path("clips/broken.mp4").symlink_to("nowhere")
    listing = jobs(Source(("clips/broken.mp4", "clips/clip2.mp4"), ("x?",)))
    assert [job.missing for job in listing.jobs] == [True, False]
    assert listing.notes == ("1 file not there, such as clips/broken.mp4",)
    inside = jobs(Source(("clips",), ("x?",)))
    assert paths(inside) == ALL
    assert "1 name skipped: broken links or pipes" in inside.notes


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_looked_at_is_not_missing(clips: Path) -> None:
    """Reading it will say what is wrong."""
    (clips / "sub").chmod(0)
    try:
        given = jobs(Source(("clips/sub/a.mkv",), ("x?",)))
        assert "cannot be read (Permission denied)" in refusal(Source(("clips/sub",), ("x?",)))
    finally:
        (clips / "sub").chmod(0o700)
    assert [job.missing for job in given.jobs] == [False]


REFUSED = [
    (Source(("clips",)), "no question"),
    (Source((), ("x?",)), "no file"),
    (Source((), (), "every.csv"), "no file"),
    (Source(("clips", "clipz"), ("x?",)), "clipz: no such file or folder"),
    (Source(("clips", "Is there\na person?"), ("x?",)), "or by --question"),
    (Source(("",), ("x?",)), "no such file or folder"),
    (Source(("empty",), ("x?",)), "empty: holds no file"),
    (Source(("texts",), ("x?",)), "texts: holds no video, but 2 other files"),
    (Source(("clips",), ("x?",), patterns=("*.gif",)), "no file's name matches '*.gif'"),
    (Source(("clips",), ("x?",), patterns=("a/b",)), "without its folder"),
    (Source(("clips",), (" ",)), "the command line: the question is empty"),
    (Source(("clips",), ("x?", "")), "question 2: the question is empty"),
    (Source(("clips",), ("x" * 20_001,)), "at most 20,000"),
    (Source(("clips",), ("bad\udcff",)), "write it in UTF-8"),
    (Source(("clips",), ("x?",), "every.csv"), "every.csv has questions, and 'x?' is given"),
    (Source(("clips",), ("x?",), "named.csv"), "named.csv has questions, and 'x?' is given"),
    (Source(("clips",), (), "files.csv"), "files.csv: has no column 'question'"),
    (Source(("clips", "texts"), (), "named.csv"), "give no path, or the one folder"),
    (Source(("clips/clip2.mp4",), (), "named.csv"), "give no path, or the one folder"),
    (Source(("clipz",), (), "named.csv"), "not clipz"),
    (Source((), (), "named.csv", "-"), "leave out --from0"),
    (Source(("clips",), (), "named.csv", patterns=("*",)), "leave out --pattern"),
    (Source((), (), "-", "-"), "not both"),
    (Source(("texts",), (), "named.csv"), "none of the 2 files that it names is there"),
    (Source(("clips",), (), "none.csv"), "none.csv: no such file"),
    (Source((), ("x?",), names_from="none"), "none: no such file"),
    (Source((), ("x?",), names_from="-"), "standard input: names no file"),
    (Source((), ("x?",), names_from="folders"), "folders: names folders alone"),
    (Source((), ("x?",), names_from="lines"), "must end in zero bytes"),
    (Source((), ("x?",), names_from="gone"), "none of the 2 files is there, such as a.mp4"),
]


@pytest.mark.parametrize(("source", "expected"), REFUSED)
def test_one_clear_line(clips: Path, source: Source, expected: str) -> None:
    for folder in ("empty/below", "texts"):
        Path(folder).mkdir(parents=True)
    for name in ("empty/.hidden.mp4", "texts/a.txt", "texts/b.jpg"):
        Path(name).touch()
    save("every.csv", "question\nx?\n")
    save("files.csv", "file\nclip2.mp4\n")
    save("named.csv", "file,question\nclip2.mp4,x?\nclip10.mp4,y?\n")
    save("folders", "clips\0texts\0")
    save("lines", "clips/clip2.mp4\nclips/clip10.mp4\n")
    save("gone", "a.mp4\0b.mp4\0")
    assert expected in refusal(source)


def test_many_folders_that_cannot_be_read_are_few_lines(tmp_path: Path) -> None:
    """Ones that cannot be read even by root: their paths are too long."""
    (tmp_path / "a.mp4").touch()
    for number in range(8):
        (tmp_path / str(number)).mkdir()
        here = os.open(tmp_path / str(number), os.O_RDONLY)
        for _ in range(17):
            os.mkdir("d" * 250, dir_fd=here)
            below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
    notes = jobs(Source((str(tmp_path),), ("x?",))).notes
    assert len(notes) == 6
    assert all("cannot be read (File name too long)" in one for one in notes[:5])
    assert notes[5] == "3 more folders skipped, not readable"


def test_twenty_thousand_files_take_little_memory(tmp_path: Path) -> None:
    for number in range(20_000):
        os.close(os.open(tmp_path / f"clip{number}.mp4", os.O_CREAT | os.O_WRONLY))
    source = Source((str(tmp_path),), ("x?", "y?"))
    tracemalloc.start()
    try:
        listing = jobs(source)
        left_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (listing.files, listing.rows) == (20_000, 40_000)
    assert listing.jobs[19_999].path.endswith("clip19999.mp4")
    assert left_bytes < 20_000 * 400
    assert peak_bytes < 20_000 * 1500


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a.mp4", "./a.mp4", "b.mp4", "gone.mp4"]), st.text("xyz?", min_size=1)
        ),
        min_size=1,
    )
)
def test_every_row_is_asked_once(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "rows"
    folder.mkdir(exist_ok=True)
    for name in ("a.mp4", "b.mp4", "z.mp4"):
        (folder / name).touch()
    rows = [("z.mp4", "there?"), *rows]
    path = folder / "rows.csv"
    path.write_text("file,question\n" + "".join(f"{file},{text}\n" for file, text in rows))
    listing = jobs(Source((), (), str(path)))
    asked = [
        (os.path.basename(job.path), one.question) for job in listing.jobs for one in job.asked
    ]
    expected = list(dict.fromkeys((os.path.basename(file), text) for file, text in rows))
    assert sorted(asked) == sorted(expected)
    assert list(dict.fromkeys(file for file, _ in expected)) == [
        os.path.basename(job.path) for job in listing.jobs
    ]
    assert listing.rows == len(expected)


def test_no_torch_is_imported_for_it() -> None:
    code = (
        "import sys, tokenreduce.batch.sources; print(sorted({'torch', 'av'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
