"""Whether a device can do what is wanted of it, found out before anything is downloaded.

Each check is one line of a CapacityError. Knows CUDA and bitsandbytes, and of a model no more than
its sizes.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from tokenreduce import nvidia
from tokenreduce.errors import CapacityError
from tokenreduce.footprint_weights import weights
from tokenreduce.memory import host_free_bytes
from tokenreduce.models.kernels import fault
from tokenreduce.models.quantize import Quantize
from tokenreduce.models.spec import ModelSpec

ADVICE = "run `tokenreduce doctor`"
# What CUDA says as it starts, and what to make of it.
_MEANINGS = (
    (
        "not compiled with CUDA",
        "this torch is built without CUDA: install one that is built for it",
    ),
    ("Found no NVIDIA driver", "there is no NVIDIA driver: install one"),
    ("No CUDA GPUs are available", "no GPU is visible to it: see CUDA_VISIBLE_DEVICES"),
    ("busy or unavailable", "the card is busy or another program's alone: end that program"),
    ("no kernel image", "this torch has no code for the card: install one that has"),
    ("forward compatibility", "the driver's parts do not fit each other: restart the machine"),
    ("version mismatch", "the driver's parts do not fit each other: restart the machine"),
    ("not yet initialized", "the driver's fabric manager does not run: start it"),
    ("out of memory", "all of the card's memory is taken: end what uses it"),
)


def check_device(device: torch.device) -> None:
    """Starts CUDA on `device` and asks whether this torch has code for it; nothing elsewhere.

    Raises CapacityError.
    """
    if device.type != "cuda":
        return
    with started(device):
        torch.cuda.init()
        capability = torch.cuda.get_device_capability(device)
        code = torch.cuda.get_arch_list() if torch.version.hip is None else []
        torch.cuda.mem_get_info(device)  # a card that is another program's alone is told here
    if code and not has_code(capability, code):
        least = min(number for _, number, _ in map(_architecture, code))
        old = 10 * capability[0] + capability[1] < least
        raise CapacityError(
            f"device {device}: {torch.cuda.get_device_name(device)} has compute capability "
            f"{capability[0]}.{capability[1]}, for which torch {torch.__version__} has no code "
            f"({'it begins' if old else 'it has that'} "
            f"{f'at {least // 10}.{least % 10}' if old else 'of ' + ', '.join(code)}); install "
            f"{'an older' if old else 'a newer'} torch, or choose --device cpu; {ADVICE}"
        )


def writes_attention(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's attention writes out all pairs of tokens there: in bfloat16 its other forms,
    flash and memory-efficient, begin at compute capability 8.0. False of a card that is not here.
    """
    if device.type != "cuda" or dtype != torch.bfloat16 or torch.version.hip or not available():
        return False
    return torch.cuda.get_device_capability(device) < (8, 0)


def slow_attention(device: torch.device, dtype: torch.dtype) -> str | None:
    """A warning of that, with what to try; None where there is nothing to warn of."""
    if not writes_attention(device, dtype):
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return (
        f"device {device}: in bfloat16 a card of compute capability {major}.{minor} has only slow "
        "attention, whose memory grows with the square of a prompt's length; try --dtype float16, "
        "which has a better one, and compare an answer: some models overflow in it"
    )


def check_kernels(quantize: Quantize, device: torch.device) -> None:
    """Raises CapacityError where bitsandbytes cannot compute with such weights on `device`."""
    wrong = fault(quantize, device)
    if wrong is not None:
        raise CapacityError(
            f"quantize {quantize}: bitsandbytes does not work on {device} ({wrong}); choose "
            f"--quantize none, or install another version of it; {ADVICE}"
        )


def check_room(
    name: str, spec: ModelSpec, quantize: Quantize, dtype: torch.dtype, device: torch.device
) -> None:
    """Raises CapacityError where the weights alone are more than a CUDA `device` has, or has free.

    What this process has allocated there counts as free: it may be what makes room.
    """
    if device.type != "cuda":
        return
    needed = weight_bytes(spec, quantize, dtype)
    with started(device):
        free, total = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device)
    if needed <= free:
        return
    told = f"the weights of {name} alone take {needed / 2**30:.1f} GiB" + (
        f" in {quantize}" if quantize != "none" else ""
    )
    if needed <= total:
        raise CapacityError(
            f"device {device}: {free / 2**30:.1f} of its {total / 2**30:.1f} GiB are free, and "
            f"{told}; end what else uses the card; to see what, {ADVICE}"
        )
    fits = weight_bytes(spec, "nf4", dtype) <= total
    raise CapacityError(
        f"device {device}: it has {total / 2**30:.1f} GiB, and {told}; choose "
        f"{'--quantize nf4' if fits and quantize != 'nf4' else 'a smaller --model'}, "
        f"--device-map auto or --device cpu; {ADVICE}"
    )


