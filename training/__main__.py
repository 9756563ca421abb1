"""`python -m training`: tokenizer, vision tower, language model and export, each resumable.

Checkpoints go to `--folder`; run it again after an interruption and it goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from training import export, language, tokenizer, vision
from training.parallel import launch

log = logging.getLogger("training")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"))
    parser.add_argument("--to", type=Path, default=Path("tokenreduce/demo/checkpoint"))
    parser.add_argument("--ranks", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--steps", type=int, default=language.STEPS, help="of the language model")
    options = parser.parse_args()
    tokenizer.write(options.folder)
    for stage in range(len(vision.STAGES)):
        log.info("vision tower, %d pixels", vision.STAGES[stage].pixels)
        launch(vision.train, options.ranks, options.folder, stage)
    log.info("language model")
    launch(language.train, options.ranks, options.folder, options.steps, language.RATE)
    export.write(options.folder, options.to)
    log.info("wrote %s", options.to)


if __name__ == "__main__":
    main()
