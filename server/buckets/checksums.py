"""The checksums that clients send beside the body (x-amz-checksum-…, base64): of a whole object, or one of its parts' checksums."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from server.buckets.errors import BucketError

HEADER: Final = "x-amz-checksum-"
#: Of several parts: over their checksums (`…-N`), or over all their bytes.
COMPOSITE: Final = "COMPOSITE"
FULL_OBJECT: Final = "FULL_OBJECT"


class Checksum(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class Crc:
    """A cyclic redundancy check as a hash object; `step(data, so far)` is the next value."""

    def __init__(self, step: Callable[[bytes, int], int], size_bytes: int) -> None:
        self._step, self._size_bytes, self._value = step, size_bytes, 0

    def update(self, data: bytes, /) -> None:
        self._value = self._step(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size_bytes, "big")


def _crc32c() -> Checksum:
    from awscrt import checksums  # 12 MB, and few clients ask for it

    return Crc(checksums.crc32c, 4)


def _crc64nvme() -> Checksum:
    from awscrt import checksums

    return Crc(checksums.crc64nvme, 8)


MAKERS: Final[dict[str, Callable[[], Checksum]]] = {
    "crc32": lambda: Crc(zlib.crc32, 4),
    "crc32c": _crc32c,
    "crc64nvme": _crc64nvme,
    "sha1": hashlib.sha1,
    "sha256": hashlib.sha256,
}
#: CRCs of parts could be joined, hashes can't: those are composite only. CRC-64/NVME is of whole objects only.
TYPES: Final = {
    "crc32": (COMPOSITE, FULL_OBJECT),
    "crc32c": (COMPOSITE, FULL_OBJECT),
    "crc64nvme": (FULL_OBJECT,),
    "sha1": (COMPOSITE,),
    "sha256": (COMPOSITE,),
}


def md5() -> Checksum:
    """Not for security: it is what an ETag is."""
    return hashlib.md5(usedforsecurity=False)


def element(algorithm: str) -> str:
    """The name in XML: ChecksumCRC32."""
    return f"Checksum{algorithm.upper()}"


def announced(headers: Mapping[str, str]) -> tuple[str, str]:
    """(algorithm, value in base64) of a body; the value is empty when it comes in the trailer. ("", "") without. Raises BucketError."""
    given = [(name, headers[HEADER + name]) for name in MAKERS if HEADER + name in headers]
    trailer = headers.get("x-amz-trailer", "").strip().lower()
    if trailer.startswith(HEADER):
        given.append((trailer[len(HEADER) :], ""))
    if len(given) > 1:
        raise BucketError("InvalidRequest", "Expecting a single x-amz-checksum- header")
    if not given:
        return "", ""
    algorithm, value = given[0]
    maker(algorithm)
    if value:
        check_form(algorithm, value)
    return algorithm, value


def maker(algorithm: str) -> Callable[[], Checksum]:
    """Raises BucketError for an algorithm that nobody knows."""
    try:
        return MAKERS[algorithm.lower()]
    except KeyError:
        raise BucketError("InvalidRequest", f"checksum algorithm {algorithm!r} is not one of {', '.join(MAKERS)}") from None


def check_form(algorithm: str, value: str) -> None:
    try:
        size = len(base64.b64decode(value, validate=True))
    except ValueError:  # binascii.Error is one
        size = -1
    if size != len(MAKERS[algorithm]().digest()):
        raise BucketError("InvalidRequest", f"Value for {HEADER}{algorithm} header is invalid")


def encoded(checksum: Checksum) -> str:
    return base64.b64encode(checksum.digest()).decode()


def composite(algorithm: str, values: list[str]) -> str:
    """The checksum of the parts' checksums, and how many they are."""
    whole = MAKERS[algorithm]()
    for value in values:
        whole.update(base64.b64decode(value))
    return f"{encoded(whole)}-{len(values)}"
