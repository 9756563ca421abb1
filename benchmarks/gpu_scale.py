"""How large everything in benchmarks/gpu.py is: as its rows say, and for a look on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Scale:
    """How large everything is; rows are named after FULL, and TINY has as many of each.

    first, long, grid_frames  frames        importance, grid_budgets, long_budget  visual tokens
    roof                      side of the matrices by which the device's own speed is measured
    short                     all tokens of a layer that the kernel may score no faster
    small_step                visual tokens to which the largest budget is found
    film_seconds, film_size   of the film that is decoded whole; long_film: at 1 frame a second
    """

    model: str = "7b"
    frames: int = 64
    text: int = 100
    repeats: int = 5
    importance: tuple[int, int, int] = (6272, 12544, 25088)
    short: tuple[int, int, int, int] = (512, 1024, 2048, 4096)
    first: tuple[int, int, int] = (64, 128, 192)
    long: tuple[int, ...] = (600, 1200, 2400, 3600)
    long_budget: int = 12_000
    small_frames: int = 256
    small_step: int = 128
    grid_frames: tuple[int, ...] = (16, 64, 256)
    grid_budgets: tuple[int, ...] = (2000, 6000, 12_000)
    batches: tuple[int, int, int] = (8, 16, 32)
    steps: int = 64
    roof: int = 8192
    film_seconds: float = 120.0
    long_film_seconds: float = 600.0
    film_size: tuple[int, int] = (1280, 720)


FULL = Scale()
HALF = replace(FULL, model="0.5b", frames=16, repeats=3, steps=32, roof=4096)
"""For the sections without a film, on a CPU."""
TINY = Scale(
    model="tiny",
    frames=4,
    repeats=1,
    importance=(24, 48, 96),
    short=(32, 64, 96, 128),
    first=(2, 4, 6),
    long=(16, 32),
    long_budget=40,
    small_frames=8,
    small_step=64,
    grid_frames=(2, 4),
    grid_budgets=(20,),
    batches=(1, 2, 4),
    steps=6,
    roof=256,
    film_seconds=20.0,
    long_film_seconds=20.0,
    film_size=(96, 64),
)
