"""Lets one layer's queries and keys be seen on the way into stock SDPA; knows not what for.

transformers hands keyword arguments of a decoder layer on to its attention function, and takes
attention functions by name. So a layer called with `observe=...` shows what it attends with, and
no weight, class or function of transformers is touched: 4-bit layers are no special case.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from tokenreduce.errors import ModelError

NAME = "tokenreduce_sdpa"

Observe = Callable[[Tensor, Tensor, float], None]
"""Called with q (b, h, l, d_head) and k (b, h_kv, l, d_head), both after RoPE, and the scale."""

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""Called with q (1, h, 1, d_head), keys and values (1, h_kv, n, d_head), a mask (1, 1, 1, n) to be
added, and the scale: (1, 1, h, d_head)."""

_NEEDED = {
    "hidden_states",
    "attention_mask",
    "past_key_values",
    "use_cache",
    "position_embeddings",
}


def sdpa_observed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    observe: Observe | None = None,
    attend: Attend | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' own SDPA attention, after `observe` has been shown query and key; or what
    `attend` gives, where there is one and a mask."""
    if observe is not None:
        observe(query, key, scaling)
    if attend is not None and attention_mask is not None:
        return attend(query, key, value, attention_mask, scaling), None
    stock = AttentionInterface()["sdpa"]
    attended: tuple[Tensor, Tensor | None] = stock(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )
    return attended


def register() -> None:
    """Makes `NAME` known to transformers; harmless when repeated."""
    AttentionInterface.register(NAME, sdpa_observed)
    # Under a name it has no mask function for, transformers makes no masks at all.
    AttentionMaskInterface.register(NAME, AttentionMaskInterface()["sdpa"])


def make_observable(stack: PreTrainedModel) -> None:
    """Lets a stack of decoder layers (Qwen2Model, LlamaModel, ...) be prefilled by this engine.

    Registers and sets the attention function, and checks the layers. Raises ModelError if they
    are not what the engine was written for: another transformers, or sliding-window attention.
    """
    register()
    check_layers(stack)
    stack.set_attn_implementation(NAME)


def check_layers(stack: PreTrainedModel) -> None:
    """Raises ModelError unless every layer takes and does what the prefill counts on."""
    layer = next(stack.get_submodule("layers").children())
    parameters = inspect.signature(type(layer).forward).parameters
    lacking = sorted(_NEEDED - parameters.keys())
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        lacking.append("**kwargs")
    if lacking:
        raise ModelError(
            f"{type(layer).__name__} of transformers {transformers.__version__} takes no "
            f"{', '.join(lacking)}: install transformers >=5.17,<5.24"
        )
    kinds = set(getattr(stack.config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        raise ModelError(
            f"this model has layers of {', '.join(sorted(kinds))}: give one whose layers all have "
            "full attention, for only there can tokens be removed"
        )
