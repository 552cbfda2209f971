"""aws-chunked bodies, decoded as they come: signed chunks (SigV4), unsigned ones, and trailers with checksums.

    hex size [;chunk-signature=64 hex] CRLF  data CRLF   any number of times
    0        [;chunk-signature=64 hex] CRLF
    [name:value CRLF]…  [x-amz-trailer-signature:64 hex CRLF]  CRLF

A chunk's signature is known to be right only behind its last byte: until `finish` nothing may be believed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Generator, Iterator
from typing import Any, Final

from server.buckets.errors import BucketError
from server.buckets.signing.model import Payload, compare

LONGEST_LINE: Final = 1024
MOST_TRAILERS: Final = 16
_HEAD = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;chunk-signature=([0-9a-f]{64}))?")
_NOTHING: Final = hashlib.sha256(b"").hexdigest()
_TRAILER_SIGNATURE: Final = "x-amz-trailer-signature"


class ChunkDecoder:
    """Push what arrives into `feed`, which yields what was in the chunks; `finish` says whether it was all. Both raise BucketError."""

    def __init__(self, payload: Payload, decoded_bytes: int) -> None:
        """`decoded_bytes`: the length that x-amz-decoded-content-length promises."""
        self.trailers: dict[str, str] = {}
        self._key, self._expects_trailer = payload.chunk_key, payload.trailer
        self._previous = payload.chunk_key.seed if payload.chunk_key else ""
        self._promised, self._seen = decoded_bytes, 0
        self._steps = self._run()
        self._waiting = bytearray()
        self._left = 0  # of the chunk's data
        self._digest: Any = None
        self._done = False
        next(self._steps)

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._waiting += data
        while self._waiting:
            if self._done:
                raise BucketError("IncompleteBody", "the body goes on behind its last chunk")
            if self._left:
                yield self._data()
            elif (line := self._line()) is None:
                return
            else:
                self._steps.send(line)

    def finish(self) -> None:
        if not self._done or self._seen != self._promised:
            raise BucketError("IncompleteBody", "the chunks do not add up to x-amz-decoded-content-length")

    def _data(self) -> bytes:
        part = bytes(self._waiting[: self._left])
        del self._waiting[: len(part)]
        self._left -= len(part)
        self._seen += len(part)
        if self._digest is not None:
            self._digest.update(part)
        return part

    def _line(self) -> bytes | None:
        end = self._waiting.find(b"\r\n", 0, LONGEST_LINE)
        if end < 0:
            if len(self._waiting) >= LONGEST_LINE:
                raise BucketError("InvalidRequest", "a chunk's head is too long")
            return None
        line = bytes(self._waiting[:end])
        del self._waiting[: end + 2]
        return line

    def _run(self) -> Generator[None, bytes, None]:
        """The grammar: sent a line at a time, the data between two of them is taken by `feed`."""
        while True:
            size, signature = self._head((yield))
            self._left = size
            if size == 0:
                self._check(signature, _NOTHING)
                break
            if self._seen + size > self._promised:
                raise BucketError("IncompleteBody", "the chunks are more than x-amz-decoded-content-length")
            self._digest = hashlib.sha256() if self._key else None
            if (yield) != b"":
                raise BucketError("InvalidRequest", "a chunk is longer than its head says")
            self._check(signature, self._digest.hexdigest() if self._digest else "")
        while (line := (yield)) != b"":
            self._trailer(line)
        self._check_trailers()
        self._done = True
        yield

    def _head(self, line: bytes) -> tuple[int, str]:
        match = _HEAD.fullmatch(line)
        if match is None or (self._key is not None and match[2] is None):
            raise BucketError("InvalidRequest", "a chunk's head is not size;chunk-signature=…")
        return int(match[1], 16), (match[2] or b"").decode()

    def _check(self, signature: str, sha256: str) -> None:
        if self._key is not None:
            self._compare(signature, "PAYLOAD", f"{_NOTHING}\n{sha256}")

    def _compare(self, signature: str, what: str, rest: str) -> None:
        assert self._key is not None
        text = f"AWS4-HMAC-SHA256-{what}\n{self._key.timestamp}\n{self._key.scope}\n{self._previous}\n{rest}"
        expected = hmac.new(self._key.key, text.encode(), hashlib.sha256).hexdigest()
        compare(signature, expected)
        self._previous = expected

    def _trailer(self, line: bytes) -> None:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not self._expects_trailer or len(self.trailers) >= MOST_TRAILERS:
            raise BucketError("InvalidRequest", "a trailer that was not announced, or is none")
        self.trailers[name.strip().lower()] = value.strip()

    def _check_trailers(self) -> None:
        signature = self.trailers.pop(_TRAILER_SIGNATURE, "")
        if self._key is not None and self._expects_trailer:
            lines = "".join(f"{name}:{self.trailers[name]}\n" for name in sorted(self.trailers))
            self._compare(signature, "TRAILER", hashlib.sha256(lines.encode("latin-1")).hexdigest())
