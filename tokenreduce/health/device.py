"""Looks at torch, the device, its memory, and what computes on it. Taken in a helper process, for
drivers hang and libraries crash; torch is imported by the looks, so that its failure is a finding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, get_args

from tokenreduce import nvidia
from tokenreduce.errors import ModelError, SettingError, TokenReduceError
from tokenreduce.health.finding import Asked, Finding, of_error, size
from tokenreduce.health.packages import installed

if TYPE_CHECKING:
    import torch

    from tokenreduce.models.spec import ModelSpec

_MOST_USERS = 3


def torch_itself(asked: Asked) -> Iterator[Finding]:
    """Whether it can be imported, and what it is built for."""
    try:
        import torch
    # Broken installations raise anything: missing libraries, clashing ones, other versions' names.
    except Exception as error:
        found = of_error("torch", error, device=True)
        yield Finding("torch", "problem", f"cannot be imported ({found.text}): reinstall it", True)
        return
    if torch.version.cuda:
        built = f"built for CUDA {torch.version.cuda}"
    else:
        built = "built for ROCm" if torch.version.hip else "built without CUDA"
    yield Finding("torch", "ok", f"{torch.__version__}, {built}")


def device(asked: Asked) -> Iterator[Finding]:
    """The one that a question would use, and whether it can be."""
    from tokenreduce.models.device_check import check_device, left_aside
    from tokenreduce.models.placement import choose_device

    try:
        chosen = choose_device(asked.device)
        check_device(chosen)
    except TokenReduceError as error:
        yield of_error("device", _without_advice(error), device=True)
        return
    if chosen.type == "cuda":
        yield Finding("device", "ok", _card(chosen))
    elif chosen.type == "mps" or asked.device == "cpu":
        yield Finding("device", "ok", f"{chosen}, {os.cpu_count()} cores of the CPU")
    elif (told := left_aside("auto")) is not None:
        yield Finding("device", "warning", str(_without_advice(TokenReduceError(told))))
    elif nvidia.cards_on_the_bus() and os.environ.get("CUDA_VISIBLE_DEVICES") is None:
        yield Finding("device", "warning", "cpu: an NVIDIA card is here without a driver: install")
    else:
        yield Finding(
            "device",
            "warning",
            f"cpu, {os.cpu_count()} cores: no GPU is here that torch can use; a 7B takes minutes "
            "to answer, a small --model is faster",
        )


def memory(asked: Asked) -> Iterator[Finding]:
    """What the device has and has free, against the weights of the model as far as they are known
    here; who else uses it."""
    import torch

    from tokenreduce.footprint_weights import weights
    from tokenreduce.memory import host_free_bytes
    from tokenreduce.models.device_check import check_room, started
    from tokenreduce.models.placement import choose_device, choose_dtype
    from tokenreduce.models.quantize import choose

    chosen = choose_device(asked.device)
    if chosen.type == "cuda":
        with started(chosen):
            free, total = torch.cuda.mem_get_info(chosen)
        text = f"{size(free)} of {size(total)} free" + _others(chosen)
    else:
        free = host_free_bytes() or 0
        text = f"{size(free)} of the host's free" if free else "what the host has free is not told"
    spec = _spec(asked)
    if spec is None:
        yield Finding("memory", "ok", f"{text}; {asked.model} is not here to be sized")
        return
    quantize, dtype = choose(asked.quantize, spec.text, chosen), choose_dtype(asked.dtype, chosen)
    needed = weights(spec, quantize, dtype.itemsize)
    kind = str(dtype).removeprefix("torch.") if quantize == "none" else quantize
    text = f"{text}; the weights of {asked.model} take {size(needed)} in {kind}"
    if chosen.type == "cuda":
        try:
            check_room(asked.model, spec, quantize, dtype, chosen)
        except TokenReduceError as error:
            yield of_error("memory", _without_advice(error), device=True)
            return
    elif free and needed > free:
        yield Finding("memory", "warning", f"{text}: close other programs, or use a smaller model")
        return
    yield Finding("memory", "ok", text)


def half_precision(asked: Asked) -> Iterator[Finding]:
    """bfloat16, in which a GPU computes what is not quantised."""
    import torch

    from tokenreduce.models.device_check import started
    from tokenreduce.models.placement import choose_device

    chosen = choose_device(asked.device)
    if chosen.type != "cuda":
        yield Finding("bfloat16", "ok", f"not needed: {chosen} computes in its own default")
        return
    with started(chosen):
        own = torch.version.hip is not None or torch.cuda.get_device_capability(chosen) >= (8, 0)
    if own:
        yield Finding("bfloat16", "ok", "computed by the card itself")
    else:
        yield Finding(
            "bfloat16", "warning", "only emulated by this card, slowly: try --dtype float16"
        )


def quantisation(asked: Asked) -> Iterator[Finding]:
    """bitsandbytes: a small matrix is really quantised and multiplied, on the device."""
    import torch

    from tokenreduce.models.kernels import fault
    from tokenreduce.models.placement import choose_device
    from tokenreduce.models.quantize import Quantize

    name, chosen = "bitsandbytes", choose_device(asked.device)
    needed = asked.quantize in ("nf4", "int8") or (
        asked.quantize == "auto" and chosen.type == "cuda"
    )
    here = installed(name)
    if here is None:
        text = "not installed: pip install bitsandbytes, or use --quantize none"
        yield Finding(name, "warning" if asked.quantize in ("auto", "none") else "problem", text)
        return
    kinds: list[Quantize] = [k for k in get_args(Quantize) if k in (asked.quantize, "nf4")]
    for kind in (kind for kind in kinds if kind != "none"):
        for where in dict.fromkeys((chosen, torch.device("cpu"))):
            wrong = fault(kind, where)
            if wrong is not None:
                bad = (
                    needed
                    and where == chosen
                    and kind == ("nf4" if asked.quantize == "auto" else asked.quantize)
                )
                yield Finding(
                    name,
                    "problem" if bad else "warning",
                    f"{here}: {kind} does not work on {where} ({wrong}): use --quantize none, or "
                    "install another version",
                    bad,
                )
            elif where == chosen:
                yield Finding(name, "ok", f"{here}: {kind} computes rightly on {where}")


def triton(asked: Asked) -> Iterator[Finding]:
    """Whose kernels score long prompts and decode on a CUDA device: compiled and compared there."""
    from tokenreduce.models.placement import choose_device

    chosen = choose_device(asked.device)
    if chosen.type != "cuda":
        yield Finding("triton", "ok", f"not needed on {chosen}")
        return
    try:
        import_module("triton")
    except Exception as error:
        found = of_error("triton", error)
        yield Finding(
            "triton", "warning", f"cannot be imported ({found.text}): long prompts are slower"
        )
        return
    version = installed("triton") or "of an unknown version"
    try:
        wrong = _wrong_kernels(chosen)
    except Exception as error:
        found = of_error("triton", error)
        yield Finding("triton", "warning", f"{version}: {found.text}: long prompts are slower")
        return
    if wrong:
        yield Finding(
            "triton", "warning", f"{version}: {wrong} is wrong on this card, so it is not used"
        )
        return
    yield Finding("triton", "ok", f"{version}: its kernels are right on {chosen}")


def _wrong_kernels(chosen: torch.device) -> str:
    """With the sizes of the 7B."""
    import torch

    from tokenreduce import importance_kernel
    from tokenreduce.engine import split_attention

    sizes = (chosen, torch.bfloat16, 28, 4, 128)
    if not importance_kernel.proven(*sizes):
        return "the scoring of long prompts"
    return "" if split_attention.proven(*sizes) else "attention while decoding"


def _card(chosen: torch.device) -> str:
    import torch

    major, minor = torch.cuda.get_device_capability(chosen)
    text = f"{chosen}, {torch.cuda.get_device_name(chosen)}, compute capability {major}.{minor}"
    driver, serves = nvidia.driver_version(), nvidia.driver_cuda()
    if driver is not None:
        text += f", driver {driver}"
    if serves is not None:
        text += f" for CUDA up to {serves}"
    count = torch.cuda.device_count()
    return text + (f"; {count - 1} more beside it" if count > 1 else "")


def _others(chosen: torch.device) -> str:
    """Who else computes on the card, where the driver tells."""
    import torch

    uuid = getattr(torch.cuda.get_device_properties(chosen), "uuid", None)
    found = nvidia.users(f"GPU-{uuid}") if uuid else None
    others = [one for one in found or () if one.pid != os.getpid()]
    if not others:
        return ""
    told = [
        f"{os.path.basename(one.name)} (pid {one.pid}"
        + (f", {size(one.used_bytes)})" if one.used_bytes else ")")
        for one in others[:_MOST_USERS]
    ]
    more = f" and {len(others) - _MOST_USERS} more" if len(others) > _MOST_USERS else ""
    return f", used by {', '.join(told)}{more}"


def _spec(asked: Asked) -> ModelSpec | None:
    """From a configuration that is on this machine, or built in; no network is asked."""
    from tokenreduce.models.builtin import planned_spec

    try:
        return planned_spec(asked.model, asked.revision)[0]
    except (ModelError, SettingError):
        return None


def _without_advice(error: TokenReduceError) -> TokenReduceError:
    """What sends people to the doctor is of no use there."""
    from tokenreduce.models.device_check import ADVICE

    text = str(error)
    for joined in (f"; to see what, {ADVICE}", f", or {ADVICE}", f"; {ADVICE}"):
        text = text.removesuffix(joined)
    return type(error)(text)
