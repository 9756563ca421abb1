"""Several questions about the same frames, each read on from the first: the answers are those of
questions asked by themselves, on real checkpoints' prompts and tokenizers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from tokenreduce.budget import Layout
from tokenreduce.cost import Reused
from tokenreduce.engine.host import read_prompt
from tokenreduce.engine.types import Plan, Prefilled
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.methods.ask_prune import AskPrune
from tokenreduce.models.base import Generation, Prompt, Prune, Sampling, Stem, VideoModel
from tokenreduce.schedule import Once, Ramp
from tokenreduce.tokens import Tokens

QUESTIONS = (
    "What colour is the star that appears briefly?",
    "What shape is red?",
    ".Which is it: a star, a circle or something else that has any colour at all?",
    "?",
    "What colour is the star that appears briefly?",
)
TIME = "The video lasts for 2.00 seconds, and 8 frames are uniformly sampled from it."
ASK = (Prune(AskPrune(), Once(Fraction(1, 4), Fraction(1, 4))),)
AIM = (Prune(AimPrune(), Ramp(Fraction(1, 2), Fraction(1))),)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Seen:
    """Frames as a model sees them, and what will be removed of them."""

    model: Any
    visual: Tokens
    grid: Layout
    prunes: Sequence[Prune]

    @classmethod
    def of(cls, model: VideoModel, prunes: Sequence[Prune], seed: int = 0) -> Seen:
        generator = torch.Generator().manual_seed(seed)
        side = model.spec.vision.image_size
        shape = (4, side, side, 3)
        frames = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        features = model.encode(frames).flatten(0, 1).unsqueeze(0)
        grid = Layout(4, model.spec.side, model.spec.side)
        return cls(model, Tokens.fresh(features), grid, prunes)

    def prompt(self, question: str, time: str | None) -> Prompt:
        prompt: Prompt = self.model.prompt(question, time, self.visual, self.grid)
        return prompt

    def answered(self, prompt: Prompt, stem: Stem | None) -> Generation:
        made: Generation = self.model.generate(
            prompt, self.prunes, Sampling(4), lambda _: None, lambda _: None, stem=stem
        )
        return made

    def read(self, prompt: Prompt, stem: Stem | None) -> Prefilled:
        with torch.no_grad():
            return read_prompt(
                self.model.host, Plan(prompt, self.prunes, stem=stem), DynamicCache()
            )


@pytest.mark.parametrize(
    ("family", "prunes", "time"),
    [
        ("demo", ASK, TIME),
        ("demo", AIM, None),
        ("demo", (), None),
        ("llava15", ASK, TIME),
        ("llava15", AIM, None),
        ("onevision", ASK, None),
    ],
)
def test_further_questions_are_answered_as_by_themselves(
    request: pytest.FixtureRequest, family: str, prunes: Sequence[Prune], time: str | None
) -> None:
    """Wherever tokenizers cut between what is said of the frames and the question."""
    seen = Seen.of(request.getfixturevalue(family), prunes)
    stem: Stem | None = Stem()
    for i, question in enumerate(QUESTIONS):
        prompt = seen.prompt(question, time)
        again, afresh = (seen.read(prompt, one) for one in (stem, None))
        torch.testing.assert_close(again.logits, afresh.logits, rtol=1e-5, atol=1e-5)
        made, alone = (seen.answered(prompt, one) for one in (stem, None))
        assert made.text == alone.text
        assert made.per_layer == alone.per_layer
        if i == 0:
            assert made.reused == Reused()
        else:
            assert made.reused.positions > int(prompt.visual[-1])
            assert made.reused.positions < prompt.embeds.shape[1]
        stem = made.stem
    assert stem is not None
    assert stem.nbytes > 0


def test_of_another_video_no_visual_token_is_read_already(demo: VideoModel) -> None:
    one, other = Seen.of(demo, ASK), Seen.of(demo, ASK, seed=1)
    stem = one.answered(one.prompt(QUESTIONS[0], None), Stem()).stem
    prompt = other.prompt(QUESTIONS[0], None)
    made = other.answered(prompt, stem)
    assert made.reused.positions <= int(prompt.visual[0])
    assert made.text == other.answered(prompt, None).text
