"""Whether bitsandbytes computes on a device, found out by letting it: it may be installed, import,
and still have no kernel for the card. Knows no model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tokenreduce.models.quantize import Quantize

_ROWS, _COLUMNS = 64, 128
_TOLERANCE = {"nf4": 0.01, "int8": 0.05}
"""Of the largest value: NF4 against its own weights in bfloat16, int8 against the originals."""


def fault(quantize: Quantize, device: torch.device) -> str | None:
    """What goes wrong when a small matrix is quantised on `device` and multiplied with one row and
    with several, in one line; None if the products are right, or nothing is to be quantised."""
    if quantize == "none":
        return None
    try:
        with _silent():
            package: Any = import_module("bitsandbytes")
            weights = _waves(_ROWS, _COLUMNS).to(device)
            for rows in (1, 3):  # of one, as of each token of an answer, with a kernel of its own
                error = (_nf4 if quantize == "nf4" else _int8)(package, weights, rows)
                if not error < _TOLERANCE[quantize]:
                    return f"its products are wrong by {error:.1%}"
    # Whatever it is: an import that fails, a library that lacks, a kernel that is none.
    except Exception as error:
        told = [text.strip() for text in str(error).splitlines() if text.strip(" =\t")]
        return f"{type(error).__name__}: {told[0][:160]}" if told else type(error).__name__
    return None


def _nf4(package: Any, weights: Tensor, rows: int) -> float:
    """Largest difference from the product with what it stored, as a share of the largest value."""
    packed, state = package.functional.quantize_4bit(
        weights.bfloat16(), quant_type="nf4", compress_statistics=True
    )
    given = _waves(rows, _COLUMNS).to(weights.device).bfloat16()
    exact = given.float() @ package.functional.dequantize_4bit(packed, state).float().t()
    return _apart(package.matmul_4bit(given, packed.t(), quant_state=state), exact)


def _int8(package: Any, weights: Tensor, rows: int) -> float:
    layer = package.nn.Linear8bitLt(_COLUMNS, _ROWS, bias=False, has_fp16_weights=False)
    layer.weight = package.nn.Int8Params(
        weights.half().cpu(), requires_grad=False, has_fp16_weights=False
    )
    given = _waves(rows, _COLUMNS).to(weights.device)
    with torch.no_grad():
        return _apart(layer.to(weights.device)(given.half()), given @ weights.t())


def _apart(found: Tensor, exact: Tensor) -> float:
    return ((found.float() - exact).abs().max() / exact.abs().max()).item()


def _waves(rows: int, columns: int) -> Tensor:
    """(rows, columns) float32 in [-1, 1], the same each time; no random number is drawn."""
    return torch.arange(rows * columns).mul(0.7).sin().mul(9).sin().view(rows, columns)


@contextmanager
def _silent() -> Iterator[None]:
    """bitsandbytes reports that optional kernels are absent."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
