"""Operations on uploads in parts."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Final

from server.buckets import checksums, xml
from server.buckets.answer import Answer, xml_answer
from server.buckets.body import receive, small
from server.buckets.errors import BucketError
from server.buckets.listing import MOST_KEYS, list_uploads
from server.buckets.model import Facts, Part, Upload
from server.buckets.multipart import MOST_PARTS, upload_of_row
from server.buckets.operations.ask import XML_BYTES, Ask, check_key, refuse_unknown
from server.buckets.operations.buckets import STORAGE, encoder, owner
from server.buckets.operations.facts import check_read, checksum_headers, read_facts, write_condition
from server.buckets.operations.objects import copy_source, part_of_source
from server.store.times import rfc3339

#: A part other than the last, as each cloud has it.
SMALLEST_PART_BYTES: Final = {"s3": 5 * 1024 * 1024, "cos": 1024 * 1024}


async def begin_upload(ask: Ask) -> Answer:
    check_key(ask.key)
    refuse_unknown(ask.call)
    facts = _with_algorithm(read_facts(ask.call), ask)
    await ask.own_bucket()
    upload_id = await ask.services.lookups.run(ask.services.multipart.begin, ask.bucket, ask.key, facts)
    headers = {}
    if facts.algorithm:
        headers = {f"{checksums.HEADER}algorithm": facts.algorithm.upper(), f"{checksums.HEADER}type": facts.checksum_type}
    answer = [("Bucket", ask.bucket), ("Key", ask.key), ("UploadId", upload_id)]
    return xml_answer(ask.dialect, "InitiateMultipartUploadResult", answer, headers)


def _with_algorithm(facts: Facts, ask: Ask) -> Facts:
    algorithm = ask.call.headers.get(f"{checksums.HEADER}algorithm", "").lower()
    if not algorithm:
        return facts
    checksums.maker(algorithm)
    kind = ask.call.headers.get(f"{checksums.HEADER}type", checksums.TYPES[algorithm][0]).upper()
    if kind not in checksums.TYPES[algorithm]:
        raise BucketError("InvalidRequest", f"The {kind} checksum type cannot be used with the {algorithm} checksum algorithm.")
    return replace(facts, algorithm=algorithm, checksum_type=kind)


def _number(ask: Ask) -> int:
    number = ask.number("partNumber", 0, 0, MOST_PARTS + 1)
    if not 1 <= number <= MOST_PARTS:
        raise BucketError(
            "InvalidArgument", f"Part number must be an integer between 1 and {MOST_PARTS}, inclusive", ArgumentName="partNumber"
        )
    return number


async def _upload(ask: Ask) -> Upload:
    await ask.own_bucket()
    return await ask.services.lookups.run(ask.services.multipart.get, ask.bucket, ask.key, ask.param("uploadId"))


async def put_part(ask: Ask) -> Answer:
    number, upload, services = _number(ask), await _upload(ask), ask.services
    received = await receive(ask.req, ask.payload, services.files, services.io, services.settings.limit_object_bytes)
    try:
        if upload.facts.algorithm and received.algorithm not in ("", upload.facts.algorithm):
            raise BucketError("InvalidRequest", f"Checksum Type mismatch occurred, expected {upload.facts.algorithm}")
        await services.io.run(services.multipart.put_part, upload, number, received.new, received.md5, received.checksum)
    finally:
        received.new.close()
    services.metrics.received(received.new.size_bytes)
    checksum = {f"{checksums.HEADER}{received.algorithm}": received.checksum} if received.algorithm else {}
    return Answer(headers={"ETag": f'"{received.md5}"', **checksum})


async def copy_part(ask: Ask) -> Answer:
    number, upload = _number(ask), await _upload(ask)
    bucket, key = await copy_source(ask)
    part = await ask.services.io.run(_copy_part, ask, upload, number, bucket, key)
    answer = [("ETag", f'"{part.etag}"'), ("LastModified", rfc3339(part.modified_at))]
    if part.checksum:
        answer.append((checksums.element(upload.facts.algorithm), part.checksum))
    return xml_answer(ask.dialect, "CopyPartResult", answer)


def _copy_part(ask: Ask, upload: Upload, number: int, bucket: str, key: str) -> Part:
    """Reads all of the piece: a part's ETag is its MD5."""
    services = ask.services
    found, source = services.objects.open(bucket, key)
    try:
        check_read(found, ask.call.headers, f"{ask.dialect.prefix}copy-source-")
        first, length = part_of_source(ask, found)
        md5, checksum = checksums.md5(), checksums.MAKERS[upload.facts.algorithm]() if upload.facts.algorithm else None

        def see(data: bytes) -> None:
            md5.update(data)
            if checksum is not None:
                checksum.update(data)

        new = services.files.create()
        try:
            new.copy_from(source, first, length, see)
            new.sync()
            encoded = checksums.encoded(checksum) if checksum is not None else ""
            return services.multipart.put_part(upload, number, new, md5.digest().hex(), encoded)
        finally:
            new.close()
    finally:
        os.close(source)


