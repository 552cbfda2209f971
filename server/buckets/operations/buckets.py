"""Operations on the service and on buckets: create, delete, list."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import quote

from server.buckets import xml
from server.buckets.access import DEFAULT_NAMESPACE
from server.buckets.answer import Answer, xml_answer
from server.buckets.body import small
from server.buckets.call import is_bucket_name
from server.buckets.errors import BucketError
from server.buckets.listing import MOST_KEYS, Page, list_keys
from server.buckets.model import Bucket, StoredObject
from server.buckets.objects import of_row
from server.buckets.operations.ask import XML_BYTES, Ask, check_key, refuse_unknown
from server.store.times import rfc3339

DELETE_EVENT: Final = "cos:ObjectRemove:Delete"
STORAGE: Final = "STANDARD"


async def list_buckets(ask: Ask) -> Answer:
    services = ask.services
    found = await services.lookups.run(services.objects.list_buckets, ask.identity.namespace)
    found = [bucket for bucket in found if bucket.name.startswith(ask.param("prefix"))]
    rows = [("Bucket", _described(ask, bucket)) for bucket in found]
    return xml_answer(ask.dialect, "ListAllMyBucketsResult", [("Owner", owner(ask)), ("Buckets", rows)])


def _described(ask: Ask, bucket: Bucket) -> list[tuple[str, Any]]:
    created = rfc3339(bucket.created_at)
    if ask.dialect.name == "s3":
        return [("Name", bucket.name), ("CreationDate", created)]
    return [("Name", bucket.name), ("Location", ask.services.settings.region), ("CreationDate", created), ("BucketType", "cos")]


def owner(ask: Ask) -> list[tuple[str, str]]:
    """Objects belong to the installation, or to the namespace that the key is bound to."""
    name = ask.identity.namespace or "hearth"
    return [("ID", name), ("DisplayName", name)]


async def create_bucket(ask: Ask) -> Answer:
    if not is_bucket_name(ask.bucket):
        raise BucketError("InvalidBucketName", BucketName=ask.bucket)
    refuse_unknown(ask.call)
    await small(ask.req, ask.payload, XML_BYTES)  # a LocationConstraint: there is one place here, whatever it is called
    services = ask.services
    await services.lookups.run(services.objects.create_bucket, ask.bucket, ask.identity.namespace or DEFAULT_NAMESPACE)
    return Answer(headers={"Location": f"/{ask.bucket}"})


async def head_bucket(ask: Ask) -> Answer:
    await ask.own_bucket()
    return Answer(headers={f"{ask.dialect.prefix}bucket-region": ask.services.settings.region})


async def delete_bucket(ask: Ask) -> Answer:
    await ask.own_bucket()
    await ask.services.lookups.run(ask.services.objects.delete_bucket, ask.bucket)
    return Answer(204)


async def list_objects(ask: Ask) -> Answer:
    """ListObjects, both versions."""
    await ask.own_bucket()
    encode = encoder(ask)
    second = ask.param("list-type") == "2"
    after = _after(ask) if second else ask.param("marker")
    most = ask.number("max-keys", MOST_KEYS, 0, MOST_KEYS)
    page = await ask.services.lookups.run(
        list_keys, ask.services.engine, ask.bucket, prefix=ask.param("prefix"), delimiter=ask.param("delimiter"), after=after, most=most
    )
    head: list[tuple[str, Any]] = [
        ("Name", ask.bucket),
        ("EncodingType", ask.param("encoding-type") or None),
        ("Prefix", encode(ask.param("prefix"))),
        ("Delimiter", encode(ask.param("delimiter")) if ask.param("delimiter") else None),
        ("MaxKeys", most),
        ("IsTruncated", page.truncated),
    ]
    head += _second(ask, page, encode) if second else _first(ask, page, encode)
    with_owner = not second or ask.param("fetch-owner") == "true"
    contents = [("Contents", _content(ask, of_row(row), encode, with_owner=with_owner)) for row in page.rows]
    return xml_answer(ask.dialect, "ListBucketResult", [*head, *contents, *common_prefixes(page.prefixes, encode)])


def encoder(ask: Ask) -> Callable[[str], str]:
    """How keys are written: as they are, or percent-encoded where the client asks for it. Raises BucketError."""
    kind = ask.param("encoding-type")
    if kind not in ("", "url"):
        raise BucketError(
            "InvalidArgument", "Invalid Encoding Method specified in Request", ArgumentName="encoding-type", ArgumentValue=kind
        )
    return (lambda key: quote(key, safe="/-_.~")) if kind else str


def common_prefixes(prefixes: Iterable[bytes], encode: Callable[[str], str]) -> list[tuple[str, Any]]:
    return [("CommonPrefixes", [("Prefix", encode(prefix.decode()))]) for prefix in prefixes]


def _first(ask: Ask, page: Page, encode: Callable[[str], str]) -> list[tuple[str, Any]]:
    return [("Marker", encode(ask.param("marker"))), ("NextMarker", encode(page.last.decode()) if page.truncated else None)]


def _second(ask: Ask, page: Page, encode: Callable[[str], str]) -> list[tuple[str, Any]]:
    following = base64.urlsafe_b64encode(page.last).decode() if page.truncated else None
    return [
        ("KeyCount", len(page.rows) + len(page.prefixes)),
        ("ContinuationToken", ask.param("continuation-token") or None),
        ("NextContinuationToken", following),
        ("StartAfter", encode(ask.param("start-after")) if ask.param("start-after") else None),
    ]


def _after(ask: Ask) -> str:
    token = ask.param("continuation-token")
    if not token:
        return ask.param("start-after")
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:  # binascii.Error and UnicodeError are
        raise BucketError("InvalidArgument", "The continuation token provided is incorrect", ArgumentName="continuation-token") from None


def _content(ask: Ask, found: StoredObject, encode: Callable[[str], str], *, with_owner: bool) -> list[tuple[str, Any]]:
    return [
        ("Key", encode(found.key)),
        ("LastModified", rfc3339(found.modified_at)),
        ("ETag", f'"{found.etag}"'),
        ("ChecksumAlgorithm", found.facts.algorithm.upper() if found.facts.checksum else None),
        ("Size", found.size),
        ("Owner", owner(ask) if with_owner else None),
        ("StorageClass", STORAGE),
    ]


async def list_versions(ask: Ask) -> Answer:
    """ListObjectVersions: each object has one, `null`, as in a bucket that never had versioning."""
    await ask.own_bucket()
    encode = encoder(ask)
    most = ask.number("max-keys", MOST_KEYS, 0, MOST_KEYS)
    page = await ask.services.lookups.run(
        list_keys,
        ask.services.engine,
        ask.bucket,
        prefix=ask.param("prefix"),
        delimiter=ask.param("delimiter"),
        after=ask.param("key-marker"),
        most=most,
    )
    head: list[tuple[str, Any]] = [
        ("Name", ask.bucket),
        ("EncodingType", ask.param("encoding-type") or None),
        ("Prefix", encode(ask.param("prefix"))),
        ("Delimiter", encode(ask.param("delimiter")) if ask.param("delimiter") else None),
        ("KeyMarker", encode(ask.param("key-marker"))),
        ("VersionIdMarker", ""),
        ("MaxKeys", most),
        ("IsTruncated", page.truncated),
        ("NextKeyMarker", encode(page.last.decode()) if page.truncated else None),
        ("NextVersionIdMarker", "null" if page.truncated else None),
    ]
    null = [("VersionId", "null"), ("IsLatest", True)]
    rows = [("Version", [*null, *_content(ask, of_row(row), encode, with_owner=True)]) for row in page.rows]
    return xml_answer(ask.dialect, "ListVersionsResult", [*head, *rows, *common_prefixes(page.prefixes, encode)])


async def delete_objects(ask: Ask) -> Answer:
    """Up to 1000 keys in one transaction: all of them go, with their events, or none."""
    await ask.own_bucket()
    keys, quiet = xml.deletions(await small(ask.req, ask.payload, XML_BYTES))
    for key in keys:
        check_key(key)
    services = ask.services
    await services.io.run(services.objects.delete, ask.bucket, keys, DELETE_EVENT, ask.cause)
    rows = [] if quiet else [("Deleted", [("Key", key)]) for key in keys]
    return xml_answer(ask.dialect, "DeleteResult", rows)
