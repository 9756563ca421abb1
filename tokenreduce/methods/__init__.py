"""The published methods, one file each; METHODS is the one list of them.

To add one: a file here with a frozen dataclass that has all that `paradigm.Method` asks for, and a
line below.
"""

from __future__ import annotations

from importlib import import_module

from tokenreduce.paradigm import Method

_CLASSES = {
    "aim-merge": "aim_merge.AimMerge",
    "aim-prune": "aim_prune.AimPrune",
    "tome": "tome.ToMe",
    "evit": "evit.EViT",
    "prumerge": "prumerge.PruMerge",
    "visionzip": "visionzip.VisionZip",
    "ficoco-v": "ficoco_v.FiCoCoV",
    "pooling": "pooling.Pooling",
    "uniform": "controls.Uniform",
    "random": "controls.Random",
    "fastv": "fastv.FastV",
    "pyramid-drop": "pyramid_drop.PyramidDrop",
    "sparsevlm": "sparsevlm.SparseVLM",
    "ficoco-l": "ficoco_l.FiCoCoL",
    "framefusion": "framefusion.FrameFusion",
    "vidcom2": "vidcom2.VidCom2",
    "drift-merge": "drift_merge.DriftMerge",
    "ask-prune": "ask_prune.AskPrune",
}
"""What --method and presets call it: its file here and the class in it."""


def _found(at: str) -> type[Method]:
    file, _, name = at.partition(".")
    found: type[Method] = getattr(import_module(f"{__name__}.{file}"), name)
    return found


METHODS: dict[str, type[Method]] = {name: _found(at) for name, at in _CLASSES.items()}
