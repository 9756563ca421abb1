"""CUDA graphs: which models get them, what a failed capture leaves, and on a GPU their tokens."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BitsAndBytesConfig, DynamicCache, Qwen2Config, Qwen2ForCausalLM

from tokenreduce.engine import stepper
from tokenreduce.engine.generate import generate
from tokenreduce.engine.graphs import CudaGraphs
from tokenreduce.engine.host import HostedQwen2, prepare
from tokenreduce.engine.stepper import Stepper, chosen
from tokenreduce.engine.types import Generation, Plan, Prompt, Prune, Sampling, Way
from tokenreduce.errors import SettingError
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.result import Decoding
from tokenreduce.schedule import Ramp
from tokenreduce.tokens import Tokens

MakePrompt = Callable[..., Prompt]
RAMP = (Prune(AimPrune(), Ramp(Fraction(1, 3), Fraction(1))),)
CUDA = torch.device("cuda", 0)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def spelled(ids: list[int]) -> str:
    return "".join(f"<{token}>" for token in ids)


def nothing(_: Any) -> None:
    pass


def answer(model: Any, prompt: Prompt, way: Way, sampling: Sampling | None = None) -> Generation:
    drawn = sampling or Sampling(48)
    return generate(model, spelled, prompt, RAMP, drawn, (), nothing, nothing, way=way)


def test_which_way_is_taken(qwen2: Any, make_prompt: MakePrompt) -> None:
    model, cpu = qwen2.hosted, torch.device("cpu")
    assert chosen(model, "stock", cpu) == (None, "")
    assert chosen(model, "auto", cpu) == (None, "no CUDA graph: the model is on cpu")
    steps, _ = chosen(model, "slots", cpu)
    assert steps is not None
    assert steps.decoding == Decoding("stock", "no CUDA graph: the model is on cpu")
    with pytest.raises(SettingError, match="it can be auto, stock, slots"):
        chosen(model, "fast", cpu)  # type: ignore[arg-type]
    made = answer(model, make_prompt(40, range(6, 33)), "auto")
    assert made.decoding == Decoding("stock", "no CUDA graph: the model is on cpu")


@pytest.mark.parametrize("apart", ["model.layers.3", "lm_head"])
def test_layers_on_several_devices_stay_stock(qwen2: Any, apart: str) -> None:
    """Also those that are fetched when they are needed: a graph would read where they were."""
    model = copy.deepcopy(qwen2.hosted)
    model.get_submodule(apart).to("meta")
    for way in ("auto", "slots"):
        steps, because = chosen(model, way, torch.device("cpu"))
        assert (steps, because) == (None, "no CUDA graph: layers are also on meta")


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """quantised(dtype, device): a Qwen2 of NF4 layers that compute in `dtype`."""
    folder: Path = tmp_path_factory.mktemp("nf4")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=101,
                hidden_size=64,
                intermediate_size=64,
                num_hidden_layers=6,
                num_attention_heads=4,
                num_key_value_heads=2,
                initializer_range=0.25,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=0,
            )
        ).save_pretrained(folder)

    def load(dtype: torch.dtype, device: torch.device) -> Any:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
        model: Any = HostedQwen2.from_pretrained(
            folder, quantization_config=config, device_map={"": device}, dtype=dtype
        )
        model.eval()
        prepare(model)
        return model

    return load


def placed(prompt: Prompt, dtype: torch.dtype) -> Prompt:
    embeds, visual = prompt.embeds.to(CUDA, dtype), prompt.visual.to(CUDA)
    return Prompt(embeds, visual, Tokens.fresh(embeds[:, visual]), prompt.grid)


def test_four_bit_layers_give_the_same_tokens(
    quantised: Callable[..., Any], make_prompt: MakePrompt
) -> None:
    model = quantised(torch.float32, torch.device("cpu"))
    assert sum(type(module).__name__ == "Linear4bit" for module in model.modules()) == 6 * 7
    prompt = make_prompt(40, range(6, 33), width=64)
    for sampling in (Sampling(24), Sampling(24, 1.5, 7)):
        stock = answer(model, prompt, "stock", sampling)
        assert answer(model, prompt, "slots", sampling).text == stock.text


class Pretended:
    """As much of torch.cuda as recording uses, without a device; `events` is what was asked of it.

    broken: ending a capture in which something illegal was done raises, as torch's own does, and
    leaves the stream current.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, broken: bool) -> None:
        self.broken, self.events, self.current = broken, list[str](), Stream(self, "main")
        self.generator = Generator(self)
        for name, value in {
            "CUDAGraph": lambda: self,
            "graph": self.graph,
            "device": lambda _: nullcontext(),
            "Stream": lambda _: Stream(self, "side"),
            "stream": self.stream,
            "set_stream": self.set_stream,
            "current_stream": lambda: self.current,
            "current_device": lambda: 0,
            "default_generators": (self.generator,),
            "graph_pool_handle": lambda: (0, 1),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def set_stream(self, stream: Stream) -> None:
        self.current = stream

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextmanager
    def graph(self, graph: Any, *, pool: Any, stream: Any, capture_error_mode: str) -> Any:
        assert (graph, pool, capture_error_mode) == (self, (0, 1), "thread_local")
        before, self.current = self.current, stream
        self.generator.capturing = True
        try:
            yield
        finally:
            if self.broken:
                raise RuntimeError("CUDA error: operation failed due to a previous error")
        self.generator.capturing = False
        self.current = before

    def replay(self) -> None:
        self.events.append(f"replay on {self.current.name}")


@dataclass
class Stream:
    of: Pretended
    name: str

    def wait_stream(self, other: Stream) -> None:
        self.of.events.append(f"{self.name} waits for {other.name}")


@dataclass
class Generator:
    of: Pretended
    capturing: bool = False

    def clone_state(self) -> bool:
        return self.capturing

    def graphsafe_set_state(self, state: bool) -> None:
        self.capturing = state


class OnDevice(Tensor):
    """Says which stream it was kept for; a CPU's tensor does not know."""

    def record_stream(self, stream: Any) -> None:
        stream.of.events.append(f"kept for {stream.name}")


def test_a_step_is_run_and_recorded_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Pretended(monkeypatch, broken=False)
    recorder = CudaGraphs.on(CUDA)

    def step() -> Tensor:
        cuda.events.append(f"step on {cuda.current.name}")
        return torch.ones(1).as_subclass(OnDevice)

    assert recorder.run(step) == 1
    assert cuda.events == [
        "side waits for main",
        "step on side",
        "main waits for side",
        "kept for main",
    ]
    cuda.events.clear()
    replay = recorder.record(step)
    assert cuda.events == ["step on side"]
    first = replay()
    assert replay() is first
    assert cuda.events[1:] == ["replay on main"] * 2


@pytest.mark.parametrize("absent", [True, False])
def test_on_cuda_a_stepper_records_with_triton_or_without(
    monkeypatch: pytest.MonkeyPatch, qwen2: Any, absent: bool
) -> None:
    """Everything here is on a CPU, but `chosen` is told otherwise."""
    Pretended(monkeypatch, broken=True)
    monkeypatch.setattr(stepper, "_devices", lambda *_: {CUDA})
    if absent:
        monkeypatch.setitem(sys.modules, "tokenreduce.engine.split_attention", None)
    ways: tuple[Way, ...] = ("auto", "slots")
    for way in ways:
        steps, because = chosen(qwen2.hosted, way, CUDA)
        assert because == ""
        assert isinstance(steps, Stepper)
        assert isinstance(steps._recorder, CudaGraphs)
        assert (steps._attend is None) == (absent or find_spec("triton") is None)


def test_a_failed_capture_leaves_stream_and_random_numbers_as_they_were(
    monkeypatch: pytest.MonkeyPatch, qwen2: Any, make_prompt: MakePrompt
) -> None:
    """What is reported is what was wrong, not that ending the capture raised as well."""
    cuda = Pretended(monkeypatch, broken=True)
    recorder = CudaGraphs.on(CUDA)

    def illegal() -> Tensor:
        raise RuntimeError("operation not permitted when stream is capturing\nSearch for it")

    with pytest.raises(RuntimeError, match="previous error"):
        recorder.record(illegal)
    assert cuda.current.name == "main"
    assert not cuda.generator.capturing

    class Spoilt:
        run = staticmethod(lambda step: step())
        record = staticmethod(lambda _: recorder.record(illegal))

    prompt, model = make_prompt(40, range(6, 33)), qwen2.hosted
    steps = Stepper(Spoilt())
    plan = Plan(prompt, RAMP, steps=steps)
    cache: Any = DynamicCache(config=model.config)
    cache = model(inputs_embeds=prompt.embeds, plan=plan, past_key_values=cache).past_key_values
    for _ in range(3):
        given = {"input_ids": torch.tensor([[1]]), "plan": plan, "past_key_values": cache}
        cache = model(**given).past_key_values
    assert steps.decoding.road == "slots"
    assert steps.decoding.because == (
        "no CUDA graph: RuntimeError: operation not permitted when stream is capturing"
    )


@pytest.mark.gpu
@gpu
def test_graphs_give_the_tokens_of_stock_in_float32(qwen2: Any, make_prompt: MakePrompt) -> None:
    """200 tokens: recorded twice. Sampling draws the same, and goes on drawing afterwards."""
    model = copy.deepcopy(qwen2.hosted).to(CUDA)
    prompt = placed(make_prompt(700, range(6, 690)), torch.float32)
    for sampling in (Sampling(200), Sampling(200, 1.5, 7)):
        stock = answer(model, prompt, "stock", sampling)
        graphs = answer(model, prompt, "auto", sampling)
        assert graphs.text == stock.text
        assert (graphs.decoding.road, graphs.decoding.recordings) == ("graphs", 2)
        assert graphs.decoding.because == ""


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_of_four_bit_layers(
    quantised: Callable[..., Any], make_prompt: MakePrompt, dtype: torch.dtype
) -> None:
    """Replayed is computed, bit for bit; and stock within what its other kernel rounds to."""
    model, found = quantised(dtype, CUDA), list[Tensor]()
    prompt = placed(make_prompt(700, range(6, 690), width=64), dtype)
    recorder = CudaGraphs.on(CUDA)
    ways = (None, Stepper(slots=24), Stepper(recorder, slots=24))
    for steps in ways:
        found.append(logits(model, prompt, steps))
    assert ways[2] is not None
    assert ways[2].decoding.recordings == 2
    assert torch.equal(found[2], found[1])
    rough = 1e-4 if dtype == torch.float32 else 2e-2
    assert ((found[1] - found[0]).norm() / found[0].norm()).item() < rough
    if dtype == torch.float32:
        assert answer(model, prompt, "auto").text == answer(model, prompt, "stock").text


def logits(model: Any, prompt: Prompt, steps: Stepper | None) -> Tensor:
    """Of 40 tokens that are given, so that all ways go the same."""
    plan, mine = Plan(prompt, RAMP, steps=steps), list[Tensor]()
    cache: Any = DynamicCache(config=model.config)
    out = model(inputs_embeds=prompt.embeds, plan=plan, past_key_values=cache)
    for token in range(40):
        ids = torch.tensor([[token]], device=CUDA)
        out = model(input_ids=ids, plan=plan, past_key_values=out.past_key_values)
        mine.append(out.logits.float())
    return torch.cat(mine)


@pytest.mark.gpu
@gpu
def test_what_cannot_be_captured_is_computed_and_sampling_goes_on(
    qwen2: Any, make_prompt: MakePrompt
) -> None:
    """A layer that reads a number back waits for the device, which no graph can."""
    model = copy.deepcopy(qwen2.hosted).to(CUDA)
    model.model.norm.register_forward_hook(lambda *_: torch.ones(1, device=CUDA).tolist() and None)
    prompt = placed(make_prompt(700, range(6, 690)), torch.float32)
    sampling = Sampling(40, 1.5, 7)
    made = answer(model, prompt, "auto", sampling)
    assert made.text == answer(model, prompt, "stock", sampling).text
    assert made.decoding.road == "slots"
    assert made.decoding.because.startswith("no CUDA graph: ")


@pytest.mark.gpu
@gpu
def test_slots_hold_little_more_than_the_cache(qwen2: Any, make_prompt: MakePrompt) -> None:
    """No more than one layer twice, and gone with the answer."""
    model = copy.deepcopy(qwen2.hosted).to(CUDA)
    prompt = placed(make_prompt(4000, range(6, 3990)), torch.float32)
    answer(model, prompt, "auto", Sampling(4))  # workspaces
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    made = answer(model, prompt, "auto", Sampling(40))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < 1 << 20
    slots = 6 * 2 * 2 * 8 * 4 * (128 + 16)  # layers, k and v, heads of 8, float32
    assert made.decoding.cache_bytes < made.kv_cache_bytes + slots + 6 * 4 * (4000 + 144)
