"""An S3 notification as data. Pure functions.

The body is `{"Records": [...]}` (Amazon S3, "Event message structure"); versitygw's first releases send the bare list. By sender:

    MinIO        top-level EventName and Key; eventName with `s3:`; keys query-escaped, userMetadata and contentType of the object
    versitygw    eventName with `s3:`; keys as they are; a DeleteObjects of its own; `s3:TestEvent` when it starts
    radosgw      eventName without `s3:`; eventSource `ceph:s3`; keys as they are; metadata as a list of key and val
    others       as Amazon: eventName without `s3:`, keys query-escaped
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

from server.errors import BadRequest
from server.functions.checks import shown
from server.store.times import epoch
from server.triggers.objects import ObjectChange

TEST: Final = "s3:TestEvent"
#: S3's own limit on a key; what a sender says beyond its limits is not believed.
MAX_KEY_BYTES: Final = 1024
MAX_TEXT: Final = 2048
#: Senders' events by COS's names. The others (reads, tags, locks, access lists, tiers) change no object.
EVENTS: Final = {
    "ObjectCreated:Put": "cos:ObjectCreated:Put",
    "ObjectCreated:Post": "cos:ObjectCreated:Post",
    "ObjectCreated:Copy": "cos:ObjectCreated:Copy",
    "ObjectCreated:CompleteMultipartUpload": "cos:ObjectCreated:CompleteMultipartUpload",
    "ObjectSynced:Create": "cos:ObjectCreated:Replication",
    "ObjectSynced:Created": "cos:ObjectCreated:Replication",
    "ObjectRemoved:Delete": "cos:ObjectRemove:Delete",
    "ObjectRemoved:DeleteObjects": "cos:ObjectRemove:Delete",
    "ObjectRemoved:DeleteAllVersions": "cos:ObjectRemove:Delete",
    "ObjectRemoved:DeleteMarkerCreated": "cos:ObjectRemove:DeleteMarkerCreated",
    "LifecycleExpiration:Delete": "cos:ObjectRemove:Delete",
    "LifecycleExpiration:DeleteMarkerCreated": "cos:ObjectRemove:DeleteMarkerCreated",
    "ObjectLifecycle:Expiration:Current": "cos:ObjectRemove:Delete",
    "ObjectLifecycle:Expiration:NonCurrent": "cos:ObjectRemove:Delete",
    "ObjectRestore:Post": "cos:ObjectRestore:Post",
    "ObjectRestore:Completed": "cos:ObjectRestore:Completed",
}
_META: Final = "x-amz-meta-"
#: `Date` of versitygw's kind (RFC 3339) and radosgw's, whose fraction may have nine digits.
_FRACTION: Final = re.compile(r"(\.\d{6})\d+")


@dataclass(frozen=True, slots=True)
class Notified:
    """One record that means a change. `identity` is the same for the same record sent again; empty: nothing in it tells."""

    change: ObjectChange
    identity: str


def read_records(body: Any) -> list[Notified | None]:
    """What a parsed body says, in its order; None for a record of no change, and no record at all for a test. Raises BadRequest."""
    if isinstance(body, dict) and TEST in (body.get("Event"), body.get("EventName")):
        return []
    records = body.get("Records") if isinstance(body, dict) else body
    if not isinstance(records, list):
        raise BadRequest("Records is missing, or no list", field="Records", hint='the body is S3\'s: {"Records": [...]}')
    return [_read(record, f"Records[{number}]") for number, record in enumerate(records)]


def _read(record: Any, where: str) -> Notified | None:
    if not isinstance(record, dict):
        raise _wrong(where, record, "an object")
    name = _text(record, "eventName", where).removeprefix("s3:")
    s3 = _object(record, "s3", where)
    bucket = _text(_object(s3, "bucket", f"{where}.s3"), "name", f"{where}.s3.bucket")
    found = _object(s3, "object", f"{where}.s3")
    key = _key(found, f"{where}.s3.object", is_raw=_is_raw(record, s3))
    if name not in EVENTS:
        return None
    size = found.get("size") or 0
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 63:
        raise _wrong(f"{where}.s3.object.size", size, "a size in bytes")
    known = {part: _optional(found, part, f"{where}.s3.object") for part in ("versionId", "sequencer", "eTag")}
    time = _optional(record, "eventTime", where)
    change = ObjectChange(
        event=EVENTS[name],
        bucket=bucket,
        key=key,
        size=size,
        meta=_meta(found, f"{where}.s3.object"),
        at=_moment(time, f"{where}.eventTime"),
        request_id=_optional(_optional_object(record, "responseElements"), "x-amz-request-id", f"{where}.responseElements"),
        peer=_optional(_optional_object(record, "requestParameters"), "sourceIPAddress", f"{where}.requestParameters"),
        headers={},
        version=known["versionId"],
    )
    return Notified(change, _identity(bucket, key, name, known, time))


def _identity(bucket: str, key: str, name: str, known: Mapping[str, str], time: str) -> str:
    """S3 promises that a key's events have different sequencers. Without one the version or the time of the event has to do."""
    if known["sequencer"]:
        telling = ["sequencer", known["sequencer"], known["versionId"]]
    elif known["versionId"] or time:
        telling = ["time", time, known["versionId"], known["eTag"]]
    else:
        return ""
    return hashlib.sha256("\0".join((bucket, key, name, *telling)).encode()).hexdigest()


