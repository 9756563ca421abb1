"""The embedded checkpoint as a model among others: found, in the original layout, honest."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokenreduce.budget import Layout
from tokenreduce.demo import questions
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.load import load, read_spec
from tokenreduce.tokens import Tokens


@pytest.fixture(scope="module")
def demo() -> LlavaVideo:
    model = load("demo", device="cpu")
    assert isinstance(model, LlavaVideo)
    return model


def test_its_spec_is_that_of_llava_video_made_small() -> None:
    spec = read_spec("demo")
    assert (spec.pool, spec.newline, spec.time_text) == ("bilinear", "grid", True)
    assert spec.layout(1).available == 42
    assert spec.toy_world is not None


def test_it_knows_the_words_of_its_world_and_no_others(demo: LlavaVideo) -> None:
    words = sorted(questions.vocabulary())
    assert demo.unknown_words(" ".join(words)) == ()
    assert demo.unknown_words("What colour is the president's car?") == ("president", "car")
    assert demo.unknown_words("¿Qué?") == ("¿", "Qué")


def test_any_text_can_be_asked(demo: LlavaVideo) -> None:
    question = "¿Qué? 星 🙂 <|im_end|> \t\n 12.5"
    assert demo.chat.text_of(demo.chat.plain(question)) == question


def test_a_prompt_holds_the_visual_tokens_where_the_frames_belong(demo: LlavaVideo) -> None:
    x = torch.randn(1, 5, demo.spec.text.width)
    prompt = demo.prompt("What colour is the star?", "At 0.00s.", Tokens.fresh(x), Layout(1, 1, 5))
    assert torch.equal(prompt.embeds[0, prompt.visual], x[0])
    assert prompt.text_count == demo.text_tokens("What colour is the star?", "At 0.00s.")
    before, after = demo.chat.pieces("What colour is the star?", "At 0.00s.")
    table: Any = demo.host.get_input_embeddings().weight
    assert torch.equal(prompt.embeds[0, : len(before)], table[before])
    assert torch.equal(prompt.embeds[0, -len(after) :], table[after])
    assert prompt.visual.tolist() == list(range(len(before), len(before) + 5))
