"""Tiny checkpoints on disk: the golden ones, and a tokenizer that encodes any text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

GOLDEN = Path(__file__).parents[1] / "golden" / "llava_video"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


def byte_tokenizer(size: int, special: list[str] | None = None) -> PreTrainedTokenizerFast:
    """One token a byte, then the special ones, then fillers up to `size` tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL if special is None else special)
    fillers = size - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"<filler {index}>" for index in range(fillers)])
    kind: Any = PreTrainedTokenizerFast  # untyped
    made: PreTrainedTokenizerFast = kind(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    return made


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return byte_tokenizer


@pytest.fixture(scope="session")
def make_checkpoint(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """A golden checkpoint as one of ours: its sizes in `vision_config`, and a tokenizer."""

    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        config = json.loads((GOLDEN / name / "config.json").read_text())
        vision = json.loads((GOLDEN / name / "tiny_vision_config.json").read_text())
        del vision["note"]
        vision["num_hidden_layers"] -= 1  # counted before upstream deletes the last one
        config["vision_config"] = vision
        (folder / "config.json").write_text(json.dumps(config))
        shutil.copyfile(GOLDEN / name / "model.safetensors", folder / "model.safetensors")
        byte_tokenizer(config["vocab_size"]).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[[str], Path]) -> Path:
    """The smallest one. Tests that change files copy it first."""
    return make_checkpoint("tinyA")
