"""LLaVA-1.5 (arXiv 2310.03744): CLIP ViT-L/336, a two-layer MLP, Vicuna; 576 tokens a picture.

transformers' Llava class holds the weights. Features are those of the last layer but one, without
the class token and without pooling. Several pictures, or frames, follow one another. Knows nothing
about files, budgets or reductions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import LlavaConfig

from tokenreduce.budget import Layout
from tokenreduce.engine.generate import generate
from tokenreduce.engine.host import HostedLlava, prepare
from tokenreduce.engine.stem import Stem
from tokenreduce.engine.types import Generation, Prompt, Prune, Sampling, never
from tokenreduce.errors import ModelError
from tokenreduce.models.chat import VICUNA, Chat
from tokenreduce.models.evidence import evidence_of
from tokenreduce.models.fields import Config
from tokenreduce.models.llava15_config import text_section, vision_section
from tokenreduce.models.mapped import Stored
from tokenreduce.models.placement import Placement
from tokenreduce.models.quantize import Quantize, verify
from tokenreduce.models.spec import ModelSpec
from tokenreduce.models.splice import spliced
from tokenreduce.models.tokenizer import load_tokenizer
from tokenreduce.models.vision import (
    Within,
    batches,
    batches_within,
    joined,
    pixel_values,
    reduce_within,
)
from tokenreduce.models.weights import Names, check_headers, load_weights
from tokenreduce.seen import Evidence, Need
from tokenreduce.tokens import Tokens

# Written by transformers 4 (which the hub's files are) and by transformers 5.
_RENAMES = (
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^multi_modal_projector\.", "model.multi_modal_projector."),
    (r"^(?:model\.)?vision_tower\.(?:vision_model\.)?", "model.vision_tower."),
)


def names_of(spec: ModelSpec) -> Names:
    """How checkpoints name their tensors, and which of them the model does not use."""
    beyond = rf"model\.vision_tower\.encoder\.layers\.{spec.vision.layers}\."
    return Names(
        renames=_RENAMES,
        # The layer after the one that features are taken from, and tables that older versions
        # stored although they can be computed.
        spare=(beyond, r".*\.rotary_emb\.inv_freq$"),
        # Features are taken before the last norm.
        optional=(r"model\.vision_tower\.post_layernorm\.",),
    )


def host_config(name: str, config: Config) -> LlavaConfig:
    """The configuration of the transformers class that holds the weights. Raises ModelError."""
    text = dict(text_section(name, config))
    try:
        return LlavaConfig(
            vision_config={**vision_section(name, config), "model_type": "clip_vision_model"},
            text_config={**text, "model_type": "llama"},
            projector_hidden_act=config.get("projector_hidden_act", "gelu"),
            multimodal_projector_bias=config.get("multimodal_projector_bias", True),
            vision_feature_layer=-1,  # of the layers that are used
            tie_word_embeddings=bool(text.get("tie_word_embeddings", False)),
        )
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{name}: config.json cannot be used: {reason}") from error


@dataclass(frozen=True)
class Llava15:
    """A loaded checkpoint of this family; see models.base.VideoModel."""

    spec: ModelSpec
    host: HostedLlava
    chat: Chat
    device: torch.device
    dtype: torch.dtype
    quantize: Quantize

    def encode(self, frames: Tensor) -> Tensor:
        return self.look(frames, frozenset())[0]

    @torch.no_grad()
    def look(self, frames: Tensor, needs: frozenset[Need]) -> tuple[Tensor, Evidence]:
        """Evidence is of the layer that features are taken from, the class token left out."""
        parts = [self._look(part, needs) for part in batches(frames, self.device)]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part[0] for part in parts]), Evidence.cat([part[1] for part in parts])

    def _look(self, frames: Tensor, needs: frozenset[Need]) -> tuple[Tensor, Evidence]:
        hidden = before = self.embed(frames)
        for layer in self.layers:
            before, hidden = hidden, layer(hidden, None)
        evidence = evidence_of(self.layers[-1], before, needs, self.spec)
        return self.project(hidden[:, self.spec.vision.classes :]), evidence

    @torch.no_grad()
    def look_within(
        self, frames: Tensor, within: Within, needs: frozenset[Need]
    ) -> tuple[Tokens, Evidence]:
        parts = [
            reduce_within(self.layers, self.embed(part), own, needs, self.spec)
            for part, own in batches_within(frames, within, self.device)
        ]
        tokens = [left.with_x(self.project(left.x)) for left, _ in parts]
        return joined(tokens), Evidence.cat([shown for _, shown in parts])

    @property
    def layers(self) -> Sequence[torch.nn.Module]:
        """The tower's layers, as far as they are used."""
        return list(self.host.model.vision_tower.encoder.layers)

    def embed(self, frames: Tensor) -> Tensor:
        """uint8 (f, S, S, 3) to what enters the first layer (f, 1 + patches, width)."""
        tower = self.host.model.vision_tower
        pixels = pixel_values(frames.to(self.device, non_blocking=True), self.spec).to(self.dtype)
        embedded: Tensor = tower.pre_layrnorm(tower.embeddings(pixels))
        return embedded

    def project(self, features: Tensor) -> Tensor:
        """(f, patches, width) to (f, patches, d)."""
        projected: Tensor = self.host.model.multi_modal_projector(features)
        return projected

    def unpooled(self) -> Llava15:
        return self

    def newline(self) -> Tensor | None:
        return None

    def text_tokens(self, question: str, time_text: str | None) -> int:
        return sum(len(piece) for piece in self.chat.pieces(question, time_text))

    def unknown_words(self, question: str) -> tuple[str, ...]:
        return ()

    @torch.no_grad()
    def prompt(self, question: str, time_text: str | None, visual: Tokens, grid: Layout) -> Prompt:
        table = self.host.get_input_embeddings()
        pieces = self.chat.pieces(question, time_text)
        return spliced(table, pieces, visual, grid, self.device)

    def generate(
        self,
        prompt: Prompt,
        prunes: Sequence[Prune],
        sampling: Sampling,
        on_text: Callable[[str], None],
        on_prefill: Callable[[float], None],
        *,
        stem: Stem | None = None,
        stop: Callable[[], bool] = never,
    ) -> Generation:
        return generate(
            self.host,
            self.chat.text_of,
            prompt,
            prunes,
            sampling,
            self.chat.stops,
            on_text,
            on_prefill,
            stem=stem,
            stop=stop,
        )


def check_model(folder: Path, spec: ModelSpec, config: Config) -> dict[str, Stored]:
    """The tensors of the files, if they are what `config` says, by their headers alone. Raises
    ModelError."""
    wanted = host_config(spec.name, config)
    return check_headers(HostedLlava, wanted, folder, spec.name, names_of(spec))


def open_model(folder: Path, spec: ModelSpec, config: Config, placement: Placement) -> Llava15:
    """Loads the checkpoint in `folder`. Raises ModelError or CapacityError."""
    chosen = Chat(load_tokenizer(folder, spec, (), "Vicuna"), VICUNA)
    if chosen.tokenizer.bos_token_id is None or not chosen.stops:
        raise ModelError(
            f"{spec.name}: its tokenizer names no bos_token or no eos_token; its files do not "
            "belong to a Vicuna chat model"
        )
    wanted = host_config(spec.name, config)
    host = load_weights(HostedLlava, wanted, folder, spec.name, names_of(spec), placement)
    verify(host, host.model.language_model, placement.quantize)
    prepare(host)
    return Llava15(spec, host, chosen, placement.device, placement.dtype, placement.quantize)
