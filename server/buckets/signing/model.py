"""What the schemes share: the claim a request makes, and what its body must be."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final, Protocol

from server.buckets.call import Call
from server.buckets.errors import BucketError

#: How far a client's clock may be off.
SKEW_SECONDS: Final = 15 * 60
EXPIRED: Final = "Request has expired"


@dataclass(frozen=True, slots=True)
class ChunkKey:
    """What the signatures of version 4's chunks are made with; `seed` is the request's own signature."""

    key: bytes
    timestamp: str
    scope: str
    seed: str


@dataclass(frozen=True, slots=True)
class Payload:
    """What the signature says of the body: its SHA-256 in hex (empty: nothing), whether it comes in aws-chunks, signed ones or not."""

    sha256: str = ""
    chunked: bool = False
    trailer: bool = False
    chunk_key: ChunkKey | None = None


class Claim(Protocol):
    """`presigned`: it came in the query, so whoever holds the URL sends the rest of the request as they like."""

    @property
    def secret_id(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def presigned(self) -> bool: ...

    def check(self, secret_key: str, call: Call, bucket: str, now: float) -> Payload:
        """`bucket` is the one named by the host, empty where it is in the path. Raises BucketError."""
        ...


def compare(given: str, expected: str) -> None:
    """Raises BucketError (SignatureDoesNotMatch). Takes the same time wherever they differ."""
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise BucketError("SignatureDoesNotMatch")


def check_skew(then: float, now: float) -> None:
    if abs(now - then) > SKEW_SECONDS:
        raise BucketError("RequestTimeTooSkewed")
