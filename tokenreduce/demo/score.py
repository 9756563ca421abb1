"""Accuracy on a folder of generated clips, through the real pipeline: file, decoder, prompt, LLM.

Each clip is decoded, encoded and reduced once; every question about it is then asked for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenreduce.clock import Clock
from tokenreduce.demo import clips, questions
from tokenreduce.errors import InputError
from tokenreduce.models.base import Sampling, VideoModel
from tokenreduce.models.load import load
from tokenreduce.pipeline import reply
from tokenreduce.plan import Overrides, Plan, settle
from tokenreduce.preset import Preset, load_preset
from tokenreduce.video.decoder import Decoder
from tokenreduce.viewing import view
from tokenreduce.window import check_context

MAX_ANSWER_TOKENS = 12


@dataclass(frozen=True)
class Row:
    """One question. answerable: the sampled frames show its evidence."""

    clip: str
    kind: str
    question: str
    truth: str
    answer: str
    correct: bool
    answerable: bool


@dataclass(frozen=True)
class Share:
    """A share of correct answers. standard_error treats the questions of a clip as one cluster."""

    correct: float
    standard_error: float
    questions: int


@dataclass(frozen=True)
class Score:
    """What a preset reached on a folder. `tokens` are the mean visual tokens entering the LLM."""

    model: str
    world: int | str
    preset: str
    method: str
    frames: int
    tokens: float
    rows: tuple[Row, ...]

    def share(self, rows: Iterable[Row] | None = None) -> Share:
        return share(self.rows if rows is None else tuple(rows))

    @property
    def answerable(self) -> Share:
        return self.share(row for row in self.rows if row.answerable)

    @property
    def needles(self) -> Share:
        """All questions about stars, whether the sampled frames show them or not."""
        return self.share(row for row in self.rows if row.kind in questions.NEEDLES)

    def by_kind(self) -> dict[str, Share]:
        kinds = dict.fromkeys(row.kind for row in self.rows)
        return {kind: self.share(r for r in self.rows if r.kind == kind) for kind in sorted(kinds)}

    def to_json(self, *, rows: bool = True) -> dict[str, Any]:
        whole: dict[str, Any] = {
            "model": self.model,
            "world": self.world,
            "preset": self.preset,
            "method": self.method,
            "frames": self.frames,
            "tokens": self.tokens,
            "all": asdict(self.share()),
            "answerable": asdict(self.answerable),
            "needles": asdict(self.needles),
            "by_kind": {kind: asdict(found) for kind, found in self.by_kind().items()},
        }
        return whole | {"rows": [asdict(row) for row in self.rows]} if rows else whole


def share(rows: tuple[Row, ...]) -> Share:
    """Correct over asked, with the standard error of a ratio over clips drawn at random."""
    if not rows:
        return Share(0.0, 0.0, 0)
    mean = sum(row.correct for row in rows) / len(rows)
    per_clip: dict[str, float] = {}
    for row in rows:
        per_clip[row.clip] = per_clip.get(row.clip, 0.0) + row.correct - mean
    spread = sum(residue**2 for residue in per_clip.values())
    return Share(mean, spread**0.5 / len(rows), len(rows))


def score(
    folder: str | Path,
    preset: str | Preset = "balanced",
    budget: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    model: str | VideoModel = "demo",
    overrides: Overrides | None = None,
    seed: int = 0,
) -> Score:
    """Asks every question of the clips in `folder`. Raises InputError where it holds none."""
    try:
        found = clips.read(Path(folder))
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from error
    if not found:
        raise InputError(f"{folder} holds no questions: make some with `tokenreduce demo make`")
    answering = load(model) if isinstance(model, str) else model
    chosen = load_preset(preset) if isinstance(preset, str) else preset
    over = overrides or Overrides(budget=budget)
    sampling = Sampling(max_new_tokens=MAX_ANSWER_TOKENS, seed=seed)
    plan = settle(chosen, answering.spec, over, sampling)
    check_context(plan, answering.spec, text=0)
    rows: list[Row] = []
    tokens = []
    with Decoder() as decoder:
        for done, clip in enumerate(found, 1):
            asked, visual = _ask(decoder, answering, clip, plan)
            rows += asked
            tokens.append(visual)
            if on_progress is not None:
                on_progress(done, len(found))
    world = answering.spec.toy_world or "none"
    mean = sum(tokens) / len(tokens)
    return Score(
        answering.spec.name, world, plan.preset, plan.label, plan.frames, mean, tuple(rows)
    )


def _ask(
    decoder: Decoder, model: VideoModel, clip: clips.Clip, plan: Plan
) -> tuple[list[Row], int]:
    """All questions of one clip, and the visual tokens they were answered from."""
    clock = Clock()
    viewed = view(decoder, model, decoder.probe(clip.path), plan, clock)
    rows = []
    for question in clip.questions:
        given = reply(model, viewed, question.text, plan, clock).answer
        rows.append(
            Row(
                clip.path.name,
                question.kind,
                question.text,
                question.answer,
                given,
                matches(given, question.answer),
                questions.answerable(clip.scene, question, viewed.frame_seconds),
            )
        )
    return rows, viewed.visual.count


def matches(given: str, truth: str) -> bool:
    """Equal but for case, surrounding space and a full stop."""
    return given.strip().rstrip(".").lower() == truth.lower()
