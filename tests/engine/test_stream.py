"""Text while tokens come: whole characters only, and in the end all of it."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce.engine.stream import TextStream

END, SPECIAL = 256, 257


def from_bytes(ids: list[int]) -> str:
    """A byte-level tokenizer with special tokens, which decoding leaves out."""
    return bytes(token for token in ids if token < 256).decode("utf-8", errors="replace")


def streamed(ids: list[int]) -> tuple[list[str], str]:
    pieces: list[str] = []
    stream = TextStream(from_bytes, [END], pieces.append)
    stream.put(torch.empty(1, 0, dtype=torch.int64))  # what generate sends for embeddings
    for token in ids:
        stream.put(torch.tensor([token]))
    stream.end()
    return pieces, stream.text


@given(st.text(max_size=12))
def test_every_piece_is_whole_and_all_of_them_are_the_text(text: str) -> None:
    text = text.replace("\N{REPLACEMENT CHARACTER}", "?")
    pieces, whole = streamed(list(text.encode()))
    assert "".join(pieces) == whole == text
    assert pieces == list(text)  # one character as soon as its last byte is there


@given(st.lists(st.integers(0, 257), max_size=24))
def test_any_tokens_end_as_their_decoded_text(ids: list[int]) -> None:
    pieces, whole = streamed(ids)
    assert "".join(pieces) == whole == from_bytes(ids)


def test_special_tokens_say_nothing() -> None:
    assert streamed([72, SPECIAL, 105, END]) == (["H", "i"], "Hi")
    assert streamed([END]) == ([], "")


def test_a_character_cut_off_at_the_end_is_shown_as_such() -> None:
    assert streamed([*b"a", *"é".encode()[:1]]) == (["a", "\N{REPLACEMENT CHARACTER}"], "a\ufffd")


def test_spaces_between_pieces_are_kept() -> None:
    """Decoders of the SentencePiece kind drop the space of the first word they are given."""
    words = {1: "▁two", 2: "▁words", 3: "s", 4: ""}

    def decode(ids: list[int]) -> str:
        return "".join(words[token] for token in ids).replace("▁", " ").removeprefix(" ")

    pieces: list[str] = []
    stream = TextStream(decode, [], pieces.append)
    for token in (1, 4, 2, 3, 4, 1):
        stream.put(torch.tensor([token]))
    stream.end()
    assert pieces == ["two", " words", "s", " two"]
    assert stream.text == decode([1, 4, 2, 3, 4, 1])
