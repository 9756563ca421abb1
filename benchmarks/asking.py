"""Asks every question about generated clips under many settings, resumably; keeps the answers.

Each clip is made, decoded and encoded once for all cells that look at the same frames, then reduced
and asked cell by cell, through the pipeline's own steps. Rows are appended as they come, so that a
run can be stopped at any time. Knows no method and draws no conclusion.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.record import commit
from tokenreduce.errors import SettingError
from tokenreduce.plan import Overrides
from tokenreduce.preset import Preset


@dataclass(frozen=True)
class Cell:
    """One way of asking. clips: at most so many; extra: more for the result, as it is."""

    name: str
    preset: Preset
    over: Overrides
    crf: int = 23
    clips: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


Cells = Callable[[], Iterable[Cell]]


@dataclass(frozen=True)
class Asking:
    """What a run is about. seed: of the clips; work: where rows are kept."""

    seed: int
    clips: int
    jobs: int
    only: str
    model: str
    work: Path

    def of(self, cell: Cell) -> int:
        """How many clips the cell is asked about."""
        return min(cell.clips or self.clips, self.clips)


def arguments(parser: argparse.ArgumentParser, clips: int) -> argparse.ArgumentParser:
    parser.add_argument("--clips", type=int, default=clips, help=f"of about 15 questions ({clips})")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--only", default="", help="cells whose name contains one of these, by |")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--work", type=Path, help="default: by the digest of the weights")
    return parser


def run(cells: Cells, asking: Asking) -> None:
    """Asks what has not been asked yet. `cells`: a function of a module, for the processes."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_work, args=(job, cells, asking)) for job in range(asking.jobs)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a worker failed; what it had finished is kept")


def _work(job: int, cells: Cells, asking: Asking) -> None:
    """Every jobs-th clip, all cells."""
    import torch

    from tokenreduce.models.load import load
    from tokenreduce.video.decoder import Decoder

    torch.set_num_threads(1)
    model = load(asking.model, device="cpu")
    wanted = asking.only.split("|")
    chosen = [cell for cell in cells() if any(part in cell.name for part in wanted)]
    codes = {cell.name: code_of(cell) for cell in chosen}
    asking.work.mkdir(parents=True, exist_ok=True)
    done = {(row["setting"], row["index"], row.get("code")) for row in rows(asking.work)}
    here = commit()
    out = asking.work / f"rows-{os.getpid()}.jsonl"
    with Decoder() as decoder, out.open("a") as file:
        for index in range(job, asking.clips, asking.jobs):
            left = [
                cell
                for cell in chosen
                if index < asking.of(cell) and (cell.name, index, codes[cell.name]) not in done
            ]
            for line in _ask(decoder, model, index, left, asking):
                made = {"code": codes[line["setting"]], "commit": here}
                file.write(json.dumps({**line, **made}) + "\n")
                file.flush()


def _ask(
    decoder: Any, model: Any, index: int, left: Sequence[Cell], asking: Asking
) -> Iterator[dict[str, Any]]:
    from tokenreduce import looking
    from tokenreduce.clock import Clock
    from tokenreduce.demo import clips
    from tokenreduce.models.base import Sampling
    from tokenreduce.plan import settle

    scene, rate, asked = clips.draw(asking.seed, index)
    planned = []
    for cell in left:
        try:
            planned.append((cell, settle(cell.preset, model.spec, cell.over, Sampling(8))))
        except SettingError as refused:  # a mean that a method cannot reach
            yield {"setting": cell.name, "index": index, "refused": str(refused), "answers": []}
    encoded: dict[tuple[int, int], looking.Encoded] = {}
    for cell, plan in planned:
        key = (plan.frames, cell.crf)
        if key not in encoded:
            path = asking.work / f"clip-{index:03d}-{cell.crf}.mp4"
            if not path.exists():
                clips.write(path, scene, rate, crf=cell.crf)
            alike = [p for c, p in planned if (p.frames, c.crf) == key and p.merge is not None]
            needs = frozenset[Any]().union(*(p.merge.needs for p in alike if p.merge is not None))
            probe = decoder.probe(path)
            encoded[key] = looking.encode(decoder, model, probe, plan, Clock(), needs)
        yield _answers(cell, plan, encoded[key], model, index, (scene, asked))
    for path in asking.work.glob(f"clip-{index:03d}-*.mp4"):
        path.unlink()


