"""Uploads in parts: begun, filled in any order and any number of times, then made an object in one transaction, or dropped."""

from __future__ import annotations

import binascii
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from server.buckets import checksums
from server.buckets.errors import BucketError
from server.buckets.files import Files, NewFile
from server.buckets.model import Cause, Condition, Facts, Part, StoredObject, Upload
from server.buckets.objects import TRIES, Objects, lock_bucket
from server.store.engine import writing
from server.store.tables import upload_parts, uploads

MOST_PARTS: Final = 10_000
EVENT: Final = "cos:ObjectCreated:CompleteMultipartUpload"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A part as the list of a completion names it: its checksum may be left out."""

    number: int
    etag: str
    checksum: str = ""


class Multipart:
    """The one owner of the rows of uploads and parts."""

    def __init__(self, engine: Engine, files: Files, objects: Objects, *, clock: Callable[[], float] = time.time) -> None:
        self._engine, self._files, self._objects, self._clock = engine, files, objects, clock

    def begin(self, bucket: str, key: str, facts: Facts) -> str:
        """The new upload's id. Raises BucketError (NoSuchBucket)."""
        upload_id = secrets.token_hex(16)
        with writing(self._engine) as connection:
            lock_bucket(connection, bucket)
            values = {"upload_id": upload_id, "bucket": bucket, "key": key.encode(), "facts": facts.dump(), "created_at": self._clock()}
            connection.execute(insert(uploads).values(**values))
        return upload_id

    def get(self, bucket: str, key: str, upload_id: str) -> Upload:
        """Raises BucketError (NoSuchUpload)."""
        with self._engine.connect() as connection:
            return _upload(connection, bucket, key, upload_id)

    def put_part(self, upload: Upload, number: int, new: NewFile, etag: str, checksum: str) -> Part:
        """Its data is on disk by now. A part of the same number is replaced. Raises BucketError (NoSuchUpload)."""
        for left in reversed(range(TRIES)):
            try:
                part, unused = self._put_part(upload, number, new, etag, checksum)
                break
            except IntegrityError:  # another wrote the same part at the same time
                if not left:
                    raise BucketError("OperationAborted") from None
        new.keep()
        self._files.remove(unused)
        return part

    def _put_part(self, upload: Upload, number: int, new: NewFile, etag: str, checksum: str) -> tuple[Part, list[str]]:
        is_part = (upload_parts.c.upload_id == upload.upload_id, upload_parts.c.number == number)
        part = Part(number, new.name, new.size_bytes, etag, checksum, self._clock())
        values = {name: getattr(part, name) for name in Part.__slots__}
        with writing(self._engine) as connection:
            # Completing and aborting lock it alone: a part comes before them, or too late.
            _upload(connection, upload.bucket, upload.key, upload.upload_id, lock="share")
            old = connection.execute(select(upload_parts.c.file).where(*is_part).with_for_update()).scalar_one_or_none()
            if old is None:
                connection.execute(insert(upload_parts).values(upload_id=upload.upload_id, **values))
                return part, []
            connection.execute(update(upload_parts).where(*is_part).values(**values))
            return part, [old]

    def parts(self, upload: Upload, after: int = 0, most: int = MOST_PARTS) -> list[Part]:
        with self._engine.connect() as connection:
            return _parts(connection, upload.upload_id, after, most)

    def abort(self, bucket: str, key: str, upload_id: str) -> None:
        """Raises BucketError (NoSuchUpload)."""
        with writing(self._engine) as connection:
            _upload(connection, bucket, key, upload_id, lock="update")
            unused = _drop(connection, upload_id)
        self._files.remove(unused)

    def complete(
        self,
        upload: Upload,
        chosen: Sequence[Chosen],
        cause: Cause,
        *,
        smallest_bytes: int,
        largest_bytes: int,
        expected: str = "",
        condition: Condition | None = None,
    ) -> StoredObject:
        """Make the chosen parts one object. Copies data: call it in a thread. `expected`: the checksum that it must have.

        Raises BucketError: BadDigest, InvalidPart, InvalidPartOrder, EntityTooSmall, EntityTooLarge, NoSuchUpload, PreconditionFailed.
        """
        parts = self._chosen(upload, chosen, smallest_bytes)
        if sum(part.size for part in parts) > largest_bytes:
            raise BucketError("EntityTooLarge")
        algorithm = upload.facts.algorithm
        whole = checksums.MAKERS[algorithm]() if algorithm and upload.facts.checksum_type == checksums.FULL_OBJECT else None
        try:
            new = self._join(parts, whole)
        except FileNotFoundError:  # a part was replaced, or the upload has ended meanwhile
            raise BucketError("OperationAborted") from None
        try:
            new.sync()
            facts = replace(upload.facts, checksum=_checksum(upload.facts, parts, whole), parts=tuple(part.size for part in parts))
            if expected and expected != facts.checksum:
                raise BucketError("BadDigest")
            stored = StoredObject(upload.bucket, upload.key, "", 0, _etag(parts), facts, 0.0)

            def end(connection: Connection) -> list[str]:
                _upload(connection, upload.bucket, upload.key, upload.upload_id, lock="update")
                now = {part.number: part.file for part in _parts(connection, upload.upload_id, 0, MOST_PARTS)}
                if any(now.get(part.number) != part.file for part in parts):
                    raise BucketError("OperationAborted")
                return _drop(connection, upload.upload_id)

            return self._objects.put(new, stored, EVENT, cause, condition=condition, also=end)
        finally:
            new.close()

    def _chosen(self, upload: Upload, chosen: Sequence[Chosen], smallest_bytes: int) -> list[Part]:
        numbers = [choice.number for choice in chosen]
        if numbers != sorted(set(numbers)):
            raise BucketError("InvalidPartOrder")
        there = {part.number: part for part in self.parts(upload)}
        parts = []
        for choice in chosen:
            part = there.get(choice.number)
            if part is None or part.etag != choice.etag or choice.checksum not in ("", part.checksum):
                raise BucketError("InvalidPart", UploadId=upload.upload_id, PartNumber=str(choice.number), ETag=choice.etag)
            parts.append(part)
        for part in parts[:-1]:
            if part.size < smallest_bytes:
                raise BucketError(
                    "EntityTooSmall", ProposedSize=str(part.size), MinSizeAllowed=str(smallest_bytes), PartNumber=str(part.number)
                )
        return parts

    def _join(self, parts: Sequence[Part], whole: checksums.Checksum | None) -> NewFile:
        if len(parts) == 1 and whole is None:
            return self._files.link(parts[0].file, parts[0].size)
        new = self._files.create()
        try:
            for part in parts:
                source = self._files.open(part.file)
                try:
                    new.copy_from(source, 0, part.size, whole.update if whole else None)
                finally:
                    os.close(source)
        except BaseException:
            new.close()
            raise
        return new


