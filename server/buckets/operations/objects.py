"""Operations on objects: put, get, head, delete, copy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final
from urllib.parse import unquote

from server.buckets.answer import Answer, DataStream, xml_answer
from server.buckets.body import receive
from server.buckets.call import decode, is_bucket_name
from server.buckets.errors import BucketError
from server.buckets.model import Facts, StoredObject
from server.buckets.operations.ask import Ask, check_key, refuse_unknown
from server.buckets.operations.buckets import DELETE_EVENT
from server.buckets.operations.facts import (
    check_read,
    checksum_headers,
    object_headers,
    read_facts,
    read_range,
    with_checksum,
    write_condition,
)
from server.store.times import rfc3339

PUT_EVENT: Final = "cos:ObjectCreated:Put"
COPY_EVENT: Final = "cos:ObjectCreated:Copy"


async def put_object(ask: Ask) -> Answer:
    check_key(ask.key)
    refuse_unknown(ask.call)
    facts, condition = read_facts(ask.call), write_condition(ask.call)
    await ask.own_bucket()
    services = ask.services
    received = await receive(ask.req, ask.payload, services.files, services.io, services.settings.limit_object_bytes)
    try:
        facts = with_checksum(facts, received.algorithm, received.checksum)
        stored = StoredObject(ask.bucket, ask.key, "", 0, received.md5, facts, 0.0)
        await services.io.run(services.objects.put, received.new, stored, PUT_EVENT, ask.cause, condition=condition)
    finally:
        received.new.close()
    services.metrics.received(received.new.size_bytes)
    return Answer(headers={"ETag": f'"{received.md5}"', **checksum_headers(facts, ask.dialect)})


async def get_object(ask: Ask) -> Answer:
    return await _read(ask, with_data=True)


async def head_object(ask: Ask) -> Answer:
    return await _read(ask, with_data=False)


async def _read(ask: Ask, *, with_data: bool) -> Answer:
    await ask.own_bucket()
    services, call = ask.services, ask.call
    if ask.param("versionId") not in ("", "null"):
        raise BucketError("InvalidArgument", "Invalid version id specified", ArgumentName="versionId", ArgumentValue=ask.param("versionId"))
    if with_data:
        found, descriptor = await services.io.run(services.objects.open, ask.bucket, ask.key)
    else:
        found, descriptor = await services.lookups.run(services.objects.get, ask.bucket, ask.key), -1
    with _closing(descriptor) as kept:
        check_read(found, call.headers)
        headers = object_headers(found, call)
        first, length, partial = _piece(ask, found, headers)
        if partial:
            headers["Content-Range"] = f"bytes {first}-{first + length - 1}/{found.size}"
        elif call.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
            headers |= checksum_headers(found.facts, ask.dialect)
        answer = Answer(206 if partial else 200, headers=headers, length=length)
        if with_data and length:
            answer.stream = DataStream(services.io, kept.pop(), first, length)
            services.metrics.sent(length)
        return answer


@contextmanager
def _closing(descriptor: int) -> Iterator[list[int]]:
    """Close it unless it was taken out of the list."""
    held = [descriptor] if descriptor >= 0 else []
    try:
        yield held
    finally:
        for left in held:
            os.close(left)


def _piece(ask: Ask, found: StoredObject, headers: dict[str, str]) -> tuple[int, int, bool]:
    """(first byte, length, is it a part of the whole)."""
    if "partNumber" in ask.call.params:
        return _part(ask, found, headers)
    header, only_if = ask.call.headers.get("range", ""), ask.call.headers.get("if-range", "")
    if header and only_if in ("", headers["ETag"], headers["Last-Modified"]):
        piece = read_range(header, found.size)
        if piece is not None:
            return *piece, True
    return 0, found.size, False


def _part(ask: Ask, found: StoredObject, headers: dict[str, str]) -> tuple[int, int, bool]:
    number = ask.number("partNumber", 1, 1, 10_000)
    sizes = found.facts.parts or (found.size,)
    if number > len(sizes):
        raise BucketError("InvalidRange", "The requested partnumber is not satisfiable", **{"Content-Range": f"bytes */{found.size}"})
    if found.facts.parts:
        headers[f"{ask.dialect.prefix}mp-parts-count"] = str(len(sizes))
    return sum(sizes[: number - 1]), sizes[number - 1], found.size > 0


async def delete_object(ask: Ask) -> Answer:
    await ask.own_bucket()
    if ask.param("versionId") not in ("", "null"):
        raise BucketError("InvalidArgument", "Invalid version id specified", ArgumentName="versionId", ArgumentValue=ask.param("versionId"))
    services = ask.services
    await services.io.run(services.objects.delete, ask.bucket, [ask.key], DELETE_EVENT, ask.cause, write_condition(ask.call))
    return Answer(204)


async def copy_object(ask: Ask) -> Answer:
    """The copy shares the source's bytes on the disk: it takes no time and no room, whatever the size."""
    check_key(ask.key)
    refuse_unknown(ask.call)
    directive = ask.call.header("metadata-directive", "COPY").upper()
    if directive not in ("COPY", "REPLACE", "REPLACED"):
        raise BucketError("InvalidArgument", "Unknown metadata directive.", ArgumentName=f"{ask.dialect.prefix}metadata-directive")
    facts = read_facts(ask.call) if directive != "COPY" else None
    await ask.own_bucket()
    bucket, key = await copy_source(ask)
    if (bucket, key) == (ask.bucket, ask.key) and facts is None:
        raise BucketError(
            "InvalidRequest", "This copy request is illegal because it is trying to copy an object to itself without changing it."
        )
    fresh = await ask.services.io.run(_copy, ask, bucket, key, facts)
    answer = [("ETag", f'"{fresh.etag}"'), ("LastModified", rfc3339(fresh.modified_at))]
    return xml_answer(ask.dialect, "CopyObjectResult", answer)


