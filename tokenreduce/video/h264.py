"""Tells which packets of an H.264 stream no other picture is decoded from. Knows bytes only.

The decoder can skip them by itself (`skip_frame`), but each one skipped takes a thread's turn, and
waits until the picture before it in that thread is done: with few threads hardly two pictures are
decoded at a time. A packet that is never given to it costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

_SLICE = 1
_IDLE = frozenset({_SLICE, 9, 12})
"""NAL unit types (ITU-T H.264, table 7-1): a slice of a picture other than IDR, an access unit
delimiter, filler. All others, SEI messages included, may say something about later pictures."""

_MARK = b"\0\0\1"


def prefix_bytes(extradata: bytes | None) -> int:
    """Bytes of the length before each NAL unit, 1 to 4, as an avcC box says (ISO/IEC 14496-15,
    5.3.3.1); 0 where units stand after start codes."""
    if not extradata or extradata[0] != 1 or len(extradata) < 7:
        return 0
    return (extradata[4] & 3) + 1


def needless(packet: bytes, prefix: int) -> bool:
    """Whether pictures before and after this one decode the same without it: a whole packet of
    slices with nal_ref_idc 0. False for whatever is not plainly that. prefix: of `prefix_bytes`."""
    slices = 0
    for header in _marked(packet) if prefix == 0 else _counted(packet, prefix):
        if header is None or header not in _IDLE:
            return False
        slices += header == _SLICE
    return slices > 0


def _counted(packet: bytes, prefix: int) -> Iterator[int | None]:
    """The first byte of each NAL unit; None where the lengths do not add up."""
    at = 0
    while at < len(packet):
        begin = at + prefix
        at = begin + int.from_bytes(packet[at:begin], "big")
        yield packet[begin] if begin < at <= len(packet) else None


def _marked(packet: bytes) -> Iterator[int | None]:
    """The same where each follows a start code; within a unit there is never one."""
    at = packet.find(_MARK)
    if at < 0 or any(packet[:at]):
        yield None
    while at >= 0:
        begin = at + len(_MARK)
        yield packet[begin] if begin < len(packet) else None
        at = packet.find(_MARK, begin)
