"""The two wire formats, and nothing that does I/O.

1. Guest frames (worker ↔ lease holder, a stream socket, hostile input):

       ┌──────────────┬──────────────┬────────────────┬──────────────┐
       │ !I head size │ !I body size │ head: JSON dict│ body: bytes  │
       └──────────────┴──────────────┴────────────────┴──────────────┘
   The body is JSON text that is carried, not parsed. Heads to the worker: {"op": "load", …}, {"op": "invoke", "id": …};
   heads from it: {"op": "loaded"}, {"op": "load_failed", "code", "message", "trace"},
   {"op": "result", "id"}, {"op": "failed", "id", "code", "message", "trace"}.

2. Messages (API ↔ sandboxd ↔ launcher, zygote, init; SOCK_SEQPACKET, one message one packet): a JSON dict, descriptors
   beside it. Requests carry "id", answers repeat it.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import orjson

GUEST_PROTOCOL: Final = 1
HEADER: Final = struct.Struct("!II")
MAX_HEAD_BYTES: Final = 256 * 1024
MAX_MESSAGE_BYTES: Final = 128 * 1024
MAX_MESSAGE_FDS: Final = 32


class FrameError(ValueError):
    """What came from a sandbox is not a frame of ours."""


class FrameTooLarge(FrameError):
    """The body is announced larger than the limit."""


def encode_frame(head: dict[str, Any], body: bytes = b"") -> bytes:
    raw = orjson.dumps(head)
    return HEADER.pack(len(raw), len(body)) + raw + body


class FrameReader:
    """Collects bytes from a stream and gives back whole frames; raises FrameError as soon as one cannot be right."""

    __slots__ = ("_buffer", "_max_body")

    def __init__(self, max_body_bytes: int) -> None:
        self._buffer = bytearray()
        self._max_body = max_body_bytes

    def feed(self, piece: bytes) -> tuple[dict[str, Any], bytes] | None:
        """Add a piece; return (head, body) once complete, else None. Bytes behind a whole frame are a FrameError."""
        data: bytes | bytearray = piece
        if self._buffer:
            self._buffer += piece
            data = self._buffer
        size = len(data)
        if size < HEADER.size:
            self._keep(data)
            return None
        head_size, body_size = HEADER.unpack_from(data)
        if head_size > MAX_HEAD_BYTES:
            raise FrameError(f"frame head of {head_size} bytes, limit {MAX_HEAD_BYTES}")
        if body_size > self._max_body:
            raise FrameTooLarge(f"frame body of {body_size} bytes, limit {self._max_body}")
        middle = HEADER.size + head_size
        end = middle + body_size
        if size < end:
            self._keep(data)
            return None
        if size > end:
            raise FrameError(f"{size - end} bytes behind the frame")
        try:
            head = orjson.loads(data[HEADER.size : middle])
        except orjson.JSONDecodeError as error:
            raise FrameError("frame head is not JSON") from error
        if not isinstance(head, dict):
            raise FrameError("frame head is not a JSON object")
        body = bytes(data[middle:end])
        self._buffer = bytearray()
        return head, body

    def _keep(self, data: bytes | bytearray) -> None:
        """Most frames come in one piece: only the others are copied together."""
        if data is not self._buffer:
            self._buffer += data
