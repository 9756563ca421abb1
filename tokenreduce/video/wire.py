"""Messages between the decoding child and its parent: a JSON header and raw bytes.

Knows how a message is framed, not what it means. Imports the standard library only.

    4 bytes  length of the header, big-endian
    4 bytes  length of the payload, big-endian
    header   JSON object, ASCII (file names that are not UTF-8 travel as surrogate escapes)
    payload  raw bytes
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

_LENGTHS = struct.Struct(">II")
MAX_HEADER_BYTES = 1 << 20
"""A path has at most a few thousand bytes; whoever claims more is not our peer."""


class Severed(Exception):
    """The other side is gone, or no longer speaks the protocol."""


def send(stream: BinaryIO, header: Mapping[str, Any], payload: bytes | memoryview = b"") -> None:
    """Writes one message and flushes it. Raises OSError if nobody reads."""
    text = json.dumps(header).encode("ascii")
    body = memoryview(payload).cast("B")
    stream.write(_LENGTHS.pack(len(text), len(body)) + text)
    stream.write(body)
    stream.flush()


def receive(stream: BinaryIO, max_payload_bytes: int = 0) -> tuple[dict[str, Any], bytes]:
    """Reads one message. Raises Severed at the end of the stream or at anything out of bounds.

    The bounds hold because a child that a hostile file has taken over may write what it likes.
    """
    header_bytes, payload_bytes = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    if header_bytes > MAX_HEADER_BYTES or payload_bytes > max_payload_bytes:
        raise Severed(f"a message of {header_bytes} + {payload_bytes} bytes")
    try:
        header = json.loads(_exactly(stream, header_bytes))
    except ValueError as error:
        raise Severed("a header that is not JSON") from error
    if not isinstance(header, dict):
        raise Severed("a header that is not an object")
    return header, _exactly(stream, payload_bytes)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise Severed("the stream ended")
    return data
