"""The training's own forward pass equals the stock model's, and its prompts the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tokenreduce.demo import questions, scenes

# training/ is not part of the installed package, so the checkout lends it; tokenreduce is imported
# above, from where it is installed, and stays that.
with pytest.MonkeyPatch.context() as lent:
    lent.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    from training import batches, tokenizer
    from training.batches import HEAD, STOP, TURN, Words
    from training.model import DEPTH, GRID, WIDTH, DemoModel, layout, spread


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.write(path)
    return path


@pytest.fixture(scope="module")
def words(folder: Path) -> Words:
    return Words(folder)


@pytest.mark.parametrize(
    "text", ["", " ", "Wörter, 漢字 🎬\t\r\n\n  x=1_000", "\x00\x7f", "crosses"]
)
def test_any_text_comes_back_from_its_tokens(folder: Path, text: str) -> None:
    read = AutoTokenizer.from_pretrained(folder)
    assert read.decode(read.encode(text)) == text


def test_words_of_the_world_and_digits_are_single_tokens(words: Words) -> None:
    for word in questions.vocabulary():
        assert len(words.encode(word)) == 1, word
        assert len(words.encode(f" {word}")) == 1, word
    assert len(words.encode("31.07")) == 5


def test_marks_are_single_tokens(folder: Path) -> None:
    read: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for mark in tokenizer.SPECIAL:
        assert len(read.encode(mark).ids) == 1
    assert AutoTokenizer.from_pretrained(folder).eos_token == STOP


@pytest.mark.parametrize("timed", [True, False])
def test_splitting_the_prompt_for_packing_changes_no_token(words: Words, timed: bool) -> None:
    tail = "\n" + batches.time_text([0.0, 11.25], 22.5) if timed else "\n"
    asked = "What colour is the star?" + TURN
    assert words.encode(tail + asked + "red" + STOP) == (
        words.encode(tail) + words.encode(asked) + words.encode("red" + STOP)
    )


def test_the_prompt_is_llava_videos() -> None:
    text = HEAD + "\n" + batches.time_text([0.0, 10.0], 10.5) + "Why?" + TURN
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n\n"
        "The video lasts for 10.50 seconds, and 2 frames are uniformly sampled from it. These "
        "frames are located at 0.00s,10.00s.Please answer the following questions related to this "
        "video.\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_packed_questions_score_as_if_asked_alone(words: Words) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = DemoModel(words.size).eval()
    shape = batches.whole(3, timed=True)
    batch = batches.training_batch(words, shape, 2, (0, 0), rng)
    packed = batch.packed
    embed = model.llm.model.embed_tokens
    with torch.no_grad():
        hidden, _ = model(packed)
        pooled = model.see(packed.frames.flatten(0, 1)).view(2, 3, GRID * GRID, WIDTH)
        visual = model.visual(pooled, packed.grid, packed.layout)
        for video, asked in enumerate(batch.asked):
            tail = embed(packed.tail[video, : packed.tail_length[video]])
            for line in range(len(asked)):
                parts = [embed(packed.head), visual[video], tail, embed(packed.asked[video, line])]
                alone = model.llm.model(inputs_embeds=torch.cat(parts)[None], use_cache=False)
                last = alone.last_hidden_state[0, -packed.asked.shape[2] :]
                assert torch.allclose(last, hidden[video, line], atol=1e-4)


def test_blind_questions_do_not_see_the_video(words: Words) -> None:
    rng = np.random.default_rng(0)
    model = DemoModel(words.size).eval()
    packed = batches.training_batch(words, batches.whole(2, False), 1, (0, 1), rng).packed
    visual = torch.randn(1, 84, WIDTH)
    with torch.no_grad():
        whole, _ = model.answer(visual, packed)
        same, _ = model.answer(visual, packed, blind=DEPTH)
        hidden, _ = model.answer(visual, packed, blind=0)
    assert torch.equal(whole, same)
    assert not torch.allclose(whole, hidden, atol=1e-3)


def test_a_whole_frame_ends_every_row_with_a_newline() -> None:
    where = layout([(True, GRID)], (3, 3))
    newline = GRID * GRID + 9
    assert where.tolist() == [
        token for row in range(GRID) for token in (*range(row * 6, row * 6 + 6), newline)
    ]


@pytest.mark.parametrize(
    ("count", "rows", "ends"),
    [(1, 6, [5]), (2, 6, [2, 5]), (3, 6, [1, 3, 5]), (4, 5, [0, 1, 2, 4])],
)
def test_newlines_are_spread(count: int, rows: int, ends: list[int]) -> None:
    assert spread(count, rows) == ends


def test_training_asks_only_what_its_frames_show(words: Words) -> None:
    rng = np.random.default_rng(1)
    batch = batches.training_batch(words, batches.whole(1, False), 8, (0, 2), rng)
    kinds = {question.kind for asked in batch.asked for question in asked}
    assert not kinds & {"motion", "order", "needle_when", "star_order"}
    assert scenes.TRAINING not in (scenes.HELD_OUT, scenes.CLIPS)
