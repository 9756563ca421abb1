"""Tokens to text while they come; knows neither a model nor where the text goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What a decoder makes of bytes that are no whole character yet."""


class TextStream(BaseStreamer):
    """Hands text on as soon as it can no longer change; `text` is all of it so far.

    A character whose bytes are spread over several tokens waits for the last of them. Only a few
    tokens are decoded at a time, the ones before as context, because a decoder may treat the start
    of a text in its own way.

    decode: ids to text, special tokens left out. Tokens in eos_ids are left out here.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        eos_ids: Sequence[int],
        on_text: Callable[[str], None],
    ) -> None:
        self._decode = decode
        self._eos = frozenset(eos_ids)
        self._on_text = on_text
        self._context: list[int] = []
        self._waiting: list[int] = []
        self.text = ""

    def put(self, value: Tensor) -> None:
        """int64 ids of one sequence, any shape; none at all for a prompt of embeddings."""
        fresh = [token for token in value.flatten().tolist() if token not in self._eos]
        if fresh:
            self._waiting += fresh
            self._emit(last=False)

    def end(self) -> None:
        """No more tokens: what waits is handed on as it is."""
        if self._waiting:
            self._emit(last=True)

    def _emit(self, *, last: bool) -> None:
        before = self._decode(self._context) if self._context else ""
        piece = self._decode(self._context + self._waiting)[len(before) :]
        if piece.endswith(_INCOMPLETE) and not last:
            return
        self._context = self._waiting if piece else self._context + self._waiting
        self._waiting = []
        if piece:
            self.text += piece
            self._on_text(piece)
