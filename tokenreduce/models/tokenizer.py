"""A checkpoint's tokenizer, from its files alone: no remote code, no network, no guessing.

Knows nothing about prompts.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from tokenreduce.errors import ModelError
from tokenreduce.models.chat import END, START
from tokenreduce.models.spec import ModelSpec
from tokenreduce.models.weights import quiet


def load_tokenizer(
    folder: Path, spec: ModelSpec, needed: tuple[str, ...] = (START, END), chat: str = "Qwen"
) -> PreTrainedTokenizerBase:
    """From tokenizer.json, or from vocab.json and merges.txt, which older Qwen2 checkpoints hold.

    The class is chosen here and not by tokenizer_config.json, which may ask for remote code.
    Raises ModelError if the files are damaged, name more tokens than the model has embeddings, or
    lack a token that `chat` models need: here those that begin and end a turn.
    """
    whole = (folder / "tokenizer.json").exists()
    kind = PreTrainedTokenizerFast if whole else Qwen2Tokenizer
    try:
        with quiet():
            tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:
        # The Rust tokenizers raise bare Exception for a damaged file.
        reason = " ".join(str(error).split())
        raise ModelError(f"{spec.name}: its tokenizer cannot be read: {reason}") from error
    if len(tokenizer) > spec.text.vocab:
        raise ModelError(
            f"{spec.name}: its tokenizer has {len(tokenizer)} tokens and its config.json "
            f"vocab_size {spec.text.vocab}; the files do not belong together"
        )
    for token in needed:
        if token not in tokenizer.get_added_vocab():
            raise ModelError(
                f"{spec.name}: its tokenizer has no token {token}; its files do not belong to a "
                f"{chat} chat model"
            )
    return tokenizer
