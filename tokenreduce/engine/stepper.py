"""One token at a time after a prompt that was read: over a cache of slots, and from the second step
on by replaying a CUDA graph where the device can. Knows no family of models and no sampling.

Stock `generate` still draws, stops and streams; only its forward of one token comes here.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tokenreduce.engine.graphs import CudaGraphs, Recorder, Step
from tokenreduce.engine.slots import SLOTS, SlotCache
from tokenreduce.engine.types import Decoding, Road, Way
from tokenreduce.errors import SettingError


class Stepper:
    """Of one generation. A graph belongs to the tensors of one cache and to its lengths, which no
    two questions share; recording costs about as much host time as one plain step, keeping the
    tensors for the next question would cost their memory during its prefill. So it is made anew.

    recorder  None computes every step
    because   why there is none, for the report
    slots     how many at a time
    """

    def __init__(
        self, recorder: Recorder | None = None, because: str = "", slots: int = SLOTS
    ) -> None:
        self._recorder, self._because, self._slots = recorder, because, slots
        self._replay: Step | None = None
        self._warm = False
        self._cache: SlotCache | None = None
        self._embeds = self._position = torch.empty(0)
        self._recordings, self._seconds, self._bytes = 0, 0.0, 0

    @property
    def decoding(self) -> Decoding:
        """How the steps so far were made."""
        road: Road = "graphs" if self._recordings else "slots" if self._bytes else "stock"
        return Decoding(road, self._because, self._bytes, self._recordings, self._seconds)

    def __call__(
        self,
        model: Any,
        cache: DynamicCache | SlotCache,
        embeds: Tensor,
        position: Tensor | None = None,
    ) -> tuple[Tensor, SlotCache]:
        """Logits (1, 1, vocab) after one token more, and the cache that holds it from now on.

        cache     a dynamic one is emptied into one of slots
        embeds    (1, 1, d) of the token
        position  (1, 1) int64; None: the length of layer 0

        Raises ValueError for a cache of slots that is not the one this began.
        """
        with torch.no_grad():
            slotted = self._begun(cache, embeds) if isinstance(cache, DynamicCache) else cache
            if slotted is not self._cache:
                raise ValueError("a cache of slots goes with the stepper that made it")
            if slotted.full:
                self._replay, self._warm = None, False  # its memory goes first
                slotted.grow()
                self._bytes = slotted.nbytes
            self._embeds.copy_(embeds)
            if position is None:
                self._position.fill_(slotted.get_seq_length())
            else:
                self._position.copy_(position)
            slotted.open()
            logits = self._run(partial(step, model, slotted, self._embeds, self._position))
            slotted.close()
        return logits, slotted

    def _begun(self, cache: DynamicCache, embeds: Tensor) -> SlotCache:
        self._replay, self._warm = None, False
        self._cache = slotted = SlotCache.of(cache, self._slots)
        self._embeds = torch.empty_like(embeds, memory_format=torch.contiguous_format)
        self._position = torch.zeros(1, 1, dtype=torch.int64, device=embeds.device)
        self._bytes = slotted.nbytes
        return slotted

    def _run(self, step: Step) -> Tensor:
        """Computed the first time, which loads what it needs; recorded the second; then replayed.
        So a short answer records nothing, and nothing is ever computed in vain."""
        if self._recorder is None:
            return step()
        if not self._warm:
            self._warm = True
            return self._recorder.run(step)
        if self._replay is None:
            begun = perf_counter()
            try:
                self._replay = self._recorder.record(step)
            except Exception as error:  # whatever it is, computing still gives the right token
                self._recorder, self._because = None, f"no CUDA graph: {_cause(error)}"
                return step()
            self._recordings += 1
            self._seconds += perf_counter() - begun
        return self._replay().clone()  # the next step writes over it


def step(model: Any, cache: SlotCache, embeds: Tensor, position: Tensor) -> Tensor:
    """All layers of a hosted model over one token: float (1, 1, vocab).

    Everything that differs from step to step is in a tensor that stays where it is.
    """
    stack = model.get_decoder()
    rope = stack.rotary_emb(embeds, position)
    hidden = embeds
    for index, layer in enumerate(stack.layers):
        hidden = layer(
            hidden,
            attention_mask=cache.mask(index),
            past_key_values=cache,
            use_cache=True,
            position_embeddings=rope,
        )
    logits: Tensor = model.lm_head(stack.norm(hidden))
    return logits


def chosen(model: Any, way: Way, device: torch.device) -> tuple[Stepper | None, str]:
    """What runs the steps of one generation, None for transformers' own; and why not by graphs.

    way: "slots" wherever all layers are on `device`, by graphs on CUDA; "auto" the same on CUDA
    alone, for elsewhere nothing is gained. Raises SettingError for another.
    """
    if way not in get_args(Way):
        raise SettingError(f"decoding {way}: it can be {', '.join(get_args(Way))}")
    if way == "stock":
        return None, ""
    elsewhere = _devices(model.get_decoder(), model.lm_head) - {device}
    if elsewhere:
        names = ", ".join(sorted(str(one) for one in elsewhere))
        return None, f"no CUDA graph: layers are also on {names}"
    if device.type == "cuda":
        return Stepper(CudaGraphs.on(device)), ""
    because = f"no CUDA graph: the model is on {device.type}"
    return (Stepper(None, because) if way == "slots" else None), because


def _devices(*modules: nn.Module) -> set[torch.device]:
    """Where weights are, `meta` for those that are fetched when they are needed."""
    return {parameter.device for module in modules for parameter in module.parameters()}


def _cause(error: BaseException) -> str:
    """The first line of what went wrong first: ending a broken capture raises once more."""
    error = error.__context__ or error
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
