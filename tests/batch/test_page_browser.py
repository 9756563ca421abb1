"""The page in a real browser, where there is one: its policy lets its script run, which works."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tokenreduce.batch.page import About, write_page
from tokenreduce.batch.rows import Failure, Row, id_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
WHEN = "2026-11-01T10:00:00.125Z"
KEY = "0123456789abcdef" * 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
]

PROBE = """
addEventListener("load", () => {
  const found = {};
  const files = () => [...document.querySelectorAll("tbody tr:not([hidden]) th > div")]
    .map((one) => one.textContent);
  const heads = [...document.querySelectorAll("thead th")];
  const press = (name) => {
    const head = heads.find((one) => one.classList.contains(name));
    head.querySelector("button").click();
    return [head.getAttribute("aria-sort"), files()];
  };
  found.tokens = [press("tokens"), press("tokens"), press("tokens")];
  found.file = [press("file"), press("file")];
  found.sorted = heads.map((one) => one.getAttribute("aria-sort"));
  const input = document.querySelector("input");
  const select = document.querySelector("select");
  const choose = (at) => {
    select.selectedIndex = at;
    select.dispatchEvent(new Event("change"));
    return [files(), document.querySelector("output").value];
  };
  found.kinds = [...select.options].map((one) => one.textContent);
  found.chosen = [1, 2, 3, 0].map(choose);
  input.value = "CLIP  green";
  found.filtered = choose(0);
  input.value = "nowhere";
  found.none = [...choose(0), document.querySelector(".nothing").hidden];
  document.body.replaceChildren(JSON.stringify(found));
});
"""


def rows() -> list[Row]:
    def answer(text: str, merged: int) -> dict[str, Any]:
        return {"answer": text, "tokens": {"merged": merged, "raw": 10_000}}

    one = Row(
        id=id_of(KEY),
        key=KEY,
        settings="5" * 64,
        content="c" * 64,
        file="clip-10.mp4",
        question="What?",
        status="answered",
        attempts=1,
        started=WHEN,
        finished=WHEN,
        host="here",
        worker="w0",
        answer=answer("red", 900),
    )
    failed = replace(one, status="failed", answer=None, failure=Failure("Timeout", "slow"))
    return [
        one,
        replace(failed, file="clip-9.mp4"),
        replace(one, file="clip-2.mp4", answer=answer("dark green", 1000)),
        replace(one, file="<img src=x onerror=document.title='ran'>.mp4", answer=answer("x", 80)),
    ]


def opened(path: Path, text: str) -> str:
    """The page as the browser has it once its scripts have run."""
    path.write_text(text, encoding="utf-8")
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={path.parent / 'profile'}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout


def page(folder: Path) -> str:
    with open(folder / "made.html", "w", encoding="utf-8", newline="\n") as file:
        told = [(row, ()) for row in rows()]
        write_page(file, told, About("a.jsonl", WHEN), lambda *_: b"\xff\xd8\xff")
    return (folder / "made.html").read_text(encoding="utf-8")


def test_its_own_script_runs_under_its_policy_and_no_other(tmp_path: Path) -> None:
    foreign = "<script>document.title = 'ran'</script></body>"
    shown = opened(tmp_path / "page.html", page(tmp_path).replace("</body>", foreign))
    assert len(re.findall(r'aria-sort="none"[^>]*><button type="button">', shown)) == 7
    assert "<title>a.jsonl · tokenreduce</title>" in shown


def test_sorting_and_filtering(tmp_path: Path) -> None:
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>\n', "", page(tmp_path))
    shown = opened(
        tmp_path / "page.html", text.replace("</body>", f"<script>{PROBE}</script></body>")
    )
    found = json.loads(html.unescape(re.findall(r"<body>(.*)</body>", shown, re.DOTALL)[0]))
    ten, nine, two, other = (row.file for row in rows())
    assert found["tokens"] == [
        ["ascending", [other, ten, two, nine]],
        ["descending", [two, ten, other, nine]],  # without a number: last
        ["none", [ten, nine, two, other]],
    ]
    assert found["file"] == [
        ["ascending", [other, two, nine, ten]],  # 2 before 10
        ["descending", [ten, nine, two, other]],
    ]
    assert found["sorted"] == [None, "descending", *["none"] * 6]
    assert found["kinds"] == ["all rows", "answered", "failed", "failed: Timeout"]
    assert found["chosen"] == [
        [[ten, two, other], "3 of 4 rows"],
        [[nine], "1 of 4 rows"],
        [[nine], "1 of 4 rows"],
        [[ten, nine, two, other], "4 rows"],
    ]
    assert found["filtered"] == [[two], "1 of 4 rows"]
    assert found["none"] == [[], "0 of 4 rows", False]
