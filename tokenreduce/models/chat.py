"""The text around a video or pictures: each family's own prompt, and its tokens.

A user message is `<image>`, the time instruction if there is one and the question, each on its own
line. LLaVA-Video's form is that of training, lmms-eval and the official demo (LLaVA-VL/LLaVA-NeXT,
conversation "qwen_1_5"): ChatML. LLaVA-1.5's is that of the chat template that comes with
llava-hf/llava-1.5-7b-hf: no system message, which the original code's "vicuna_v1" has. That
template has a line break after each picture; here several follow one another and one line break
follows the last, so that the text does not depend on how many there are. Knows nothing about
pixels or features.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from tokenreduce.errors import InputError

IMAGE = "<image>"
START, END = "<|im_start|>", "<|im_end|>"
_TEXT_END = "<|endoftext|>"
_SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True)
class Template:
    """What stands around a user's message.

    before, after  may hold special tokens    joined  ordinary text, tokenized with the message
    ends           tokens that end an answer, beside the tokenizer's own end of a text
    always_bos     a BOS comes first, whether or not the tokenizer says so by itself
    """

    before: str
    after: str
    joined: str = ""
    ends: tuple[str, ...] = ()
    always_bos: bool = False


QWEN = Template(
    before=f"{START}system\n{_SYSTEM}{END}\n{START}user\n",
    after=f"{END}\n{START}assistant\n",
    ends=(END, _TEXT_END),
)
VICUNA = Template(before="USER: ", after="", joined=" ASSISTANT:", always_bos=True)


def time_text(duration_seconds: float, frame_seconds: Sequence[float]) -> str:
    """LLaVA-Video's time instruction: the video's length and when each sampled frame is shown.

    >>> time_text(4, [0, 2])[:46]
    'The video lasts for 4.00 seconds, and 2 frames'
    """
    stamps = ",".join(f"{seconds:.2f}s" for seconds in frame_seconds)
    return (
        f"The video lasts for {duration_seconds:.2f} seconds, and {len(frame_seconds)} frames are "
        f"uniformly sampled from it. These frames are located at {stamps}."
        "Please answer the following questions related to this video."
    )


def message(question: str, time: str | None) -> str:
    """What the user says, after `<image>`: always begins with the line break that follows it."""
    return f"\n{question}" if time is None else f"\n{time}\n{question}"


def prompt_text(question: str, time: str | None, template: Template = QWEN) -> str:
    """The whole prompt as text, for people and for tests; the tokens come from `Chat`."""
    said = message(question, time)
    return f"{template.before}{IMAGE}{said}{template.joined}{template.after}"


@dataclass(frozen=True)
class Chat:
    """Turns questions into tokens. What a user writes can never become a special token.

    tokenizer: of the checkpoint; START and END are one token each in all that `load_tokenizer`
    accepts for QWEN.
    """

    tokenizer: PreTrainedTokenizerBase
    template: Template = QWEN

    @property
    def stops(self) -> tuple[int, ...]:
        """Tokens that end an answer: for Qwen2 the end of a turn and, as its own settings say, that
        of a text."""
        eos = self.tokenizer.eos_token
        texts = [*self.template.ends[:1], *([eos] if eos else []), *self.template.ends[1:]]
        ids = [self._template(name) for name in texts]
        return tuple(dict.fromkeys(one[0] for one in ids if len(one) == 1))

    def text_of(self, ids: list[int]) -> str:
        """The text of generated ids, special tokens left out and nothing tidied."""
        text = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def pieces(self, question: str, time: str | None) -> tuple[list[int], list[int]]:
        """Token ids before and after the visual tokens, as upstream makes them: the text is split
        at `<image>`, the pieces are tokenized apart, and a BOS, if any, is kept once."""
        template = self.template
        before = self._bos + self._template(template.before)
        said = self.plain(message(question, time) + template.joined)
        return before, said + (self._template(template.after) if template.after else [])

    def plain(self, text: str) -> list[int]:
        """Token ids of `text` as nothing but text: special tokens written out in it are cut up.

        Equal to ordinary tokenization wherever the text names no added token. Raises InputError
        for text that is no Unicode, such as an argument with a stray byte.
        """
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError("the question holds bytes that are no text: write it in UTF-8")
        ids: list[int] = []
        begin = at = 0
        while found := self._added.search(text, at):
            # Cut behind the first character: neither side spells the token any more.
            at = found.start() + 1
            ids += self._ids(text[begin:at], as_text=True)
            begin = at
        return ids + self._ids(text[begin:], as_text=True)

    def is_word(self, word: str) -> bool:
        """Whether `word` is one token, at the start of a text or after a space."""
        return len(self.plain(word)) == 1 or len(self.plain(f" {word}")) == 1

    def _template(self, text: str) -> list[int]:
        return self._ids(text, as_text=False)

    def _ids(self, text: str, *, as_text: bool) -> list[int]:
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=as_text
        )["input_ids"]
        return ids

    @cached_property
    def _added(self) -> re.Pattern[str]:
        """Any added token that can be cut, special or not, longest first. A special one of a single
        character is left to `split_special_tokens`."""
        names = {str(token) for token in self.tokenizer.added_tokens_decoder.values()}
        names |= {IMAGE, START, END}
        longest_first = sorted(names, key=lambda name: (-len(name), name))
        return re.compile("|".join(re.escape(name) for name in longest_first if len(name) > 1))

    @cached_property
    def _bos(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return []
        wanted = self.template.always_bos or self.tokenizer("a")["input_ids"][0] == bos
        return [bos] if wanted else []


# Letters, or signs beyond ASCII; digits and punctuation belong to no language.
_WORD = re.compile(r"[^\W\d_]+|[^\s\x00-\x7f]+")


def unknown_words(chat: Chat, question: str) -> tuple[str, ...]:
    """Words of the question, each once and in order, that the tokenizer has no token for.

    Says something only of a tokenizer whose tokens are the words of a small language.
    """
    words = dict.fromkeys(_WORD.findall(question))
    return tuple(word for word in words if not chat.is_word(word))
