"""Makes the demo model's tokenizer: byte-level BPE in Qwen2's form, on the toy world's words.

The pre-tokenizer and the files are Qwen2's, so any text is encoded through its bytes and every
digit is a token; only the merges are learned here, until each word of the world is one token.

    python -m training.tokenizer [--folder runs/demo]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tokenreduce.demo import questions, scenes

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SIZE = 720
# Qwen2's own split: contractions, words, single digits, punctuation, line ends, spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TIME = (
    "The video lasts for {:.2f} seconds, and {} frames are uniformly sampled from it. These frames "
    "are located at {}.Please answer the following questions related to this video.\n"
)
_EXTRA = (
    "system\nYou are a helpful assistant.",
    "user\n",
    "assistant\n",
    "Answer with one word.",
    "Answer in one word.",
    "Describe this video. The a an is are was of in to and it on that this with as at by for",
)


def corpus(scenes_read: int = 4000) -> Iterator[str]:
    """Questions and answers of random scenes, in the prompts' words."""
    rng = np.random.default_rng(0)
    words = sorted(questions.vocabulary())
    for index in range(scenes_read):
        scene = scenes.sample((scenes.TRAINING, 1 << 40, index))
        for question in questions.ask(scene, rng):
            yield question.text
            yield question.text.lower()
            yield question.answer
        if index % 10 == 0:
            yield from _EXTRA
            yield TIME.format(12.5, 2, "0.00s,12.40s")
            yield " ".join(words) + "\n" + "\n".join(words)


def build() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def write(folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    build().save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "padding_side": "right",
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"))
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
