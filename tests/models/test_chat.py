"""The prompt: LLaVA-Video's own words, and nothing a user writes can leave its place in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tokenreduce.errors import InputError
from tokenreduce.models.chat import Chat, message, prompt_text, time_text, unknown_words

GOLDEN = Path(__file__).parents[1] / "golden" / "llava_video" / "text_and_sampling.json"
PROMPTS: list[dict[str, Any]] = json.loads(GOLDEN.read_text())["prompts"]
TRAINED = [p for p in PROMPTS if p["style"].startswith("demo_or_lmms_eval")]
TIMES = [0.0, 0.71, 1.42, 2.12, 2.83, 3.54, 4.25, 4.96]


def fast(**kwargs: Any) -> PreTrainedTokenizerFast:
    kind: Any = PreTrainedTokenizerFast  # untyped
    made: PreTrainedTokenizerFast = kind(**kwargs)
    return made


def character_tokenizer(bos: bool) -> PreTrainedTokenizerFast:
    """The golden data's toy tokenizer: the id of a character is its code, BOS is 1."""
    tokenizer = Tokenizer(models.WordLevel({chr(code): code for code in range(128)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if not bos:
        return fast(tokenizer_object=tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="\x01 $A", special_tokens=[("\x01", 1)]
    )
    return fast(tokenizer_object=tokenizer, bos_token="\x01")


def parts(prompt: dict[str, Any]) -> tuple[str, str | None]:
    """The question, and the time instruction if the golden message has one."""
    body = prompt["user_message"].removeprefix("<image>\n").removesuffix(prompt["question"])
    return prompt["question"], body.removesuffix("\n") or None


def test_the_golden_data_has_both_forms() -> None:
    assert len({p["style"] for p in TRAINED}) == 2


@pytest.mark.parametrize("prompt", TRAINED, ids=lambda p: p["style"])
def test_the_prompt_is_that_of_training(prompt: dict[str, Any]) -> None:
    question, time = parts(prompt)
    if time is not None:
        frames = [float(s.removesuffix("s")) for s in _stamps(time)]
        duration = float(time.split(" seconds")[0].rsplit(" ", 1)[1])
        assert time_text(duration, frames) == time
    assert f"<image>{message(question, time)}" == prompt["user_message"]
    assert prompt_text(question, time) == prompt["prompt_qwen_1_5"]


def _stamps(time: str) -> list[str]:
    return time.split("located at ")[1].split(".Please", maxsplit=1)[0].split(",")


@pytest.mark.parametrize("prompt", TRAINED, ids=lambda p: p["style"])
def test_the_tokens_are_those_of_upstream(prompt: dict[str, Any]) -> None:
    before, after = Chat(character_tokenizer(bos=False)).pieces(*parts(prompt))
    assert [*before, -200, *after] == prompt["toy_char_tokenizer_ids"]


@pytest.mark.parametrize("prompt", TRAINED, ids=lambda p: p["style"])
def test_a_bos_is_kept_once(prompt: dict[str, Any]) -> None:
    before, after = Chat(character_tokenizer(bos=True)).pieces(*parts(prompt))
    assert before[:20] == prompt["toy_char_tokenizer_with_bos1_ids_first20"]
    assert [*before, *after].count(1) == 1


def test_time_text_rounds_to_hundredths() -> None:
    assert time_text(5, [0.004, 4.999]).startswith(
        "The video lasts for 5.00 seconds, and 2 frames are uniformly sampled from it. "
        "These frames are located at 0.00s,5.00s.Please answer"
    )


# The last cannot be cut up.
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", "§"]


@cache
def chat_with_added_tokens() -> Chat:
    """Bytes, special tokens as in the hub's OneVision checkpoints, and an ordinary added one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(["<tool_call>"])
    return Chat(fast(tokenizer_object=tokenizer, eos_token="<|im_end|>"))


ADDED = st.sampled_from([*SPECIAL, "<tool_call>", "<|", "|>", "<|im_", "end|>", "im_start", "\n"])


@given(st.lists(st.one_of(ADDED, st.text(max_size=5)), max_size=8).map("".join))
def test_no_question_makes_a_special_token(question: str) -> None:
    chat = chat_with_added_tokens()
    ids = chat.plain(question)
    assert all(token < 256 for token in ids)
    # Every byte is still there, in order.
    assert len(ids) == len(question.encode())
    _, after = chat.pieces(question, None)
    assert after[: len(ids) + 1] == chat.plain(f"\n{question}")
    assert [t for t in after if t >= 256] == [t for t in chat.pieces("", None)[1] if t >= 256]


def test_a_plain_question_is_tokenized_as_upstream_does_the_whole_piece() -> None:
    chat = chat_with_added_tokens()
    text = "\nWhat's red, 12 or blue?<|im_end|>\n<|im_start|>assistant\n"
    whole = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert chat.pieces("What's red, 12 or blue?", None)[1] == whole


def test_many_special_tokens_do_not_exhaust_the_stack() -> None:
    assert len(chat_with_added_tokens().plain("<image>" * 3000)) == 7 * 3000


def test_a_stray_byte_is_an_input_error() -> None:
    with pytest.raises(InputError, match="UTF-8"):
        chat_with_added_tokens().pieces("what\udcff?", None)


def test_answers_stop_at_the_end_of_a_turn_or_of_a_text() -> None:
    chat = chat_with_added_tokens()
    names = {chat.tokenizer.convert_ids_to_tokens(token) for token in chat.stops}
    assert names == {"<|im_end|>", "<|endoftext|>"}
    assert chat.text_of([*chat.plain("red "), *chat.stops]) == "red "


def test_unknown_words_are_those_without_a_token_of_their_own(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
) -> None:
    tokenizer = make_tokenizer(300)
    tokenizer.add_tokens(["What", "colour", "is", "star"])
    # Added tokens are cut up as user text, so the words must be in the vocabulary itself.
    assert unknown_words(Chat(tokenizer), "star") == ("star",)
    chat = Chat(word_tokenizer(["What", "Ġcolour", "Ġis", "Ġthe", "Ġstar"]))
    assert unknown_words(chat, "What colour is the star?") == ()
    assert unknown_words(chat, "What colour is the cat, the cat or 12 dögs? 星 🙂") == (
        "cat",
        "or",
        "dögs",
        "星",
        "🙂",
    )
    assert unknown_words(chat, "What is 12.5?") == ()


def word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose merges build exactly `words` (Ġ is a leading space)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                merges.append((word[: end - 1], word[end - 1]))
                vocabulary[word[:end]] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return fast(tokenizer_object=tokenizer)
