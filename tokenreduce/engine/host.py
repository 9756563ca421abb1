"""transformers' model classes with one more argument; the one place where they are subclassed.

A hosted model that is called with a plan and an empty cache reads the prompt by this project's
prefill, in which tokens leave; with `plan.steps` it computes each further token by those. All else
(loading, sampling, stopping, streaming) is stock: `generate(inputs_embeds=prompt.embeds,
plan=plan)`. Knows nothing about checkpoints.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from torch import Tensor
from transformers import (
    Cache,
    DynamicCache,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    Qwen2ForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from tokenreduce.cost import AFRESH, Reused
from tokenreduce.engine import prefill
from tokenreduce.engine.attention import make_observable
from tokenreduce.engine.kernels import any_length
from tokenreduce.engine.slots import SlotCache
from tokenreduce.engine.state import resume, start
from tokenreduce.engine.types import Plan, Prefilled
from tokenreduce.errors import SettingError

_MUCH = 8
"""More than this share of a prompt newly read, and its stem is worth keeping instead."""


class Host:
    """To stand before a `...ForCausalLM` or `...ForConditionalGeneration` among a class's bases.

    `forward` names the arguments that `generate` looks for in a signature before it passes them.
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | SlotCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        plan: Plan | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the stock forward. With a plan: only its prompt, then one token at a time.

        Raises SettingError for several sequences at once (a batch, beams, several answers),
        several tokens at once (assisted decoding) or padding: layers hold different tokens, so
        none of these could be told by one mask.
        """
        if plan is not None:
            given = inputs_embeds if inputs_embeds is not None else input_ids
            _check(given, attention_mask, past_key_values, plan)
            if isinstance(past_key_values, DynamicCache) and past_key_values.get_seq_length() == 0:
                read = read_prompt(self, plan, past_key_values)
                plan.done(read)
                return CausalLMOutputWithPast(logits=read.logits, past_key_values=read.cache)
            if plan.steps is not None and past_key_values is not None:
                embeds = _embedded(self, input_ids) if inputs_embeds is None else inputs_embeds
                logits, cache = plan.steps(self, past_key_values, embeds, position_ids)
                return CausalLMOutputWithPast(logits=logits, past_key_values=cache)
        stock = super().forward  # type: ignore[misc]  # of the class after this one
        return stock(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )


class HostedQwen2(Host, Qwen2ForCausalLM):
    """A plain language model."""


class HostedLlama(Host, LlamaForCausalLM):
    """A plain language model."""


class HostedLlavaOnevision(Host, LlavaOnevisionForConditionalGeneration):
    """SigLIP, projector and Qwen2; also holds LLaVA-Video's weights."""


class HostedLlava(Host, LlavaForConditionalGeneration):
    """CLIP, projector and Llama or Vicuna."""


def stack_of(model: Any) -> prefill.Stack:
    """The decoder layers of a language model, or of the one inside a multi-modal model."""
    stack: prefill.Stack = model.get_decoder()
    return stack


def prepare(model: PreTrainedModel) -> None:
    """To be called once after loading. Raises ModelError if the engine cannot run the model."""
    make_observable(model.get_decoder())


def read_prompt(model: Any, plan: Plan, cache: DynamicCache) -> Prefilled:
    """Runs all layers of the model over plan.prompt, but for what its stem has of it, and fills
    `cache`; the last position's logits."""
    stack, stem = stack_of(model), plan.stem
    begun, depth = start(plan.prompt), len(stack.layers)
    if stem is not None:
        begun = resume(begun, stem, plan.prunes, depth, cache)
    reused = Reused(stem.layers, begun.read) if stem is not None and begun.read else AFRESH
    # Where little was new, the old stem does; a new one would stand beside it for a while.
    grows = stem is not None and _MUCH * (begun.position.shape[0] - begun.read) > begun.read
    room = stem.limit_bytes if stem is not None and grows else 0
    with any_length(begun.embeds.device) if plan.prunes else nullcontext():
        state = prefill.run(stack, begun, cache, plan.prunes, seed=plan.seed, fork_bytes=room)
    if stem is not None and grows:
        chosen = state.per_layer[-1] < begun.entered or state.visual.shape[0] < begun.entered
        stem = stem.grown(begun.embeds, cache, state.fork, chosen=chosen)
    logits = model.lm_head(stack.norm(state.hidden[:, -1:]))
    return Prefilled(logits, cache, state.per_layer, reused, stem)


def _embedded(model: Any, ids: Tensor | None) -> Tensor:
    """(1, l, d) of ids (1, l)."""
    embeds: Tensor = model.get_input_embeddings()(ids)
    return embeds


def _check(given: Tensor | None, mask: Tensor | None, cache: Cache | None, plan: Plan) -> None:
    """Refuses what a ragged cache cannot serve, before anything is computed."""
    slotted = isinstance(cache, SlotCache) and plan.steps is not None
    if given is None or not (slotted or isinstance(cache, DynamicCache)):
        raise SettingError(
            f"a plan needs inputs_embeds and a DynamicCache, not a {type(cache).__name__}: leave "
            "cache_implementation and use_cache as they are"
        )
    if given.shape[0] != 1:
        raise SettingError(
            f"{given.shape[0]} sequences at once (a batch, num_beams or num_return_sequences): "
            "tokens are removed from one prompt at a time; ask once for each"
        )
    # Looked at while the cache is still stock: each look waits for the device.
    if mask is not None and not slotted and not bool(mask.all()):
        raise SettingError(
            "an attention_mask with zeros: give the prompt without padding, its embeddings alone"
        )
    if cache is not None and cache.get_seq_length() > 0 and given.shape[1] != 1:
        raise SettingError(
            f"{given.shape[1]} tokens at once after the prompt: the layers hold different tokens, "
            "so decode one at a time (no assistant model)"
        )
