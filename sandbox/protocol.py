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

    def feed(self, data: bytes) -> tuple[dict[str, Any], bytes] | None:
        """Add `data`; return (head, body) once complete, else None. Bytes behind a whole frame are a FrameError."""
        buffer = self._buffer
        buffer += data
        if len(buffer) < HEADER.size:
            return None
        head_size, body_size = HEADER.unpack_from(buffer)
        if head_size > MAX_HEAD_BYTES:
            raise FrameError(f"frame head of {head_size} bytes, limit {MAX_HEAD_BYTES}")
        if body_size > self._max_body:
            raise FrameTooLarge(f"frame body of {body_size} bytes, limit {self._max_body}")
        end = HEADER.size + head_size + body_size
        if len(buffer) < end:
            return None
        if len(buffer) > end:
            raise FrameError(f"{len(buffer) - end} bytes behind the frame")
        try:
            head = orjson.loads(memoryview(buffer)[HEADER.size : HEADER.size + head_size])
        except orjson.JSONDecodeError as error:
            raise FrameError("frame head is not JSON") from error
        if not isinstance(head, dict):
            raise FrameError("frame head is not a JSON object")
        body = bytes(memoryview(buffer)[HEADER.size + head_size : end])
        self._buffer = bytearray()
        return head, body
