"""A request's body on its way to a data file: unwrapped, hashed, written; nothing is left of one that is not what was promised.

    client ─▶ aws-chunks off ─▶ about 1 MB at a time ─▶ a thread: MD5, SHA-256, checksum, write ─▶ fsync

Memory is one such piece for each upload, whatever its size.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Final

from server.api.request import ClientGone
from server.api.threads import Threads
from server.buckets import checksums
from server.buckets.call import Call
from server.buckets.chunks import ChunkDecoder
from server.buckets.errors import BucketError
from server.buckets.files import Files, NewFile
from server.buckets.request import Request
from server.buckets.signing import Payload

PIECE_BYTES: Final = 1024 * 1024


class Received:
    """A whole body in a new file, on disk. Owned by who asked for it: `new` must be closed."""

    def __init__(self, new: NewFile, md5: str, algorithm: str, checksum: str) -> None:
        self.new, self.md5, self.algorithm, self.checksum = new, md5, algorithm, checksum


class Hashes:
    """What is computed of a body, and what it must come to."""

    def __init__(self, call: Call, payload: Payload, *, of_body: bool = True) -> None:
        """`of_body`: a checksum in the headers is one of the body. Raises BucketError."""
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256() if payload.sha256 else None
        self._wanted_sha256, self._wanted_md5 = payload.sha256, content_md5(call)
        self.algorithm, self._wanted = checksums.announced(call.headers) if of_body else ("", "")
        self._checksum = checksums.maker(self.algorithm)() if self.algorithm else None

    def update(self, data: bytes) -> None:
        for digest in (self._md5, self._sha256, self._checksum):
            if digest is not None:
                digest.update(data)

    def check(self, trailers: dict[str, str]) -> None:
        """Raises BucketError: BadDigest, XAmzContentSHA256Mismatch."""
        if self._sha256 is not None and self._sha256.hexdigest() != self._wanted_sha256:
            raise BucketError("XAmzContentSHA256Mismatch")
        if self._wanted_md5 not in ("", self.md5):
            raise BucketError("BadDigest", ExpectedDigest=self._wanted_md5, CalculatedDigest=self.md5)
        wanted = self._wanted or trailers.get(checksums.HEADER + self.algorithm, "")
        if self.algorithm and wanted != self.checksum:
            raise BucketError("BadDigest", f"The {self.algorithm.upper()} you specified did not match the calculated checksum.")

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    @property
    def checksum(self) -> str:
        return checksums.encoded(self._checksum) if self._checksum is not None else ""


def content_md5(call: Call) -> str:
    """Content-MD5 in hex; empty without. Raises BucketError (InvalidDigest)."""
    given = call.headers.get("content-md5", "")
    try:
        decoded = base64.b64decode(given, validate=True)
    except ValueError:  # binascii.Error is one
        decoded = b"?"
    if given and len(decoded) != 16:
        raise BucketError("InvalidDigest")
    return decoded.hex() if given else ""


async def receive(req: Request, payload: Payload, files: Files, threads: Threads, limit_bytes: int) -> Received:
    """Read the body into a new file, check it and bring it to disk. Raises BucketError, ClientGone."""
    call = req.call
    hashes = Hashes(call, payload)
    body = Body(req, payload, limit_bytes)
    new = await threads.run(files.create)
    try:
        async for piece in body.pieces():
            await threads.run(_take, new, hashes, piece)
        hashes.check(body.trailers)
        await threads.run(new.sync)
    except BaseException:
        new.close()
        raise
    return Received(new, hashes.md5, hashes.algorithm, hashes.checksum)


def _take(new: NewFile, hashes: Hashes, piece: bytes) -> None:
    hashes.update(piece)
    new.write(piece)


class Body:
    """The decoded body in pieces. Raises BucketError for one that is too long, too short, or not framed as it says."""

    def __init__(self, req: Request, payload: Payload, limit_bytes: int) -> None:
        self._req, self._limit_bytes = req, limit_bytes
        self._decoder = _decoder(req.call, payload)
        declared = req.call.headers.get("x-amz-decoded-content-length") if self._decoder else req.call.headers.get("content-length")
        if declared is None and "transfer-encoding" not in req.call.headers:
            raise BucketError("MissingContentLength")
        if declared is not None and int(declared) > limit_bytes:
            raise BucketError("EntityTooLarge", ProposedSize=declared, MaxSizeAllowed=str(limit_bytes))

    @property
    def trailers(self) -> dict[str, str]:
        return self._decoder.trailers if self._decoder else {}

    async def pieces(self) -> AsyncIterator[bytes]:
        piece, seen = bytearray(), 0
        async for data in self._decoded():
            piece += data
            seen += len(data)
            if seen > self._limit_bytes:
                raise BucketError("EntityTooLarge", MaxSizeAllowed=str(self._limit_bytes))
            if len(piece) >= PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
        if piece:
            yield bytes(piece)

    async def whole(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def _decoded(self) -> AsyncIterator[bytes]:
        try:
            async for data in self._req.parts():
                if self._decoder is None:
                    yield data
                else:
                    for part in self._decoder.feed(data):
                        yield part
        except ClientGone:
            raise BucketError("IncompleteBody") from None
        if self._decoder is not None:
            self._decoder.finish()


def _decoder(call: Call, payload: Payload) -> ChunkDecoder | None:
    chunked = "aws-chunked" in call.headers.get("content-encoding", "")
    if not payload.chunked and not chunked:
        return None
    if not payload.chunked:
        payload = Payload(chunked=True, trailer="x-amz-trailer" in call.headers)
    decoded = call.headers.get("x-amz-decoded-content-length", "")
    if not (decoded.isascii() and decoded.isdecimal() and len(decoded) < 16):
        raise BucketError("MissingContentLength", "x-amz-decoded-content-length is missing")
    return ChunkDecoder(payload, int(decoded))


async def small(req: Request, payload: Payload, limit_bytes: int, *, of_body: bool = True) -> bytes:
    """A body that is read into memory: the XML of an operation. Checked like any other. Raises BucketError."""
    if req.call.headers.get("content-length", "0") == "0" and "transfer-encoding" not in req.call.headers:
        return b""
    hashes = Hashes(req.call, payload, of_body=of_body)
    body = Body(req, payload, limit_bytes)
    try:
        data = await body.whole()
    except BucketError as error:
        raise BucketError("MaxMessageLengthExceeded") if error.code == "EntityTooLarge" else error from None
    hashes.update(data)
    hashes.check(body.trailers)
    return data
