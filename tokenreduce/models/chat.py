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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from tokenreduce.errors import InputError, SettingError
from tokenreduce.evenly import evenly, most_that_fit

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


TIME_TOKENS = 1200
"""Most tokens of a time instruction: 110 frames, as many as LLaVA-Video's training had at most, of
a ten-hour video take 1,150 of Qwen2's, which has one for each digit."""


def time_text(
    duration_seconds: float,
    frame_seconds: Sequence[float],
    count: Callable[[str], int] | None = None,
    *,
    most_tokens: int = TIME_TOKENS,
    most_times: int | None = None,
    sampled: int | None = None,
    part: tuple[float, float | None] | None = None,
) -> str:
    """LLaVA-Video's time instruction: the video's length and when each sampled frame is shown.

    duration_seconds  of the whole video       frame_seconds  of the frames shown, ascending
    count        tokens of a text. With it the text keeps to `most_tokens`: if the times of all
                 frames do not fit, those of as many as do are listed, evenly chosen, the first and
                 the last among them, and the sentence says that they are some of the frames
    most_times   listed, two or more; None is any number
    sampled      frames taken, where some of them were left out for showing what the one before
                 shows. The times are those of the frames shown, each of which then stands for a
                 span of time, and the sentence says so: uniform is only how they were taken
    part         start and end (None: that of the video) of the range the frames are from. All
                 times stay those of the file, and so does the duration: an answer that names a
                 time can be looked up in the file, and a frame at 600 s of a video said to last
                 150 s would make no sense. The range is named, since the frames are not
                 uniformly sampled from the whole

    Byte for byte the text of training where none of these applies. Raises SettingError if not
    even two times fit.

    >>> time_text(4, [0, 2])[:46]
    'The video lasts for 4.00 seconds, and 2 frames'
    """
    frames = len(frame_seconds)
    taken = max(sampled or 0, frames)
    source = "it" if part is None else _part(part, duration_seconds)

    def told(listed: int) -> str:
        stamps = ",".join(f"{frame_seconds[i]:.2f}s" for i in evenly(frames, listed))
        some = f"{listed} of these frames, evenly chosen," if listed < frames else "These frames"
        spans = f" {frames} of them are shown, each standing for all up to the next."
        return (
            f"The video lasts for {duration_seconds:.2f} seconds, and {taken} frames are "
            f"uniformly sampled from {source}.{spans if taken > frames else ''} "
            f"{some} are located at {stamps}."
            "Please answer the following questions related to this video."
        )

    most = min(frames, most_times or frames)
    if count is None:
        return told(most)
    listed = most_that_fit(lambda n: count(told(n)), most, most_tokens)
    if listed < min(frames, 2):
        raise SettingError(
            f"the time instruction may take {most_tokens} tokens, too few for two times; allow "
            f"{TIME_TOKENS}, or leave the instruction out"
        )
    return told(listed)


def _part(part: tuple[float, float | None], duration_seconds: float) -> str:
    stop = duration_seconds if part[1] is None else part[1]
    return f"its part from {part[0]:.2f}s to {stop:.2f}s"


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
