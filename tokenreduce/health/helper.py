"""The process in which risky looks are taken: `python -c ... ASKED`, orders on stdin, answers on
stdout, one JSON object a line.

An import that crashes, or a driver that hangs, ends this process and not the doctor. Knows the
looks by name alone.

    from the parent   "module:function"
    to the parent     {"is": "ready"} once, then for each order {"is": "found", "found": [...]}
                      with the fields of Finding, or {"is": "failed", "message"}
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from dataclasses import asdict
from importlib import import_module
from typing import Any, TextIO

from tokenreduce.health.finding import Asked, Look, of_error


def main() -> None:
    """Serves orders until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    asked = Asked(**json.loads(sys.argv[1]))
    out = _private_stdout()
    _tell(out, {"is": "ready"})
    for order in sys.stdin:
        _tell(out, _served(order.strip(), asked))
    os._exit(0)


def _served(order: str, asked: Asked) -> dict[str, Any]:
    module, _, function = order.partition(":")
    try:
        look: Look = getattr(import_module(module), function)
        return {"is": "found", "found": [asdict(one) for one in look(asked)]}
    # Whatever a broken installation raises as it is imported, SystemExit included.
    except BaseException as error:
        return {"is": "failed", "message": of_error(order, error).text}


def _private_stdout() -> TextIO:
    """The parent's pipe under another number, so that no library writes into the protocol."""
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
    return out


def _tell(out: TextIO, message: dict[str, Any]) -> None:
    try:
        out.write(json.dumps(message) + "\n")
        out.flush()
    except OSError:
        os._exit(0)  # the parent is gone
