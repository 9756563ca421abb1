"""A process that uses a cache as one of several: python worker.py FOLDER ROLE ROUNDS MAX_BYTES.

save   saves and loads the same keys; every tensor is filled with the number among its facts
prune  prunes to nothing, over and over
Writes one JSON object: what was loaded, what was torn, and the cache's trouble.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import torch

from tokenreduce.cache.digest import FileState
from tokenreduce.cache.store import Cache

FAMILY = {"shared": True}


def main(folder: str, role: str, rounds: int, max_bytes: int) -> None:
    cache = Cache(Path(folder), max_bytes)
    dice = random.Random(os.getpid())
    loaded = torn = 0
    for turn in range(rounds):
        if role == "prune":
            cache.prune(0)
            continue
        number, budget, n = dice.randrange(1, 200), dice.randrange(3), dice.randrange(200, 900)
        x = torch.full((1, n, 16), float(number), dtype=torch.bfloat16)
        visual = {"x": x, "size": torch.ones(1, n), "place": torch.arange(n)[None]}
        cache.save(FAMILY, {"budget": budget}, visual, {"number": number, "n": n})
        cache.remember(FileState(1, turn, 1, 1, 1), f"{turn:064d}")
        for entry in cache.lookup(FAMILY):
            found = cache.load(entry)
            if found is None:
                continue
            loaded += 1
            same = found.tensors["x"].eq(found.facts["number"]).all()
            torn += not (bool(same) and found.tensors["x"].shape[1] == found.facts["n"])
        torn += cache.recall(FileState(1, turn, 1, 1, 1)) not in (None, f"{turn:064d}")
    json.dump({"loaded": loaded, "torn": torn, "trouble": cache.trouble}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
