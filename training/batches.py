"""Makes packed training batches: scenes, frames, questions the frames can answer, token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tokenreduce.demo import questions, scenes
from tokenreduce.demo.questions import Question
from tokenreduce.demo.world import SIDE, Scene, render
from training.model import GRID, Packed, layout
from training.tokenizer import TIME

HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
TURN = "<|im_end|>\n<|im_start|>assistant\n"
STOP = "<|im_end|>"
RATES = (10.0, 12.0, 15.0, 20.0, 24.0, 25.0)  # frames a second of the imagined files
PACK = 12  # questions behind one video
# How many questions of a kind one video may ask: the slowly learned kinds get more.
SHARE = {"color": 1, "shape": 1, "motion": 3, "count": 1, "exist": 2, "order": 2}
# Grids that pooling is varied over, with the newlines that a budget of that size would leave.
GRIDS = {(5, 5): 4, (4, 4): 2, (3, 3): 1, (3, 2): 0, (2, 3): 0}
DIRECTIONS_SO_FAR = ("left", "right", "up", "down", "still")


@dataclass(frozen=True)
class Shape:
    """What all videos of a batch share: frames, grid, tokens of each frame, time text or not."""

    frames: int
    grid: tuple[int, int]
    plan: tuple[tuple[bool, int], ...]
    timed: bool


@dataclass(frozen=True)
class Batch:
    """A packed batch and what training needs besides it.

    `early` [B, V, 3]: for each visual token the direction its object went so far (0 none, -1 not
    a token of the grid), whether that object is seen for the first time, and the frame's place in
    0..1; `asked` the questions, per video.
    """

    packed: Packed
    early: torch.Tensor
    asked: list[list[Question]]


class Words:
    """The tokenizer, with the prompt's fixed pieces encoded once."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.encode = lru_cache(100_000)(self._encode)
        self.head = self._encode(HEAD)
        self.size = self.tokenizer.get_vocab_size()

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)


def times(scene: Scene, rate: float, frames: int) -> tuple[list[float], float]:
    """LLaVA-Video's uniform sampling: times (s) of linspace(0, n - 1) frames, and n / rate."""
    count = max(round(scene.duration * rate), 1)
    index = np.linspace(0, count - 1, frames, dtype=int)
    return [float(at) for at in index / rate], count / rate


def time_text(at: Sequence[float], duration: float) -> str:
    return TIME.format(duration, len(at), ",".join(f"{t:.2f}s" for t in at))


def whole(frames: int, timed: bool) -> Shape:
    """The shape of an unreduced prompt."""
    return Shape(frames, (3, 3), ((True, GRID),) * frames, timed)


def varied(frames: int, rng: np.random.Generator, mixed: float, timed: bool) -> Shape:
    """A random layout: whole frames, or with probability `mixed` another pooling grid.

    A quarter of the latter alternate between two grids as LLaVA-Video's slow-fast frames do.
    Newlines are mostly the rule's, sometimes any number, so that none of them is relied upon.
    """
    grid = list(GRIDS)[int(rng.integers(len(GRIDS)))]
    if rng.random() >= mixed:
        lines = GRID if rng.random() < 0.85 else int(rng.integers(0, GRID + 1))
        return Shape(frames, grid, ((True, lines),) * frames, timed)
    draw = rng.random()
    rule, every = GRIDS[grid], grid[0]
    lines = rule if draw < 0.5 else every if draw < 0.8 else int(rng.integers(0, every + 1))
    if rng.random() < 0.25:
        step = int(rng.integers(2, 5))
        plan = tuple((i % step == 0, GRID if i % step == 0 else lines) for i in range(frames))
        return Shape(frames, grid, plan, timed)
    return Shape(frames, grid, ((False, lines),) * frames, timed)


def choose(found: list[Question], rng: np.random.Generator) -> list[Question]:
    """At most `PACK` questions, at most so many of each kind."""
    left = dict(SHARE)
    kept = []
    for question in found:
        if left.get(question.kind, 4) > 0:
            left[question.kind] = left.get(question.kind, 4) - 1
            kept.append(question)
    # With too many, drop at random among the kinds learned first.
    kept.sort(key=lambda q: q.kind in ("color", "shape", "exist"))
    kept = kept[:PACK]
    return [kept[i] for i in rng.permutation(len(kept))]


def spoken(question: Question, rng: np.random.Generator) -> str:
    """The question as typed: sometimes carelessly, sometimes with a request for one word."""
    text = question.text
    if rng.random() < 0.1:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.1:
        text = text.rstrip("?.")
    if rng.random() < 0.06:
        text += (" Answer with one word.", "\nAnswer in one word.")[int(rng.integers(2))]
    return text


