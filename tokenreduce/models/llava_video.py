"""LLaVA-Video (arXiv 2410.02713) and LLaVA-OneVision (arXiv 2408.03326) with Qwen2.

SigLIP, a two-layer MLP, 2 x 2 pooling, Qwen2. transformers' LlavaOnevision class holds the
weights; its own video path, processor and chat template are those of OneVision and are not used.
Knows nothing about videos, budgets or reductions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaOnevisionConfig

from tokenreduce.budget import Layout
from tokenreduce.engine.generate import generate
from tokenreduce.engine.host import HostedLlavaOnevision, prepare
from tokenreduce.engine.stem import Stem
from tokenreduce.engine.types import Generation, Prompt, Prune, Sampling, never
from tokenreduce.errors import ModelError
from tokenreduce.models import chat
from tokenreduce.models.chat import Chat
from tokenreduce.models.evidence import evidence_of
from tokenreduce.models.fields import Config
from tokenreduce.models.llava_config import format_of, text_section, vision_section
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

_ORIGINAL = (
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", "model.vision_tower."),
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (r"^model\.(embed_tokens|layers|norm)\.", r"model.language_model.\1."),
)
# Written by transformers 4 (which the hub's files are) and by transformers 5.
_TRANSFORMERS = (
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^vision_tower\.(?:vision_model\.)?", "model.vision_tower."),
    (r"^multi_modal_projector\.", "model.multi_modal_projector."),
    (r"^image_newline$", "model.image_newline"),
    (r"^model\.vision_tower\.vision_model\.", "model.vision_tower."),
)


def names_of(spec: ModelSpec, config: Config) -> Names:
    """How the layout of `config` names its tensors, and which of them the model does not use."""
    deleted = rf"model\.vision_tower\.encoder\.layers\.{spec.vision.layers}\."
    return Names(
        renames=_ORIGINAL if format_of(config) == "original" else _TRANSFORMERS,
        # The last layer and the head of the published tower: upstream deletes both.
        spare=(deleted, r"model\.vision_tower\.head\."),
        # Features are taken before the last norm.
        optional=(
            r"model\.vision_tower\.post_layernorm\.",
            *((r"model\.image_newline$",) if spec.newline == "no_token" else ()),
        ),
    )


def host_config(name: str, config: Config) -> LlavaOnevisionConfig:
    """The configuration of the transformers class that holds the weights. Raises ModelError."""
    text = dict(text_section(name, config))
    tied = bool(text.get("tie_word_embeddings", False))
    try:
        return LlavaOnevisionConfig(
            vision_config={
                **vision_section(name, config),
                "model_type": "siglip_vision_model",
                "vision_use_head": False,
            },
            text_config={**text, "model_type": "qwen2"},
            projector_hidden_act=config.get("projector_hidden_act", "gelu"),
            multimodal_projector_bias=config.get("multimodal_projector_bias", True),
            tie_word_embeddings=tied,
        )
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{name}: config.json cannot be used: {reason}") from error


@dataclass(frozen=True)
class LlavaVideo:
    """A loaded checkpoint of this family; see models.base.VideoModel."""

    spec: ModelSpec
    host: HostedLlavaOnevision
    chat: Chat
    device: torch.device
    dtype: torch.dtype
    quantize: Quantize

    def encode(self, frames: Tensor) -> Tensor:
        return self.look(frames, frozenset())[0]

    @torch.no_grad()
    def look(self, frames: Tensor, needs: frozenset[Need]) -> tuple[Tensor, Evidence]:
        parts = [self._look(part, needs) for part in batches(frames, self.device)]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part[0] for part in parts]), Evidence.cat([part[1] for part in parts])

    def _look(self, frames: Tensor, needs: frozenset[Need]) -> tuple[Tensor, Evidence]:
        pixels = pixel_values(frames.to(self.device, non_blocking=True), self.spec).to(self.dtype)
        tower = self.host.model.vision_tower
        before: list[Tensor] = []
        hidden = tower.embeddings(pixels)
        for layer in tower.encoder.layers:
            before[:] = [hidden]
            hidden = layer(hidden, None)
        evidence = evidence_of(tower.encoder.layers[-1], before[0], needs, self.spec)
        return self.pool(self.project(hidden)), evidence

    @torch.no_grad()
    def look_within(
        self, frames: Tensor, within: Within, needs: frozenset[Need]
    ) -> tuple[Tokens, Evidence]:
        tower = self.host.model.vision_tower
        parts = []
        for part, own in batches_within(frames, within, self.device):
            pixels = pixel_values(part.to(self.device, non_blocking=True), self.spec).to(self.dtype)
            hidden = tower.embeddings(pixels)
            parts.append(reduce_within(tower.encoder.layers, hidden, own, needs, self.spec))
        tokens = joined([left.with_x(self.project(left.x)) for left, _ in parts])
        return tokens, Evidence.cat([shown for _, shown in parts])

    def see(self, pixels: Tensor) -> Tensor:
        """(f, 3, S, S) to (f, patches, width): the last layer kept, before the final norm, which
        upstream's vision_feature_layer leaves out in both layouts."""
        tower = self.host.model.vision_tower
        seen: Tensor = tower.encoder(inputs_embeds=tower.embeddings(pixels)).last_hidden_state
        return seen

    def project(self, features: Tensor) -> Tensor:
        """(f, patches, width) to (f, patches, d)."""
        projected: Tensor = self.host.model.multi_modal_projector(features)
        return projected

    def pool(self, features: Tensor) -> Tensor:
        """(f, patches, d) to (f, rows * columns, d): upstream's get_2dPool with stride 2."""
        f, _, d = features.shape
        side = self.spec.vision.side
        grid = features.view(f, side, side, d).permute(0, 3, 1, 2).contiguous()
        match self.spec.pool:
            case "average":
                grid = F.avg_pool2d(grid, 2)
            case "max":
                grid = F.max_pool2d(grid, 2)
            case "none":
                return features
            case _:
                grid = F.interpolate(grid, size=[self.spec.side] * 2, mode="bilinear")
        return grid.permute(0, 2, 3, 1).reshape(f, -1, d)

    def unpooled(self) -> LlavaVideo:
        return replace(self, spec=replace(self.spec, pool="none"))

    def newline(self) -> Tensor | None:
        if self.spec.newline == "no_token":
            return None
        newline: Tensor = self.host.model.image_newline.detach()
        return newline

    def text_tokens(self, question: str, time_text: str | None) -> int:
        return sum(len(piece) for piece in self.chat.pieces(question, time_text))

    def unknown_words(self, question: str) -> tuple[str, ...]:
        return chat.unknown_words(self.chat, question) if self.spec.toy_world else ()

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
    names = names_of(spec, config)
    return check_headers(
        HostedLlavaOnevision, host_config(spec.name, config), folder, spec.name, names
    )


def open_model(folder: Path, spec: ModelSpec, config: Config, placement: Placement) -> LlavaVideo:
    """Loads the checkpoint in `folder`. Raises ModelError or CapacityError."""
    chosen = Chat(load_tokenizer(folder, spec))
    host = load_weights(
        HostedLlavaOnevision,
        host_config(spec.name, config),
        folder,
        spec.name,
        names_of(spec, config),
        placement,
    )
    verify(host, host.model.language_model, placement.quantize)
    prepare(host)
    return LlavaVideo(spec, host, chosen, placement.device, placement.dtype, placement.quantize)
