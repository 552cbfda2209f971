"""What is stored, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

#: Headers that are kept with an object and given back with it, besides Content-Type.
KEPT_HEADERS: Final = ("cache-control", "content-disposition", "content-encoding", "content-language", "expires")
DEFAULT_TYPE: Final = "binary/octet-stream"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a client said of an object: headers by lower-case name, user metadata without its prefix (both latin-1 as sent), checksum.

    `parts`: the sizes of what it was put together from, for a read by part number.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    algorithm: str = ""
    checksum: str = ""
    checksum_type: str = ""
    parts: tuple[int, ...] = ()

    def dump(self) -> str:
        values = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({name: value for name, value in values.items() if value}, separators=(",", ":"))

    @staticmethod
    def load(text: str) -> Facts:
        values: dict[str, Any] = json.loads(text)
        return Facts(**(values | {"parts": tuple(values.get("parts", ()))}))


@dataclass(frozen=True, slots=True)
class Bucket:
    name: str
    namespace: str
    created_at: float


@dataclass(frozen=True, slots=True)
class StoredObject:
    """`etag` without its quotes: MD5 in hex, with `-N` behind it for N parts."""

    bucket: str
    key: str
    file: str
    size: int
    etag: str
    facts: Facts
    modified_at: float


@dataclass(frozen=True, slots=True)
class Upload:
    upload_id: str
    bucket: str
    key: str
    facts: Facts
    created_at: float


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    file: str
    size: int
    etag: str
    checksum: str
    modified_at: float


@dataclass(frozen=True, slots=True)
class Cause:
    """Who changes an object, for its events: where the request came from, and what call it came from (empty: none of ours).

    `hops`: how many calls lie between a client and this change.
    """

    request_id: str
    peer: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    caused_by: str = ""
    hops: int = 0


@dataclass(frozen=True, slots=True)
class Condition:
    """If-Match and If-None-Match of a write, as sent; `*` is any."""

    if_match: str = ""
    if_none_match: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to an object. `event` is SCF's: cos:ObjectCreated:Put and so on."""

    event: str
    object: StoredObject
    at: float
    cause: Cause
