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

from tokenreduce.engine.attention import Attend
from tokenreduce.engine.graphs import CudaGraphs, Recorder, Step
from tokenreduce.engine.slots import SLOTS, SlotCache
from tokenreduce.engine.types import Way
from tokenreduce.errors import SettingError
from tokenreduce.result import Decoding, Road

LONG = 512
"""Keys of a layer from which cutting them up may pay for the second kernel; an estimate."""


class Stepper:
    """Of one generation. A graph belongs to the tensors of one cache and to its lengths, which no
    two questions share; recording costs about as much host time as one plain step, keeping the
    tensors for the next question would cost their memory during its prefill. So it is made anew.

    recorder  None computes every step
    because   why there is none, for the report
    slots     how many at a time
    attend    in place of SDPA over LONG keys and more
    """

    def __init__(
        self,
        recorder: Recorder | None = None,
        because: str = "",
        slots: int = SLOTS,
        attend: Attend | None = None,
    ) -> None:
        self._recorder, self._because, self._slots = recorder, because, slots
        self._attend = attend
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
            logits = self._run(model, slotted)
            slotted.close()
        return logits, slotted

    def _begun(self, cache: DynamicCache, embeds: Tensor) -> SlotCache:
        self._replay, self._warm = None, False
        self._cache = slotted = SlotCache.of(cache, self._slots)
        self._embeds = torch.empty_like(embeds, memory_format=torch.contiguous_format)
        self._position = torch.zeros(1, 1, dtype=torch.int64, device=embeds.device)
        self._bytes = slotted.nbytes
        return slotted

    def _run(self, model: Any, cache: SlotCache) -> Tensor:
        """Computed the first time, which loads what it needs; recorded the second; then replayed.
        So a short answer records nothing, and nothing is ever computed in vain."""
        if not self._warm:
            self._warm = True
            return self._first(model, cache)
        this = self._step(model, cache)
        if self._recorder is None:
            return this()
        if self._replay is None:
            begun = perf_counter()
            try:
                self._replay = self._recorder.record(this)
            except Exception as error:  # whatever it is, computing still gives the right token
                self._recorder = None
                self._because = _also(self._because, f"no CUDA graph: {_cause(error)}")
                return this()
            self._recordings += 1
            self._seconds += perf_counter() - begun
        return self._replay().clone()  # the next step writes over it

    def _first(self, model: Any, cache: SlotCache) -> Tensor:
        """A kernel that cannot be compiled here is heard of now, and done without."""
        run = self._recorder.run if self._recorder is not None else _computed
        if self._attend is not None:
            try:
                return run(self._step(model, cache))
            except Exception as error:  # from any compiler; if it was not that, it comes again
                self._attend = None
                self._because = _also(self._because, f"stock attention: {_cause(error)}")
        return run(self._step(model, cache))

    def _step(self, model: Any, cache: SlotCache) -> Step:
        return partial(step, model, cache, self._embeds, self._position, self._attend)


def step(
    model: Any, cache: SlotCache, embeds: Tensor, position: Tensor, attend: Attend | None = None
) -> Tensor:
    """All layers of a hosted model over one token: float (1, 1, vocab).

    Everything that differs from step to step is in a tensor that stays where it is.
    """
    stack = model.get_decoder()
    rope = stack.rotary_emb(embeds, position)
    hidden = embeds
    for index, layer in enumerate(stack.layers):
        mask = cache.mask(index)
        more = {"attend": attend} if attend is not None and mask.shape[-1] >= LONG else {}
        hidden = layer(
            hidden,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            position_embeddings=rope,
            **more,
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
        return Stepper(CudaGraphs.on(device), attend=_attend(model.get_decoder())), ""
    because = f"no CUDA graph: the model is on {device.type}"
    return (Stepper(None, because) if way == "slots" else None), because


def _attend(stack: Any) -> Attend | None:
    """Where there is no triton, or no kernel for such heads, SDPA it is."""
    try:
        from tokenreduce.engine.split_attention import attend_proven, fits
    except ImportError:
        return None
    width, dtype = stack.layers[0].self_attn.head_dim, stack.norm.weight.dtype
    q, keys = (
        torch.empty(1, heads, 1, width, dtype=dtype, device="meta")
        for heads in (stack.config.num_attention_heads, stack.config.num_key_value_heads)
    )
    return attend_proven if fits(q, keys) else None


def _computed(step: Step) -> Tensor:
    return step()


def _also(before: str, more: str) -> str:
    return f"{before}; {more}" if before else more


def _devices(*modules: nn.Module) -> set[torch.device]:
    """Where weights are, `meta` for those that are fetched when they are needed."""
    return {parameter.device for module in modules for parameter in module.parameters()}


def _cause(error: BaseException) -> str:
    """Its first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
