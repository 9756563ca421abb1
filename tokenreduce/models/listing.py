"""What `tokenreduce models` tells: the aliases, and which of them are already here.

Asks the disk, never the network; imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenreduce.models.aliases import ALIASES, Alias
from tokenreduce.models.locate import cached_bytes, resolve


@dataclass(frozen=True)
class Listed:
    """here_bytes: size of its weights on this disk, or None if they are not (all) here."""

    alias: Alias
    here_bytes: int | None


def list_models() -> tuple[Listed, ...]:
    """Every alias, with the weights that the hub's cache, or the package, holds of it."""
    return tuple(Listed(alias, cached_bytes(resolve(alias.name))) for alias in ALIASES.values())
