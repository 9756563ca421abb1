"""What the sections of benchmarks/gpu.py share: the model, prompts, clocks, stand-ins for cards.

Everything that is timed is the product's own: `viewing.see`, the model's `prompt` and `generate`.
Knows no section.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import DynamicCache

from benchmarks import random_model
from benchmarks.gpu_frames import Made, footage
from benchmarks.gpu_scale import Scale
from tokenreduce import memory
from tokenreduce.clock import Clock
from tokenreduce.engine import attention, types
from tokenreduce.engine.host import read_prompt
from tokenreduce.engine.types import Generation, Prompt, Prune, Sampling
from tokenreduce.errors import CapacityError
from tokenreduce.models.llava_video import LlavaVideo
from tokenreduce.models.quantize import Quantize
from tokenreduce.plan import Overrides, Plan, of_video, settle
from tokenreduce.preset import load_preset
from tokenreduce.replying import words
from tokenreduce.subject import Footage
from tokenreduce.video.decoder import Decoder
from tokenreduce.viewing import Viewed, see

GIB = float(1 << 30)
DRIVER_GIB = 0.75
"""Of a card's memory, what driver and CUDA context take and no process can have."""

_T = TypeVar("_T")


class NotDone(Exception):
    """Why a figure cannot be had on this machine."""