def training_batch(
    words: Words, shape: Shape, videos: int, key: Sequence[int], rng: np.random.Generator
) -> Batch:
    """A batch of fresh scenes; 70 % of the films are sampled where their stars are."""
    chosen: list[tuple[Scene, list[float], float, list[Question]]] = []
    number = 0
    while len(chosen) < videos:
        rate = float(rng.choice(RATES))
        duration = float(np.round(rng.uniform(8.0, 60.0), 1))
        count = max(round(duration * rate), 1)
        index = np.linspace(0, count - 1, shape.frames, dtype=int)
        at = [float(second) for second in index / rate]
        snap = at if rng.random() < 0.7 else None
        things = int(rng.choice(6, p=(0.12, 0.16, 0.18, 0.18, 0.18, 0.18))) + 1
        scene = scenes.sample(
            (scenes.TRAINING, *key, number), things=things, duration=duration, snap=snap
        )
        number += 1
        found = [q for q in questions.ask(scene, rng) if questions.answerable(scene, q, at)]
        if found:
            chosen.append((scene, at, count / rate, choose(found, rng)))
    return pack(words, shape, chosen, rng)


def pack(
    words: Words,
    shape: Shape,
    chosen: list[tuple[Scene, list[float], float, list[Question]]],
    rng: np.random.Generator | None = None,
) -> Batch:
    """Token ids and frames of (scene, times, duration, questions) in one batch.

    With `rng` the questions are typed as `spoken` types them, without it verbatim.
    """
    frames = np.stack([render(scene, at) for scene, at, _, _ in chosen])
    tails, rows = [], []
    for _, at, duration, asked in chosen:
        tails.append(words.encode("\n" + time_text(at, duration) if shape.timed else "\n"))
        lines = []
        for question in asked:
            text = question.text if rng is None else spoken(question, rng)
            lines.append((words.encode(text + TURN), words.encode(question.answer + STOP)))
        rows.append(lines)
    longest = max(len(tail) for tail in tails)
    size = max(len(a) + len(b) - 1 for lines in rows for a, b in lines)
    count = max(len(lines) for lines in rows)
    tail_ids = torch.zeros(len(chosen), longest, dtype=torch.long)
    asked_ids = torch.zeros(len(chosen), count, size, dtype=torch.long)
    targets = torch.full((len(chosen), count, size), -100)
    for video, (tail, lines) in enumerate(zip(tails, rows, strict=True)):
        tail_ids[video, : len(tail)] = torch.tensor(tail)
        for line, (said, answer) in enumerate(lines):
            both = torch.tensor(said + answer)
            asked_ids[video, line, : len(both) - 1] = both[:-1]
            targets[video, line, len(said) - 1 : len(both) - 1] = both[len(said) :]
    packed = Packed(
        frames=torch.from_numpy(frames),
        head=torch.tensor(words.head),
        tail=tail_ids,
        tail_length=torch.tensor([len(tail) for tail in tails]),
        asked=asked_ids,
        targets=targets,
        grid=shape.grid,
        layout=layout(list(shape.plan), shape.grid),
    )
    early = np.stack([_early(scene, at, shape) for scene, at, _, _ in chosen])
    return Batch(packed, torch.from_numpy(early), [asked for *_, asked in chosen])


def _early(scene: Scene, at: list[float], shape: Shape) -> NDArray[np.float32]:
    """Labels of the auxiliary head for every visual token, [V, 3]."""
    table = GRID * GRID + shape.grid[0] * shape.grid[1] + 1
    labels = np.zeros((len(at), table, 3), np.float32)
    labels[..., 2] = (np.arange(len(at)) / max(len(at) - 1, 1))[:, None]
    labels[:, -1, 0] = -1  # newlines
    for thing in scene.things:
        seen = [index for index, t in enumerate(at) if thing.visible(t)]
        if not seen:
            continue
        x0, y0 = thing.position(at[seen[0]])
        for index in seen:
            x, y = thing.position(at[index])
            across, down = x - x0, y - y0
            code = 5
            if abs(across) + abs(down) > 0.08 * SIDE:
                code = (1 if across < 0 else 2) if abs(across) > abs(down) else 3 if down < 0 else 4
            for first, (rows, columns) in ((0, (GRID, GRID)), (GRID * GRID, shape.grid)):
                cell = int(y / SIDE * rows) * columns + int(x / SIDE * columns)
                labels[index, first + cell, 0] = code
                labels[index, first + cell, 1] = float(index == seen[0])
    where = layout(list(shape.plan), shape.grid).numpy()
    return np.asarray(labels.reshape(-1, 3)[where], np.float32)
