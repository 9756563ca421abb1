"""Who works on a batch: processes of this machine, or the actors of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from tokenreduce.batch.jobs import Job
from tokenreduce.batch.pool import LocalPool, Pool, devices
from tokenreduce.batch.recipe import Recipe
from tokenreduce.batch.sources import Listing
from tokenreduce.errors import SettingError
from tokenreduce.memory import host_free_bytes

from . import render


def check_device(recipe: Recipe, numbers: Mapping[str, Any], *, quiet: bool) -> None:
    """Raises CapacityError for a device that this machine lacks, before anything is downloaded; a
    cluster's nodes have others. Of a card it only asks: the workers start it, each its own."""
    if numbers["cluster"] is not None:
        return
    from tokenreduce.models.load import placed
    from tokenreduce.models.placement import choose_device

    def warn(note: str) -> None:
        if not quiet:
            render.warning(note)

    device = choose_device(recipe.placing.device)
    if device.type != "cuda":
        placed(recipe.model, **asdict(recipe.placing), warn=warn)


@contextmanager
def hired(
    recipe: Recipe, numbers: Mapping[str, Any], listing: Listing, *, quiet: bool
) -> Iterator[Pool]:
    """The workers, not started yet; none is left afterwards.

    numbers: cluster and workers, None where nothing was given. Raises what `RayPool.join` raises.
    """
    address = numbers["cluster"]
    if recipe.placing.device_map != "none" and (address or (numbers["workers"] or 1) > 1):
        raise SettingError(
            f"device_map {recipe.placing.device_map}: one model on all of a machine's GPUs, so "
            "one worker and no cluster; leave --workers and --cluster out"
        )
    if address is None:
        pool = _here(recipe, numbers["workers"])
    else:
        pool = _in_cluster(recipe, address, numbers["workers"], listing, quiet=quiet)
    try:
        yield pool
    finally:
        pool.close()


def _here(recipe: Recipe, workers: int | None) -> Pool:
    if recipe.placing.device_map != "none":
        return LocalPool(recipe, {"all": recipe.placing.device}, None)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names, threads = devices(
        recipe.placing.device,
        workers or "auto",
        cores or 1,
        recipe.weights_bytes,
        host_free_bytes() or 0,
    )
    return LocalPool(recipe, names, threads)


def _in_cluster(
    recipe: Recipe, address: str, workers: int | None, listing: Listing, *, quiet: bool
) -> Pool:
    from tokenreduce.batch.ray_pool import RayPool

    pool = RayPool.join(address, recipe, workers, _witness(listing))
    if pool.note and not quiet:
        render.warning(pool.note)
    return pool


def _witness(listing: Listing) -> str | None:
    """A file that is there: a node that does not see it would fail one after the other."""
    there: Iterator[Job] = (job for job in listing.jobs if os.path.exists(job.path))
    return next((job.path for job in there), None)
