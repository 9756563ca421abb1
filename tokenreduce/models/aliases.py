"""Short names of the checkpoints this project was built for; no files, no network, no torch.

Sizes are approximate: parameters times two bytes. Licences are to the best of our knowledge and
marked unverified: nothing here is checked against the hub, whose pages are what holds.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT = "llava-video-7b"
DEMO = "demo"


@dataclass(frozen=True)
class Alias:
    """A short name of a checkpoint.

    hub_id          repository on the Hugging Face hub, or None for the embedded checkpoint
    download_bytes  approximate size of its safetensors, 0 for the embedded one
    licence         of the weights, as far as known; the hub's page is what holds
    summary         one line on what it is
    """

    name: str
    hub_id: str | None
    download_bytes: int
    licence: str
    summary: str


_APACHE = "Apache-2.0 (unverified)"

ALIASES: dict[str, Alias] = {
    alias.name: alias
    for alias in (
        Alias(
            DEMO,
            None,
            0,
            "Apache-2.0",
            "embedded; trained from scratch on a generated toy world and knows nothing else",
        ),
        Alias(
            "llava-video-7b",
            "lmms-lab/LLaVA-Video-7B-Qwen2",
            16_000_000_000,
            _APACHE,
            "the default: LLaVA-Video, Qwen2-7B, trained on up to 64 frames",
        ),
        Alias(
            "llava-video-72b",
            "lmms-lab/LLaVA-Video-72B-Qwen2",
            146_000_000_000,
            "see the hub (Qwen2-72B has its own)",
            "LLaVA-Video, Qwen2-72B: about 45 GB of device memory even in 4-bit",
        ),
        Alias(
            "llava-onevision-0.5b",
            "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
            1_800_000_000,
            _APACHE,
            "LLaVA-OneVision, Qwen2-0.5B: the smallest real model, usable on a CPU",
        ),
        Alias(
            "llava-onevision-7b",
            "llava-hf/llava-onevision-qwen2-7b-ov-hf",
            16_000_000_000,
            _APACHE,
            "LLaVA-OneVision, Qwen2-7B, trained on up to 32 frames",
        ),
        Alias(
            "llava-1.5-7b",
            "llava-hf/llava-1.5-7b-hf",
            14_100_000_000,
            "Llama 2 community licence (unverified)",
            "LLaVA-1.5, Vicuna-7B: pictures, 576 tokens each",
        ),
        Alias(
            "llava-1.5-13b",
            "llava-hf/llava-1.5-13b-hf",
            26_700_000_000,
            "Llama 2 community licence (unverified)",
            "LLaVA-1.5, Vicuna-13B: pictures, 576 tokens each",
        ),
    )
}
