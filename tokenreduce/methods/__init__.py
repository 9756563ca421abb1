"""The published methods, one file each; METHODS is the one list of them.

To add one: a file here with a frozen dataclass that has the four functions of `paradigm.Method`,
and a line below.
"""

from __future__ import annotations

from tokenreduce.methods.aim_merge import AimMerge
from tokenreduce.methods.aim_prune import AimPrune
from tokenreduce.methods.ask_prune import AskPrune
from tokenreduce.methods.controls import Random, Uniform
from tokenreduce.methods.drift_merge import DriftMerge
from tokenreduce.methods.evit import EViT
from tokenreduce.methods.fastv import FastV
from tokenreduce.methods.ficoco_l import FiCoCoL
from tokenreduce.methods.ficoco_v import FiCoCoV
from tokenreduce.methods.framefusion import FrameFusion
from tokenreduce.methods.pooling import Pooling
from tokenreduce.methods.prumerge import PruMerge
from tokenreduce.methods.pyramid_drop import PyramidDrop
from tokenreduce.methods.sparsevlm import SparseVLM
from tokenreduce.methods.tome import ToMe
from tokenreduce.methods.vidcom2 import VidCom2
from tokenreduce.methods.visionzip import VisionZip
from tokenreduce.paradigm import Method

METHODS: dict[str, type[Method]] = {
    "aim-merge": AimMerge,
    "aim-prune": AimPrune,
    "tome": ToMe,
    "evit": EViT,
    "prumerge": PruMerge,
    "visionzip": VisionZip,
    "ficoco-v": FiCoCoV,
    "pooling": Pooling,
    "uniform": Uniform,
    "random": Random,
    "fastv": FastV,
    "pyramid-drop": PyramidDrop,
    "sparsevlm": SparseVLM,
    "ficoco-l": FiCoCoL,
    "framefusion": FrameFusion,
    "vidcom2": VidCom2,
    "drift-merge": DriftMerge,
    "ask-prune": AskPrune,
}