def _is_raw(record: Mapping[str, Any], s3: Mapping[str, Any]) -> bool:
    """Whether its keys are as they are. versitygw calls itself aws:s3; its configurations are `webhook-global`, `kafka-global` …"""
    return record.get("eventSource") == "ceph:s3" or str(s3.get("configurationId")).endswith("-global")


def _key(found: Mapping[str, Any], where: str, *, is_raw: bool) -> str:
    given = _text(found, "key", where, limit=3 * MAX_KEY_BYTES)
    try:
        key = given if is_raw else unquote_plus(given, errors="strict")
    except UnicodeDecodeError:
        raise _wrong(f"{where}.key", given, "UTF-8") from None
    if len(key.encode()) > MAX_KEY_BYTES:
        raise BadRequest(f"{where}.key is longer than {MAX_KEY_BYTES} bytes", field=f"{where}.key")
    return key


def _meta(found: Mapping[str, Any], where: str) -> dict[str, str]:
    """The object's metadata by COS's names."""
    given = found.get("userMetadata") or {}
    listed = found.get("metadata") or []
    pairs = list(given.items()) if isinstance(given, dict) else []
    if isinstance(listed, list):
        pairs += [(item.get("key"), item.get("val")) for item in listed if isinstance(item, dict)]
    meta = {
        f"x-cos-meta-{name.lower().removeprefix(_META)}": value
        for name, value in pairs
        if isinstance(name, str) and isinstance(value, str) and name.lower().startswith(_META)
    }
    for name, value in meta.items():
        _check(name + value, where)
    kind, etag = _optional(found, "contentType", where), _optional(found, "eTag", where)
    return {"Content-Type": kind, **({"ETag": etag.strip('"')} if etag else {}), **meta}


def _moment(time: str, where: str) -> float:
    """Seconds since the epoch; 0 where the record has none."""
    if not time:
        return 0.0
    try:
        return epoch(_FRACTION.sub(r"\1", time))
    except (ValueError, OverflowError):
        raise _wrong(where, time, "a time, as in 2026-11-25T08:00:00Z") from None


def _object(record: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = record.get(name)
    if not isinstance(value, dict):
        raise BadRequest(f"{where}.{name} is missing, or no object", field=f"{where}.{name}")
    return value


def _optional_object(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _text(record: Mapping[str, Any], name: str, where: str, *, limit: int = MAX_TEXT) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value or len(value) > limit:
        raise BadRequest(f"{where}.{name} is missing, or no text of at most {limit} characters", field=f"{where}.{name}")
    _check(value, f"{where}.{name}")
    return value


def _optional(record: Mapping[str, Any], name: str, where: str) -> str:
    return _text(record, name, where) if record.get(name) not in (None, "") else ""


def _check(value: str, where: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{where} is no Unicode text", field=where) from None


def _wrong(where: str, value: Any, what: str) -> BadRequest:
    return BadRequest(f"{where}: {shown(value)} is not {what}", field=where)
