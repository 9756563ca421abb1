"""CUDA graphs: which models get them, what a failed capture leaves, and on a GPU their tokens."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BitsAndBytesConfig, DynamicCache, Qwen2Config, Qwen2ForCausalLM

from tokenreduce import memory
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


@pytest.mark.gpu
@gpu
def test_graphs_give_the_tokens_of_stock_in_float32(
    paired: Callable[..., Any], make_prompt: MakePrompt
) -> None:
    """200 tokens: recorded twice. Sampling draws the same, and goes on drawing afterwards. Heads
    are 16 wide, so that long layers are attended to by this project's kernels."""
    split_attention = pytest.importorskip(
        "tokenreduce.engine.split_attention", exc_type=ImportError
    )
    split_attention.proven.forget()
    model = copy.deepcopy(paired("qwen2", head_dim=16).hosted).to(CUDA)
    prompt = placed(make_prompt(700, range(6, 690)), torch.float32)
    for sampling in (Sampling(200), Sampling(200, 1.5, 7)):
        stock = answer(model, prompt, "stock", sampling)
        replayed = answer(model, prompt, "auto", sampling)
        assert replayed.text == stock.text
        assert (replayed.decoding.road, replayed.decoding.recordings) == ("graphs", 2)
        assert replayed.decoding.because == ""
    assert split_attention.proven.remembered > 0


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_of_four_bit_layers(
    quantised: Callable[..., Any], make_prompt: MakePrompt, dtype: torch.dtype
) -> None:
    """Replayed is computed, bit for bit, by SDPA and by the kernels of this project; and stock
    within what its other kernel rounds to."""
    split_attention = pytest.importorskip(
        "tokenreduce.engine.split_attention", exc_type=ImportError
    )
    model = quantised(dtype, CUDA)
    prompt = placed(make_prompt(700, range(6, 690), width=64), dtype)
    stock, recorder = logits(model, prompt, None), CudaGraphs.on(CUDA)
    # Kernels round differently and six layers carry it on. Of such a model on a CPU, without NF4:
    # 0.017 between its two kernels, 0.043 to one that rounds all it can, 0.12 to float32.
    rough = 1e-4 if dtype == torch.float32 else 6e-2
    for attend in (None, split_attention.attend_proven):
        recorded = Stepper(recorder, slots=24, attend=attend)
        computed = logits(model, prompt, Stepper(slots=24, attend=attend))
        assert torch.equal(logits(model, prompt, recorded), computed)
        assert (recorded.decoding.recordings, recorded.decoding.because) == (2, "")
        assert ((computed - stock).norm() / stock.norm()).item() < rough
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


OWN_PROCESS = "TOKENREDUCE_TEST_ALONE"


@pytest.mark.gpu
@gpu
def test_what_cannot_be_captured_is_computed_and_sampling_goes_on(
    request: pytest.FixtureRequest, paired: Callable[..., Any], make_prompt: MakePrompt
) -> None:
    """A layer that reads a number back waits for the device, which no graph can. Afterwards the
    cache can be emptied and graphs recorded. In a process of its own: what a capture leaves behind
    would break every later test on the device."""
    if OWN_PROCESS not in os.environ:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command.append(f"{request.path}::{request.node.name}")
        env = {**os.environ, OWN_PROCESS: "1"}
        done = subprocess.run(
            command, cwd=request.config.rootpath, env=env, capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return
    model = copy.deepcopy(paired("qwen2", head_dim=16).hosted).to(CUDA)
    reads = model.model.norm.register_forward_hook(
        lambda *_: torch.ones(1, device=CUDA).tolist() and None
    )
    prompt = placed(make_prompt(700, range(6, 690)), torch.float32)
    sampling = Sampling(40, 1.5, 7)
    stock = answer(model, prompt, "stock", sampling)
    for _ in range(2):
        made = answer(model, prompt, "auto", sampling)
        assert made.text == stock.text
        assert made.decoding.road == "slots"
        assert made.decoding.because.startswith("no CUDA graph: ")
        torch.cuda.empty_cache()
    reads.remove()
    made = answer(model, prompt, "auto", sampling)
    assert made.text == stock.text
    assert (made.decoding.road, made.decoding.because) == ("graphs", "")


@pytest.mark.gpu
@gpu
def test_slots_hold_little_more_than_the_cache(
    paired: Callable[..., Any], make_prompt: MakePrompt
) -> None:
    """No more than one layer twice, and gone with the answer."""
    model = copy.deepcopy(paired("qwen2", head_dim=16).hosted).to(CUDA)
    prompt = placed(make_prompt(4000, range(6, 3990)), torch.float32)
    answer(model, prompt, "auto", Sampling(4))  # workspaces
    memory.synchronise(CUDA)
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        made = answer(model, prompt, "auto", Sampling(40))
    memory.synchronise(CUDA)
    assert torch.cuda.memory_allocated() - before < 1 << 20
    slots = 6 * 2 * 2 * 16 * 4 * (128 + 16)  # layers, k and v, heads of 16, float32
    assert made.decoding.cache_bytes < made.kv_cache_bytes + slots + 6 * 4 * (4000 + 144)


@pytest.mark.gpu
@gpu
def test_graphs_are_recorded_while_another_thread_waits_for_the_device(
    paired: Callable[..., Any], make_prompt: MakePrompt
) -> None:
    """As a batch does: it encodes the next video, and waits for it, while answers are made. All by
    one stream and with no workspace more."""
    model = copy.deepcopy(paired("qwen2", head_dim=16).hosted).to(CUDA)
    prompt = placed(make_prompt(700, range(6, 690)), torch.float32)
    wanted, over = answer(model, prompt, "auto").text, threading.Event()

    def beside() -> int:
        rounds, large = 0, torch.ones(512, 512, device=CUDA)
        while not over.is_set():
            large = (large @ large).clamp(0, 1)
            memory.synchronise(CUDA)
            rounds += 1
            if rounds % 7 == 0:
                memory.free_device(CUDA)
        return rounds

    with ThreadPoolExecutor(1) as pool:
        rounds = pool.submit(beside)
        try:
            made = [answer(model, prompt, "auto") for _ in range(20)]
        finally:
            over.set()
        assert rounds.result(30) > 20
    assert [(one.decoding.road, one.decoding.because, one.text) for one in made] == [
        ("graphs", "", wanted)
    ] * 20
    assert len({CudaGraphs.on(CUDA).side.stream.stream_id for _ in range(40)}) == 1
