"""A prompt in, an answer out piece by piece, with what it took; knows no family of models.

Drawing, stopping and streaming are transformers' own `generate`; the prompt is read by this
project's prefill, and on CUDA each token after it is computed by its stepper.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from tokenreduce.cost import AFRESH, Reused
from tokenreduce.engine.kernels import any_length
from tokenreduce.engine.prefill import cache_bytes
from tokenreduce.engine.stem import Stem
from tokenreduce.engine.stepper import chosen
from tokenreduce.engine.stream import TextStream
from tokenreduce.engine.types import (
    Generation,
    Plan,
    Prefilled,
    Prompt,
    Prune,
    Sampling,
    Way,
    never,
)
from tokenreduce.memory import synchronise
from tokenreduce.result import Decoding, FinishReason

Decode = Callable[[list[int]], str]
"""Token ids to text, special tokens left out and no spaces tidied, so that the text of ids is the
text of their parts."""


def generate(
    model: Any,
    decode: Decode,
    prompt: Prompt,
    prunes: Sequence[Prune],
    sampling: Sampling,
    eos_ids: Sequence[int],
    on_text: Callable[[str], None],
    on_prefill: Callable[[float], None],
    *,
    stem: Stem | None = None,
    stop: Callable[[], bool] = never,
    way: Way = "auto",
) -> Generation:
    """Answers `prompt` with a hosted model that `host.prepare` has seen.

    eos_ids end the answer and are no part of its text; none given, the model's own count.
    on_prefill(seconds) is called once the first logits exist, on_text with each piece of text;
    what they raise, a KeyboardInterrupt above all, stops the generation and propagates.
    stem: of earlier questions of this model, empty before the first; the one for the next comes
    back. stop() is asked after each token: with True the answer so far is all of it.
    way: how tokens after the first are computed; none changes which they are, and the result says
    which it was.
    torch's random state is afterwards what it was before, and so is its choice of attention, which
    on CUDA is one of kernels for any length: where something is pruned from the start, else once
    the prompt, of one length in all layers, has been read.
    """
    device = prompt.embeds.device
    stream = TextStream(decode, eos_ids, on_text)
    clock = _Clock(device, on_prefill)
    steps, because = chosen(model, way, device)
    stopping, kernels = _Stopping(stop), ExitStack()

    def prefilled(read: Prefilled) -> None:
        clock.prefilled(read)
        kernels.enter_context(any_length(device))  # for each token is one more

    plan = Plan(prompt, tuple(prunes), sampling.seed, prefilled, stem, steps)
    with torch.no_grad(), _seeded(device, sampling.seed), _offloaded(model), kernels:
        ids = model.generate(
            inputs_embeds=prompt.embeds,
            attention_mask=torch.ones(prompt.embeds.shape[:2], dtype=torch.long, device=device),
            plan=plan,
            streamer=stream,
            stopping_criteria=[stopping],
            generation_config=_config(sampling, eos_ids),
        )
    seconds = clock.since_prefill()
    tokens = ids[0].tolist()
    return Generation(
        text=stream.text,
        finish_reason=_reason(tokens, sampling, eos_ids, interrupted=stopping.asked),
        tokens=len(tokens),
        per_layer=clock.per_layer,
        prefill_seconds=clock.prefill_seconds,
        seconds=seconds,
        kv_cache_bytes=clock.kv_cache_bytes,
        reused=clock.reused,
        stem=clock.stem,
        decoding=Decoding("stock", because) if steps is None else steps.decoding,
    )


def _reason(
    tokens: Sequence[int], sampling: Sampling, eos_ids: Sequence[int], *, interrupted: bool
) -> FinishReason:
    if tokens[-1] in eos_ids:
        return "stop"
    if len(tokens) == sampling.max_new_tokens:
        return "length"
    return "interrupted" if interrupted else "stop"  # the model's own ending token


class _Stopping:
    """A criterion of transformers that asks from outside. asked: whether it was told to stop."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop
        self.asked = False

    def __call__(self, ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self.asked = self.asked or self._stop()
        return torch.full((ids.shape[0],), self.asked, device=ids.device)


class _Clock:
    """Splits the time of one generation at its first logits, the device's work included."""

    def __init__(self, device: torch.device, on_prefill: Callable[[float], None]) -> None:
        self._device = device
        self._on_prefill = on_prefill
        self.per_layer: tuple[int, ...] = ()
        self.prefill_seconds = 0.0
        self.kv_cache_bytes = 0
        self.reused: Reused = AFRESH
        self.stem: Stem | None = None
        synchronise(device)
        self._begun = self._read = perf_counter()

    def prefilled(self, read: Prefilled) -> None:
        synchronise(self._device)
        self._read = perf_counter()
        self.prefill_seconds = self._read - self._begun
        self.per_layer = read.per_layer
        self.kv_cache_bytes = cache_bytes(read.cache)
        self.reused, self.stem = read.reused, read.stem
        self._on_prefill(self.prefill_seconds)

    def since_prefill(self) -> float:
        synchronise(self._device)
        return perf_counter() - self._read


def _config(sampling: Sampling, eos_ids: Sequence[int]) -> GenerationConfig:
    """Greedy, or the whole distribution: nothing a checkpoint's own settings would add."""
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        drawn = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_k": 0,
            "top_p": 1.0,
        }
    ending = {"eos_token_id": list(eos_ids), "pad_token_id": eos_ids[0]} if eos_ids else {}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        repetition_penalty=1.0,
        num_beams=1,
        **drawn,
        **ending,
    )


@contextmanager
def _offloaded(model: Any) -> Iterator[None]:
    """Weights fetched for each use are on "meta" between, and transformers 5.17 then warns
    that the prompt is elsewhere: it is where accelerate's hooks want it."""
    if model.device.type != "meta":
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are calling .generate", UserWarning)
        yield


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Draws on `device` follow from `seed`; afterwards its random state is what it was."""
    if device.type == "cpu":
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_rng_state(before)
        return
    here = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    source = torch.get_device_module(device)
    with here:
        before = source.get_rng_state()
        source.manual_seed(seed)
        try:
            yield
        finally:
            source.set_rng_state(before)
