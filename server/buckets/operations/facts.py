"""What a request says of an object, both ways: headers to Facts, Facts to headers; ranges and conditions of reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Final

from server.buckets.answer import http_date
from server.buckets.call import Call, Dialect
from server.buckets.checksums import FULL_OBJECT, HEADER
from server.buckets.errors import BucketError
from server.buckets.model import DEFAULT_TYPE, KEPT_HEADERS, Condition, Facts, StoredObject
from server.buckets.objects import has_etag

MOST_META_BYTES: Final = 2048
#: response-content-type=… and so on: what a reader wants said instead.
OVERRIDES: Final = ("content-type", "content-language", "expires", "cache-control", "content-disposition", "content-encoding")
_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.ASCII)


def read_facts(call: Call) -> Facts:
    """Raises BucketError (MetadataTooLarge)."""
    headers = {name: call.headers[name] for name in ("content-type", *KEPT_HEADERS) if call.headers.get(name)}
    encoding = ",".join(word for part in headers.pop("content-encoding", "").split(",") if (word := part.strip()) and word != "aws-chunked")
    if encoding:
        headers["content-encoding"] = encoding
    prefix = f"{call.dialect.prefix}meta-"
    meta = {name[len(prefix) :]: value for name, value in call.headers.items() if name.startswith(prefix)}
    if sum(len(name) + len(value) for name, value in meta.items()) > MOST_META_BYTES:
        raise BucketError("MetadataTooLarge", MaxSizeAllowed=str(MOST_META_BYTES))
    return Facts(headers, meta)


def with_checksum(facts: Facts, algorithm: str, checksum: str) -> Facts:
    return replace(facts, algorithm=algorithm, checksum=checksum, checksum_type=FULL_OBJECT if algorithm else "")


def object_headers(found: StoredObject, call: Call) -> dict[str, str]:
    """The headers of GET and HEAD, without length and range."""
    prefix = call.dialect.prefix
    return {
        "ETag": f'"{found.etag}"',
        "Last-Modified": http_date(found.modified_at),
        "Accept-Ranges": "bytes",
        "Content-Type": DEFAULT_TYPE,
        **found.facts.headers,
        **{f"{prefix}meta-{name}": value for name, value in found.facts.meta.items()},
        **_overridden(call),
    }


def _overridden(call: Call) -> dict[str, str]:
    given = {name: call.params[f"response-{name}"] for name in OVERRIDES if f"response-{name}" in call.params}
    for name, value in given.items():
        if not value.isprintable():
            raise BucketError("InvalidArgument", "a header can't hold that", ArgumentName=f"response-{name}")
    # A header's value is bytes; what is not latin-1 goes out as UTF-8.
    return {name: value.encode().decode("latin-1") for name, value in given.items()}


def checksum_headers(facts: Facts, dialect: Dialect) -> dict[str, str]:
    if not facts.checksum or dialect.name != "s3":
        return {}
    return {f"{HEADER}{facts.algorithm}": facts.checksum, f"{HEADER}type": facts.checksum_type}


def read_range(header: str, size: int) -> tuple[int, int] | None:
    """(first, length) of a Range header; None for the whole: no header, several ranges, or what RFC 9110 says to ignore.

    Raises BucketError (InvalidRange).
    """
    match = _RANGE.fullmatch(header)
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        first = int(match[1])
        last = min(int(match[2]), size - 1) if match[2] else size - 1
        if match[2] and int(match[2]) < first:
            return None
    else:
        first, last = max(size - int(match[2]), 0), size - 1
    if first >= size or (not match[1] and int(match[2]) == 0):
        raise BucketError("InvalidRange", RangeRequested=header, ActualObjectSize=str(size), **{"Content-Range": f"bytes */{size}"})
    return first, last - first + 1


def write_condition(call: Call) -> Condition | None:
    """Raises BucketError (NotImplemented) for what a write can't be bound to."""
    condition = Condition(call.headers.get("if-match", ""), call.headers.get("if-none-match", ""))
    if condition.if_none_match not in ("", "*"):
        raise BucketError("NotImplemented", "If-None-Match of a write is * here")
    return condition if condition != Condition() else None


def check_read(found: StoredObject, headers: Mapping[str, str], prefix: str = "") -> None:
    """RFC 9110 section 13.2.2, in its order. With a prefix the headers are of a copy's source, which is never 304.

    Raises BucketError: PreconditionFailed, NotModified.
    """
    match, unmodified = headers.get(f"{prefix}if-match"), _time(headers.get(f"{prefix}if-unmodified-since"))
    modified = int(found.modified_at)
    if match is not None:
        if not has_etag(match, found.etag):
            raise BucketError("PreconditionFailed", Condition="If-Match")
    elif unmodified is not None and modified > unmodified:
        raise BucketError("PreconditionFailed", Condition="If-Unmodified-Since")
    none_match, since = headers.get(f"{prefix}if-none-match"), _time(headers.get(f"{prefix}if-modified-since"))
    unchanged = has_etag(none_match, found.etag) if none_match is not None else since is not None and modified <= since
    if unchanged and prefix:
        raise BucketError("PreconditionFailed", Condition="If-None-Match")
    if unchanged:
        raise BucketError("NotModified", **{"ETag": f'"{found.etag}"', "Last-Modified": http_date(found.modified_at)})


def _time(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (TypeError, ValueError):
        return None  # RFC 9110 section 13.1.3: one that is no date is ignored