def scarce(
    name: str, spec: ModelSpec, quantize: Quantize, dtype: torch.dtype, device: torch.device
) -> str | None:
    """A warning where the CPU is to do it and the weights alone are more than the host has free; it
    may still end well, by swapping or with weights that stay mapped. None if there is none."""
    free = host_free_bytes() if device.type == "cpu" else None
    needed = weight_bytes(spec, quantize, dtype)
    if free is None or needed <= free:
        return None
    smaller = quantize == "none" and weight_bytes(spec, "nf4", dtype) <= free
    return (
        f"device {device}: the weights of {name} alone take {needed / 2**30:.1f} GiB"
        f"{f' in {quantize}' if quantize != 'none' else ''}, and {free / 2**30:.1f} GiB of the "
        f"host's memory are free: choose {'--quantize nf4 or ' if smaller else ''}a smaller "
        "--model, or end what else runs"
    )


def weight_bytes(spec: ModelSpec, quantize: Quantize, dtype: torch.dtype) -> int:
    """Bytes of all weights on their device. dtype: of what is not quantised."""
    return weights(spec, quantize, dtype.itemsize)


def left_aside(asked: str) -> str | None:
    """For `asked` "auto": that a card is here and why torch cannot use it. None if it can, if no
    card is here, or if its owner hid it (CUDA_VISIBLE_DEVICES)."""
    if asked != "auto" or not nvidia.usable_card(os.environ) or available():
        return None
    return (
        "device auto: an NVIDIA driver is here, but torch cannot use a card "
        f"({why_not()}), so the CPU does all the work; {ADVICE}"
    )


def available() -> bool:
    """torch.cuda.is_available(), without its warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def why_not() -> str:
    """Why CUDA does not start, in a few words."""
    try:
        with started(torch.device("cuda")):
            torch.cuda.init()
    except CapacityError as error:
        return str(error).removeprefix("device cuda: ").removesuffix(f"; {ADVICE}")
    return "torch sees no card"


@contextmanager
def started(device: torch.device) -> Iterator[None]:
    """What CUDA raises while it starts, as a CapacityError; what it warns of, not at all."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    # Of torch: built without CUDA; CUDA itself; a check that torch put off.
    except (AssertionError, RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        raise CapacityError(f"device {device}: {meaning(str(error))}; {ADVICE}") from error


def meaning(message: str) -> str:
    """What torch says as CUDA fails to start, in one line that says what to do.

    >>> meaning("The NVIDIA driver on your system is too old (found version 11040). Please update")
    'the NVIDIA driver serves CUDA up to 11.4, and this torch needs a newer one: update the driver'
    """
    old = re.search(r"driver on your system is too old \(found version (\d+)\)", message)
    if old:
        number = int(old[1])
        return (
            f"the NVIDIA driver serves CUDA up to {number // 1000}.{number % 1000 // 10}, and this "
            "torch needs a newer one: update the driver"
        )
    for sign, said in _MEANINGS:
        if sign in message:
            return said
    first = next((text.strip() for text in message.splitlines() if text.strip()), "no reason given")
    return f"CUDA does not start: {first[:200]}"


def has_code(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether code for these architectures, as torch lists them, runs on a device.

    sm_XY runs within its generation from X.Y on; compute_XY is translated by the driver for X.Y
    and whatever is newer; of sm_90a and sm_100f, the first runs on 9.0 alone.

    >>> built = ["sm_75", "sm_80", "sm_90", "compute_90"]
    >>> [has_code(of, built) for of in ((7, 0), (7, 5), (8, 9), (12, 0))]
    [False, True, True, True]
    """
    major, minor = capability
    for kind, number, suffix in map(_architecture, architectures):
        least = divmod(number, 10)
        if suffix == "a":
            runs = least == (major, minor)
        elif kind == "sm" or suffix == "f":
            runs = least[0] == major and least[1] <= minor
        else:
            runs = least <= (major, minor)
        if runs:
            return True
    return False


def _architecture(name: str) -> tuple[str, int, str]:
    """
    >>> _architecture("sm_90a"), _architecture("compute_120")
    (('sm', 90, 'a'), ('compute', 120, ''))
    """
    found = re.fullmatch(r"(sm|compute)_(\d+)([af]?)", name)
    return (found[1], int(found[2]), found[3]) if found else ("sm", 0, "")