async def complete_upload(ask: Ask) -> Answer:
    upload, services = await _upload(ask), ask.services
    chosen = xml.completion(await small(ask.req, ask.payload, XML_BYTES, of_body=False), upload.facts.algorithm)
    found = await services.io.run(
        services.multipart.complete,
        upload,
        chosen,
        ask.cause,
        smallest_bytes=SMALLEST_PART_BYTES[ask.dialect.name],
        largest_bytes=services.settings.limit_upload_bytes,
        expected=checksums.announced(ask.call.headers)[1],  # of the whole object, not of this body
        condition=write_condition(ask.call),
    )
    answer: list[tuple[str, Any]] = [
        ("Location", f"http://{ask.call.host}{ask.call.raw_path}"),
        ("Bucket", ask.bucket),
        ("Key", ask.key),
        ("ETag", f'"{found.etag}"'),
    ]
    if checksum_headers(found.facts, ask.dialect):
        answer += [(checksums.element(found.facts.algorithm), found.facts.checksum), ("ChecksumType", found.facts.checksum_type)]
    return xml_answer(ask.dialect, "CompleteMultipartUploadResult", answer)


async def abort_upload(ask: Ask) -> Answer:
    await ask.own_bucket()
    await ask.services.io.run(ask.services.multipart.abort, ask.bucket, ask.key, ask.param("uploadId"))
    return Answer(204)


async def list_parts(ask: Ask) -> Answer:
    upload, encode = await _upload(ask), encoder(ask)
    most = ask.number("max-parts", MOST_KEYS, 0, MOST_KEYS)
    after = ask.number("part-number-marker", 0, 0, MOST_PARTS)
    found = await ask.services.lookups.run(ask.services.multipart.parts, upload, after, most + 1)
    shown = found[:most]
    answer: list[tuple[str, Any]] = [
        ("Bucket", ask.bucket),
        ("EncodingType", ask.param("encoding-type") or None),
        ("Key", encode(ask.key)),
        ("UploadId", upload.upload_id),
        ("Initiator", owner(ask)),
        ("Owner", owner(ask)),
        ("StorageClass", STORAGE),
        ("PartNumberMarker", after),
        ("NextPartNumberMarker", shown[-1].number if shown else 0),
        ("MaxParts", most),
        ("IsTruncated", len(found) > most),
        ("ChecksumAlgorithm", upload.facts.algorithm.upper() or None),
        ("ChecksumType", upload.facts.checksum_type or None),
    ]
    return xml_answer(ask.dialect, "ListPartsResult", [*answer, *(("Part", _part(part, upload)) for part in shown)])


def _part(part: Part, upload: Upload) -> list[tuple[str, Any]]:
    checksum = [(checksums.element(upload.facts.algorithm), part.checksum)] if part.checksum and upload.facts.algorithm else []
    return [
        ("PartNumber", part.number),
        ("LastModified", rfc3339(part.modified_at)),
        ("ETag", f'"{part.etag}"'),
        ("Size", part.size),
        *checksum,
    ]


async def list_multipart_uploads(ask: Ask) -> Answer:
    """Without rolling up: a delimiter is refused, as no client of ours needs it."""
    await ask.own_bucket()
    if ask.param("delimiter"):
        raise BucketError("NotImplemented", "a delimiter when listing uploads")
    encode = encoder(ask)
    most = ask.number("max-uploads", MOST_KEYS, 0, MOST_KEYS)
    prefix, key_marker, id_marker = ask.param("prefix"), ask.param("key-marker"), ask.param("upload-id-marker")
    rows, more = await ask.services.lookups.run(
        list_uploads, ask.services.engine, ask.bucket, prefix=prefix, key_marker=key_marker, id_marker=id_marker, most=most
    )
    found = [upload_of_row(row) for row in rows]
    last = found[-1] if more and found else None
    answer: list[tuple[str, Any]] = [
        ("Bucket", ask.bucket),
        ("EncodingType", ask.param("encoding-type") or None),
        ("KeyMarker", encode(key_marker)),
        ("UploadIdMarker", id_marker),
        ("NextKeyMarker", encode(last.key) if last else None),
        ("NextUploadIdMarker", last.upload_id if last else None),
        ("Prefix", encode(prefix)),
        ("MaxUploads", most),
        ("IsTruncated", more),
    ]
    for upload in found:
        described: list[tuple[str, Any]] = [
            ("Key", encode(upload.key)),
            ("UploadId", upload.upload_id),
            ("Initiator", owner(ask)),
            ("Owner", owner(ask)),
            ("StorageClass", STORAGE),
            ("Initiated", rfc3339(upload.created_at)),
        ]
        answer.append(("Upload", described))
    return xml_answer(ask.dialect, "ListMultipartUploadsResult", answer)