def _checksum(facts: Facts, parts: Sequence[Part], whole: checksums.Checksum | None) -> str:
    if whole is not None:
        return checksums.encoded(whole)
    if not facts.algorithm or not all(part.checksum for part in parts):
        return ""
    return checksums.composite(facts.algorithm, [part.checksum for part in parts])


def _etag(parts: Sequence[Part]) -> str:
    digest = hashlib.md5(b"".join(binascii.unhexlify(part.etag) for part in parts), usedforsecurity=False)
    return f"{digest.hexdigest()}-{len(parts)}"


def _upload(connection: Connection, bucket: str, key: str, upload_id: str, lock: str = "") -> Upload:
    query = select(uploads).where(uploads.c.upload_id == upload_id, uploads.c.bucket == bucket, uploads.c.key == key.encode())
    if lock:
        query = query.with_for_update(read=lock == "share")
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise BucketError("NoSuchUpload", UploadId=upload_id)
    return upload_of_row(row)


def upload_of_row(row: Any) -> Upload:
    values = dict(row)
    return Upload(**values | {"key": bytes(values["key"]).decode(), "facts": Facts.load(values["facts"])})


def _parts(connection: Connection, upload_id: str, after: int, most: int) -> list[Part]:
    columns = [upload_parts.c[name] for name in Part.__slots__]
    query = select(*columns).where(upload_parts.c.upload_id == upload_id, upload_parts.c.number > after)
    return [Part(**row) for row in connection.execute(query.order_by(upload_parts.c.number).limit(most)).mappings()]


def _drop(connection: Connection, upload_id: str) -> list[str]:
    files = list(connection.execute(select(upload_parts.c.file).where(upload_parts.c.upload_id == upload_id)).scalars())
    connection.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload_id))
    connection.execute(delete(uploads).where(uploads.c.upload_id == upload_id))
    return files