@dataclass
class Bench:
    """One run of the benchmark on one device.

    folder  for films      stand_in  every card's size is multiplied by it, so that tests can have
                           one into which nothing fits
    left    seconds until the run is to end
    """

    device: torch.device
    scale: Scale
    folder: Path
    stand_in: float = 1.0
    left: Callable[[], float] = field(default=lambda: float("inf"))
    _held: tuple[Quantize, LlavaVideo] | None = None
    _made: Made | None = None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def model(self, quantize: Quantize) -> LlavaVideo:
        """One is there at a time. On a GPU what is not quantised is bfloat16."""
        if self._held is None or self._held[0] != quantize:
            self._held = None
            self.clean()
            dtype = torch.bfloat16 if self.on_gpu else torch.float32
            made = random_model.make(self.scale.model, self.device, dtype, quantize)
            self._held = (quantize, made)
        return self._held[1]

    def clean(self) -> None:
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    # What is asked

    def plan(self, model: LlavaVideo, preset: str, over: Overrides, seconds: float) -> Plan:
        sampling = Sampling(max_new_tokens=1)
        settled = settle(load_preset(preset), model.spec, over, sampling)
        return of_video(settled, model.spec, seconds, 25.0, "made.mp4")

    def view(
        self,
        model: LlavaVideo,
        frames: int,
        preset: str,
        *,
        budget: int | None = None,
        rate: float | None = None,
        decoder: Decoder | None = None,
        about: Footage | None = None,
    ) -> tuple[Viewed, Plan]:
        """`frames` over their whole road to the LLM, as `preset` reduces them, to its own budget or
        the one that is given. decoder and about: of a real file; else frames are made."""
        subject = about or footage(frames / (rate or 1.0))
        over = Overrides(frames=frames, budget=budget)
        if rate is not None:
            over = Overrides(fps=rate, max_frames=frames, budget=budget)
        seconds = subject.probe.seconds
        plan = self.plan(model, preset, over, seconds)
        source = decoder or self.made(model)
        return see(source, model, subject, plan, Clock()), plan

    def made(self, model: LlavaVideo) -> Decoder:
        """Frames that cost nothing; the pictures are drawn once."""
        size = model.spec.vision.image_size
        if self._made is None or self._made.size != size:
            self._made = Made(size)
        return self._made.decoder

    def prompt(self, model: LlavaVideo, viewed: Viewed, plan: Plan | None = None) -> Prompt:
        """With exactly scale.text tokens of text; given a plan, with its time instruction too."""
        bare = model.text_tokens("", None)
        question = "#" * max(1, self.scale.text - bare)  # one token each
        time_text = None if plan is None else words(model, viewed, plan).time
        return model.prompt(question, time_text, viewed.visual, viewed.grid)

    def generated(
        self, model: LlavaVideo, prompt: Prompt, prunes: Sequence[Prune] = (), tokens: int = 1
    ) -> Generation:
        """By the product: prefill with `prunes`, then as many tokens."""
        return model.generate(prompt, prunes, Sampling(tokens), unheard, unseen)

    @torch.no_grad()
    def read(self, model: LlavaVideo, prompt: Prompt, prunes: Sequence[Prune] = ()) -> None:
        """By the product's prefill, and nothing of what `generate` does around it."""
        read_prompt(model.host, types.Plan(prompt, prunes), DynamicCache())

    @torch.no_grad()
    def stock_generated(self, model: LlavaVideo, prompt: Prompt) -> None:
        """One token by transformers' own `generate` with SDPA."""
        with self._sdpa(model) as host:
            host.generate(
                inputs_embeds=prompt.embeds,
                attention_mask=prompt.embeds.new_ones(prompt.embeds.shape[:2], dtype=torch.long),
                max_new_tokens=1,
                do_sample=False,
                pad_token_id=0,
            )

    @torch.no_grad()
    def stock(self, model: LlavaVideo, prompt: Prompt) -> None:
        """The same prompt by transformers' own forward with SDPA: what nobody reduces."""
        with self._sdpa(model) as host:
            host(inputs_embeds=prompt.embeds, past_key_values=DynamicCache(), logits_to_keep=1)

    @contextmanager
    def _sdpa(self, model: LlavaVideo) -> Iterator[Any]:
        """The hosted model with transformers' own attention."""
        host: Any = model.host
        stack = host.get_decoder()
        stack.set_attn_implementation("sdpa")
        try:
            yield host
        finally:
            stack.set_attn_implementation(attention.NAME)

    # Clocks and memory

    def seconds(self, work: Callable[[], object]) -> float:
        """Wall seconds, the device's work included."""
        memory.synchronise(self.device)
        begun = time.perf_counter()
        work()
        memory.synchronise(self.device)
        return time.perf_counter() - begun

    def first(self, works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """The seconds of each one's first call, which sets up what libraries need for its shapes:
        a question about another video pays some of it again."""
        return {name: self.seconds(work) for name, work in works.items()}

    def timed(self, work: Callable[[], object]) -> Callable[[], dict[str, float]]:
        """For `record.rounds`."""
        return lambda: {"seconds": self.seconds(work)}

    def peak(self, work: Callable[[], object]) -> float:
        """Most bytes in use while `work` runs, the model's included. Of the device; on a CPU, to
        have a figure at all, of this process."""
        self.clean()
        if not self.on_gpu:
            memory.reset_host_peak()
            work()
            return float(memory.host_peak_bytes())
        memory.reset_device_peak(self.device)
        work()
        return float(torch.cuda.max_memory_allocated(self.device))

    def held(self) -> float:
        """Bytes in use now."""
        self.clean()
        if self.on_gpu:
            return float(torch.cuda.memory_allocated(self.device))
        return float(memory.host_bytes() or 0)

    def fits(self, work: Callable[[], _T]) -> _T | None:
        """What `work` gives, or None where the memory does not suffice; that is then free again."""
        try:
            return work()
        except (torch.OutOfMemoryError, CapacityError, MemoryError):
            pass  # the traceback, which holds tensors, ends here
        self.clean()
        return None

    @contextmanager
    def card(self, gib: float, *, minus_driver: bool = True) -> Iterator[None]:
        """A card of `gib` GiB, as far as this process can tell. Raises NotDone where this machine's
        is smaller, torch.OutOfMemoryError where more is taken; on a CPU, after it was."""
        most = (gib - DRIVER_GIB * minus_driver) * GIB * self.stand_in
        self.clean()
        if not self.on_gpu:
            memory.reset_host_peak()
            yield
            if memory.host_peak_bytes() > most:
                raise torch.OutOfMemoryError(f"more than {most:.0f} bytes")
            return
        there = torch.cuda.get_device_properties(self.device).total_memory
        if most > there:
            raise NotDone(f"not done: this card has {there / GIB:.1f} GiB")
        torch.cuda.set_per_process_memory_fraction(most / there, self.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)


def told_failure(error: Exception) -> str:
    """Instead of a figure: what was tried came to this."""
    return f"not done: {' '.join(f'{type(error).__name__}: {error}'.split())[:120]}"


def unheard(text: str) -> None:
    pass


def unseen(seconds: float) -> None:
    pass
