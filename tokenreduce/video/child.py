"""The decoding child: `python -m tokenreduce.video.child LIMITS`, speaking wire.py on its pipes.

The only process that ever opens a video. Limits its own memory, ignores Ctrl-C (the parent ends
it), dies with its parent, and never imports torch. Knows neither models nor presets.

    from the parent   {"do": "probe", "path"} | {"do": "frames", "path", "request", "probe"}
                      | {"do": "subtitles", "path", "first_seconds"}
    to the parent     {"is": "ready"} once, then for each order any number of {"is": "busy"} and
                      {"is": "frame", "seconds"} + pixels or {"is": "repeat", "seconds"}, and at
                      last one of {"is": "probe", ...}, {"is": "done", ...} (the fields of End),
                      {"is": "subtitles", "found"} + packed cues,
                      {"is": "refused", "error", "message"}, {"is": "bug", "trace"};
                      "spent" in a refusal means that this process is of no more use
"""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from typing import Any, BinaryIO

from tokenreduce.captions import packed
from tokenreduce.errors import SettingError, TokenReduceError
from tokenreduce.video.types import Frame, Limits, Probe, Repeat, Request
from tokenreduce.video.wire import Severed, receive, send

AHEAD = 16
"""Frames decoded before the parent takes them, so that decoding goes on while it encodes."""

BEAT_SECONDS = 0.5


def main() -> None:
    """Serves orders until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limits = Limits(**json.loads(sys.argv[1]))
    _bound(limits.memory_bytes)
    orders, out = _private_pipes()
    post = Post(out)
    # After the limit, before the silence: an import that fails is reported.
    import_module("tokenreduce.video.orders")
    import av.logging

    av.logging.set_level(None)
    av.logging.set_libav_level(av.logging.PANIC)
    _hush()
    gc.freeze()  # what is imported by now is never looked through again
    post.put({"is": "ready"})
    for order in _inbox(orders):
        _serve(order, limits, post)
        post.flush()
        gc.collect()  # PyAV ties files in cycles: they would stay open, and their indexes in memory
    os._exit(0)


def _bound(memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    for what, limit in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        try:
            resource.setrlimit(what, (bound, bound))
        except (ValueError, OSError):  # macOS refuses RLIMIT_AS below what is mapped
            continue


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The parent's pipes under other numbers, so that no library writes into the protocol."""
    orders, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return orders, out


def _hush() -> None:
    """Nobody reads what libraries print once the child is up."""
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)


class Post:
    """Sends messages from a thread of its own, `AHEAD` of the reader at most."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._waiting: queue.Queue[tuple[Mapping[str, Any], Any]] = queue.Queue(AHEAD)
        self._beaten = time.monotonic()
        threading.Thread(target=self._deliver, daemon=True).start()

    def put(self, header: Mapping[str, Any], payload: Any = b"") -> None:
        self._waiting.put((header, payload))

    def beat(self) -> None:
        """A sign of life, at most every BEAT_SECONDS and only where no other message waits."""
        now = time.monotonic()
        if now - self._beaten > BEAT_SECONDS:
            self._beaten = now
            if self._waiting.empty():
                self.put({"is": "busy"})

    def flush(self) -> None:
        self._waiting.join()

    def _deliver(self) -> None:
        while True:
            header, payload = self._waiting.get()
            try:
                send(self._out, header, payload)
            except OSError:
                os._exit(0)  # the parent is gone
            self._waiting.task_done()


def _inbox(orders: BinaryIO) -> Any:
    """Orders as they come. A thread reads them, so that a busy child sees its parent die."""
    inbox: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        while True:
            try:
                inbox.put(receive(orders)[0])
            except (Severed, OSError):
                os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return iter(inbox.get, None)


def _serve(order: dict[str, Any], limits: Limits, post: Post) -> None:
    """Carries out one order; whatever goes wrong is a message, so that the child goes on."""
    from tokenreduce.video.orders import frames, probe, subtitles

    try:
        if order["do"] == "probe":
            post.put({"is": "probe", **asdict(probe(order["path"], limits, post.beat))})
            return
        if order["do"] == "subtitles":
            cues = subtitles(order["path"], order["first_seconds"], limits, post.beat)
            post.put({"is": "subtitles", "found": cues is not None}, packed(cues or []))
            return
        request, known = Request(**order["request"]), Probe(**order["probe"])
        for item in frames(order["path"], request, known, limits, post.beat):
            if isinstance(item, Frame):
                post.put({"is": "frame", "seconds": item.seconds}, item.pixels.data)
            else:
                name = "repeat" if isinstance(item, Repeat) else "done"
                post.put({"is": name, **asdict(item)})
    except MemoryError:
        message = (
            f"needs more than the {limits.memory_bytes / 2**30:.3g} GiB of memory that decoding "
            "may take: scale it down"
        )
        post.put({"is": "refused", "error": "InputError", "message": message, "spent": True})
    except TokenReduceError as error:
        kind = "SettingError" if isinstance(error, SettingError) else "InputError"
        post.put({"is": "refused", "error": kind, "message": str(error)})
    except Exception:
        post.put({"is": "bug", "trace": traceback.format_exc()})


if __name__ == "__main__":
    main()