def _answers(
    cell: Cell, plan: Any, encoded: Any, model: Any, index: int, clip: tuple[Any, Any]
) -> dict[str, Any]:
    from tokenreduce import viewing
    from tokenreduce.clock import Clock
    from tokenreduce.demo import questions
    from tokenreduce.demo.score import matches
    from tokenreduce.models.base import Stem
    from tokenreduce.replying import asked as asked_of

    scene, asked = clip
    viewed = viewing.merge(model, encoded, plan, Clock())
    answers, mean, flops = [], 0.0, 0.0
    stem: Stem | None = Stem()  # what all questions share is read once
    for question in asked:
        given, stem = asked_of(model, viewed, question.text, plan, Clock(), stem=stem)
        mean = given.tokens.mean_per_layer
        flops = flops or given.flops.llm + given.flops.overhead  # of the first, which reads all
        answers.append(
            {
                "kind": question.kind,
                "correct": matches(given.answer, question.answer),
                "answerable": questions.answerable(scene, question, viewed.frame_seconds),
            }
        )
    return {
        "setting": cell.name,
        "index": index,
        "tokens": viewed.visual.count,
        "mean_tokens": mean,
        "llm_flops": flops,
        "answers": answers,
    }


def code_of(cell: Cell) -> str:
    """A digest of the code that makes the cell's choice: rows of other code are not its rows."""
    from tokenreduce import holding, planned, reducer, schedule, seen, solving, steps
    from tokenreduce.recipes import stages_of

    stages = cell.preset.stage if cell.over.method is None else stages_of(cell.over.method)
    modules = [holding, planned, reducer, schedule, seen, solving, steps]
    found = {inspect.getmodule(type(stage.method)) for stage in stages}
    files = sorted(inspect.getsource(module) for module in [*modules, *found] if module)
    own = repr((stages, cell.over, cell.preset.keep, cell.preset.newlines, cell.crf))
    return hashlib.sha256("\n".join([*files, own]).encode()).hexdigest()[:16]


def identity(model: str) -> dict[str, Any]:
    """Which weights and which world: a figure means nothing without them."""
    from tokenreduce.models.files import CONFIG, read_json, weight_files
    from tokenreduce.models.locate import config_folder, resolve

    folder = config_folder(resolve(model))
    config = read_json(folder / CONFIG, model)
    digest = hashlib.sha256()
    for path in weight_files(folder, model):
        digest.update(path.read_bytes())
    return {
        "model": model,
        "sha256": digest.hexdigest(),
        "checkpoint_version": config.get("checkpoint_version"),
        "world_version": config.get("world_version"),
    }


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """All rows that were finished; a line cut short by a stop is none."""
    for path in sorted(folder.glob("rows-*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def by_cell(
    cells: Iterable[Cell], asking: Asking, *, any_code: bool = False
) -> dict[str, dict[int, dict[str, Any]]]:
    """The rows of today's code by cell and clip; a cell that lacks a clip is not there, for no
    figure comes from fewer questions than it states. any_code: rows of whatever code, where all
    of them are known to come from one commit."""
    every: dict[tuple[str, str | None], dict[int, dict[str, Any]]] = {}
    for row in rows(asking.work):
        code = None if any_code else row.get("code")
        every.setdefault((row["setting"], code), {})[row["index"]] = row
    found = {}
    for cell in cells:
        own = every.get((cell.name, None if any_code else code_of(cell)), {})
        wanted = {i: row for i, row in own.items() if i < asking.of(cell)}
        if len(wanted) == asking.of(cell):
            found[cell.name] = dict(sorted(wanted.items()))
    return found