def _copy(ask: Ask, bucket: str, key: str, facts: Facts | None) -> StoredObject:
    services = ask.services
    for _ in range(3):
        found = services.objects.get(bucket, key)
        check_read(found, ask.call.headers, f"{ask.dialect.prefix}copy-source-")
        try:
            new = services.files.link(found.file, found.size)
        except FileNotFoundError:
            continue  # the source was replaced between the two
        try:
            new.sync()
            if facts is not None:
                same = {name: getattr(found.facts, name) for name in ("algorithm", "checksum", "checksum_type", "parts")}
                facts = replace(facts, **same)
            stored = StoredObject(ask.bucket, ask.key, "", 0, found.etag, facts or found.facts, 0.0)
            return services.objects.put(new, stored, COPY_EVENT, ask.cause, condition=write_condition(ask.call))
        finally:
            new.close()
    raise BucketError("OperationAborted")


async def copy_source(ask: Ask) -> tuple[str, str]:
    """(bucket, key) of the copy-source header, which the identity may read. Raises BucketError.

    S3: `/bucket/key`, COS: `bucket-appid.cos.region.myqcloud.com/key`; percent-encoded, perhaps with ?versionId=.
    """
    source, _, query = ask.call.header("copy-source").partition("?")
    if query and unquote(query) not in ("versionId=", "versionId=null"):
        raise BucketError("InvalidArgument", "objects have no versions here", ArgumentName=f"{ask.dialect.prefix}copy-source")
    host, slash, key = decode(source).removeprefix("/").partition("/")
    bucket = host if is_bucket_name(host) and ask.dialect.name == "s3" else (ask.services.hosts.bucket_of(host) or host)
    if not slash or not key or not bucket:
        raise BucketError("InvalidArgument", "Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
    await ask.own_bucket(bucket)
    return bucket, key


def part_of_source(ask: Ask, found: StoredObject) -> tuple[int, int]:
    """(first, length) of copy-source-range. Raises BucketError."""
    header = ask.call.header("copy-source-range")
    piece: Any = read_range(header, found.size) if header else (0, found.size)
    if piece is None or (header and piece[0] + piece[1] != int(header.rpartition("-")[2] or 0) + 1):
        raise BucketError("InvalidArgument", "the range of the source is not bytes=first-last within it", ArgumentValue=header)
    first, length = piece
    return first, length
