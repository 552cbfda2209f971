"""A request as the protocols see it: what was sent (which signatures are made of) beside what it means.

COS and S3 differ in prefixes and in the XML's namespace, not in what they do: `Dialect` holds the difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from server.buckets.errors import BucketError


@dataclass(frozen=True, slots=True)
class Dialect:
    """`prefix` is of header names, `namespace` of the XML's root element (empty: none)."""

    name: str
    prefix: str
    namespace: str = ""


S3: Final = Dialect("s3", "x-amz-", "http://s3.amazonaws.com/doc/2006-03-01/")
COS: Final = Dialect("cos", "x-cos-")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, before anybody has looked at who sent it.

    `query` holds the pairs as sent, still encoded. `headers` have lower-case names; values as sent (latin-1), repeated ones joined
    by commas.
    """

    method: str
    raw_path: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    peer: str = ""
    dialect: Dialect = S3
    params: Mapping[str, str] = field(default_factory=dict)
    """Decoded, `+` is a blank; the first of a name counts."""

    @property
    def host(self) -> str:
        return self.headers.get("host", "")

    def header(self, name: str, default: str = "") -> str:
        """A header of the dialect: `header("copy-source")` is x-amz-copy-source or x-cos-copy-source."""
        return self.headers.get(self.dialect.prefix + name, default)


def read_call(scope: Mapping[str, Any]) -> Call:
    """Raises BucketError (InvalidURI) for a path or query that is not UTF-8."""
    raw_path = bytes(scope["raw_path"]).decode("latin-1")
    query = tuple(_pairs(bytes(scope["query_string"]).decode("latin-1")))
    headers = _headers(scope["headers"])
    params: dict[str, str] = {}
    for name, value in query:
        params.setdefault(decode(name, plus=True), decode(value, plus=True))
    return Call(
        method=scope["method"],
        raw_path=raw_path,
        path=decode(raw_path),
        query=query,
        headers=headers,
        peer=(scope.get("client") or ("",))[0],
        dialect=_dialect(headers, params),
        params=params,
    )


def _pairs(query: str) -> Iterable[tuple[str, str]]:
    for part in query.split("&"):
        if part:
            name, _, value = part.partition("=")
            yield name, value


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def _dialect(headers: Mapping[str, str], params: Mapping[str, str]) -> Dialect:
    if headers.get("authorization", "").startswith("q-") or "q-sign-algorithm" in params:
        return COS
    if "authorization" not in headers and any(name.startswith("x-cos-") for name in headers):
        return COS
    return S3


def decode(text: str, *, plus: bool = False) -> str:
    """Percent-decode. Raises BucketError (InvalidURI)."""
    try:
        return unquote_to_bytes(text.replace("+", " ") if plus else text).decode("utf-8")
    except UnicodeError:
        raise BucketError("InvalidURI") from None


_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]")
_ADDRESS = re.compile(r"\d+(?:\.\d+){3}")


def is_bucket_name(name: str) -> bool:
    """S3's rules: 3 to 63 of a-z 0-9 . -, no two dots in a row, not an IPv4 address. COS's names (`name-appid`) are among them."""
    return bool(_NAME.fullmatch(name)) and ".." not in name and not _ADDRESS.fullmatch(name)
