"""Buckets and objects in the database. A change and the events it makes are one transaction: neither is there without the other.

Rows are locked in the same order everywhere: the bucket, then the object. What a change no longer names is removed from the disk behind
its commit; a crash in between leaves an orphan for the sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import Connection, Engine, delete, exists, func, insert, select, union_all, update
from sqlalchemy.exc import IntegrityError

from server.buckets.errors import BucketError
from server.buckets.files import Files, NewFile
from server.buckets.model import Bucket, Cause, Change, Condition, Facts, StoredObject
from server.store.engine import writing
from server.store.tables import buckets, objects, upload_parts, uploads

#: Two that create the same row at once: one of them finds it at its second try.
TRIES: Final = 5

T = TypeVar("T")


class Notices(Protocol):
    """Who wants to know of changes, inside their transaction."""

    def changed(self, connection: Connection, changes: Sequence[Change]) -> None: ...


class Objects:
    """The one owner of the rows of buckets and objects."""

    def __init__(
        self, engine: Engine, files: Files, notices: Notices, *, most_buckets: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._engine, self._files, self._notices, self._most_buckets, self._clock = engine, files, notices, most_buckets, clock

    # -- buckets ------------------------------------------------------------------------------------------------------------

    def bucket(self, name: str) -> Bucket:
        """Raises BucketError (NoSuchBucket)."""
        with self._engine.connect() as connection:
            return _bucket(connection, name)

    def list_buckets(self, namespace: str = "") -> list[Bucket]:
        """All, or those of a namespace, by name."""
        query = select(buckets).order_by(buckets.c.name)
        with self._engine.connect() as connection:
            rows = connection.execute(query.where(buckets.c.namespace == namespace) if namespace else query)
            return [Bucket(**row) for row in rows.mappings()]

    def create_bucket(self, name: str, namespace: str) -> None:
        """Raises BucketError: BucketAlreadyOwnedByYou, BucketAlreadyExists, TooManyBuckets."""

        def create(connection: Connection) -> None:
            row = connection.execute(select(buckets).where(buckets.c.name == name)).mappings().one_or_none()
            if row is not None:
                raise BucketError("BucketAlreadyOwnedByYou" if row["namespace"] == namespace else "BucketAlreadyExists")
            if connection.execute(select(func.count()).select_from(buckets)).scalar_one() >= self._most_buckets:
                raise BucketError("TooManyBuckets")
            connection.execute(insert(buckets).values(name=name, namespace=namespace, created_at=self._clock()))

        self._change(create)

    def delete_bucket(self, name: str) -> None:
        """Raises BucketError: NoSuchBucket, BucketNotEmpty. What was uploaded in parts and never completed goes with it."""

        def drop(connection: Connection) -> list[str]:
            _bucket(connection, name, lock="update")
            if connection.execute(select(exists().where(objects.c.bucket == name))).scalar_one():
                raise BucketError("BucketNotEmpty")
            of_it = select(uploads.c.upload_id).where(uploads.c.bucket == name)
            found = connection.execute(select(upload_parts.c.file).where(upload_parts.c.upload_id.in_(of_it))).scalars().all()
            connection.execute(delete(upload_parts).where(upload_parts.c.upload_id.in_(of_it)))
            connection.execute(delete(uploads).where(uploads.c.bucket == name))
            connection.execute(delete(buckets).where(buckets.c.name == name))
            return list(found)

        self._files.remove(self._change(drop))

    # -- objects ------------------------------------------------------------------------------------------------------------

    def get(self, bucket: str, key: str) -> StoredObject:
        """Raises BucketError (NoSuchKey)."""
        with self._engine.connect() as connection:
            found = _object(connection, bucket, key)
        if found is None:
            raise BucketError("NoSuchKey", Key=key)
        return found

    def open(self, bucket: str, key: str) -> tuple[StoredObject, int]:
        """The object and a descriptor of its data, which stays whole whatever happens to the object. Raises BucketError."""
        for _ in range(TRIES):
            found = self.get(bucket, key)
            try:
                return found, self._files.open(found.file)
            except FileNotFoundError:
                continue  # replaced between the two
        raise BucketError("OperationAborted")

    def put(
        self,
        new: NewFile,
        stored: StoredObject,
        event: str,
        cause: Cause,
        *,
        condition: Condition | None = None,
        also: Callable[[Connection], Sequence[str]] | None = None,
    ) -> StoredObject:
        """Make `stored` the object of its key, with the data of `new`, which is on disk by now. Its time is set here.

        `also` is done in the same transaction and names files that go behind it. Raises BucketError: NoSuchBucket, PreconditionFailed.
        """

        def change(connection: Connection) -> tuple[StoredObject, list[str]]:
            _bucket(connection, stored.bucket, lock="share")
            old = _object(connection, stored.bucket, stored.key, lock=True)
            check_condition(condition, old)
            fresh = replace(stored, file=new.name, size=new.size_bytes, modified_at=self._clock())
            _write(connection, fresh, old)
            unused = list(also(connection)) if also else []
            self._notices.changed(connection, [Change(event, fresh, fresh.modified_at, cause)])
            return fresh, unused + ([old.file] if old else [])

        fresh, unused = self._change(change)
        new.keep()
        self._files.remove(unused)
        return fresh

    def delete(self, bucket: str, keys: Sequence[str], event: str, cause: Cause, condition: Condition | None = None) -> int:
        """Delete what there is of these, all of it in one transaction; how many there were. Raises BucketError (NoSuchBucket)."""

        def change(connection: Connection) -> list[StoredObject]:
            _bucket(connection, bucket, lock="share")
            found = []
            for key in sorted(set(keys)):  # in one order, so that two of these never wait for each other
                old = _object(connection, bucket, key, lock=True)
                check_condition(condition, old)
                if old is not None:
                    connection.execute(delete(objects).where(*_is(bucket, key)))
                    found.append(old)
            now = self._clock()
            self._notices.changed(connection, [Change(event, old, now, cause) for old in found])
            return found

        found = self._change(change)
        self._files.remove(old.file for old in found)
        return len(found)

    def named(self, names: list[str]) -> set[str]:
        """Which of these data files a row names."""
        if not names:
            return set()
        found: set[str] = set()
        with self._engine.connect() as connection:
            for at in range(0, len(names), 500):
                some = names[at : at + 500]
                query = union_all(*(select(table.c.file).where(table.c.file.in_(some)) for table in (objects, upload_parts)))
                found |= set(connection.execute(query).scalars())
        return found

    def _change(self, change: Callable[[Connection], T]) -> T:
        for left in reversed(range(TRIES)):
            try:
                with writing(self._engine) as connection:
                    return change(connection)
            except IntegrityError:
                if not left:
                    raise BucketError("OperationAborted") from None
        raise AssertionError("unreachable")


def check_condition(condition: Condition | None, old: StoredObject | None) -> None:
    """Raises BucketError: PreconditionFailed, NoSuchKey."""
    if condition is None:
        return
    if condition.if_match:
        if old is None:
            raise BucketError("NoSuchKey")
        if not has_etag(condition.if_match, old.etag):
            raise BucketError("PreconditionFailed", Condition="If-Match")
    if condition.if_none_match and old is not None and has_etag(condition.if_none_match, old.etag):
        raise BucketError("PreconditionFailed", Condition="If-None-Match")


def has_etag(header: str, etag: str) -> bool:
    """Whether an If-Match or If-None-Match names it; `*` names any."""
    return any(word.strip().removeprefix("W/").strip('"') in ("*", etag) for word in header.split(","))


def _is(bucket: str, key: str) -> tuple[Any, Any]:
    return objects.c.bucket == bucket, objects.c.key == key.encode()


def _bucket(connection: Connection, name: str, lock: str = "") -> Bucket:
    query = select(buckets).where(buckets.c.name == name)
    if lock:
        query = query.with_for_update(read=lock == "share", key_share=lock == "share")
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise BucketError("NoSuchBucket", BucketName=name)
    return Bucket(**row)


def lock_bucket(connection: Connection, name: str) -> None:
    """Keep the bucket from being deleted until commit. Raises BucketError (NoSuchBucket)."""
    _bucket(connection, name, lock="share")


def _object(connection: Connection, bucket: str, key: str, *, lock: bool = False) -> StoredObject | None:
    query = select(objects).where(*_is(bucket, key))
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    return of_row(row) if row is not None else None


def of_row(row: Any) -> StoredObject:
    values = dict(row)
    return StoredObject(**values | {"key": bytes(values["key"]).decode(), "facts": Facts.load(values["facts"])})


def _write(connection: Connection, fresh: StoredObject, old: StoredObject | None) -> None:
    values = {
        "file": fresh.file,
        "size": fresh.size,
        "etag": fresh.etag,
        "facts": fresh.facts.dump(),
        "modified_at": fresh.modified_at,
    }
    if old is None:
        connection.execute(insert(objects).values(bucket=fresh.bucket, key=fresh.key.encode(), **values))
    else:
        connection.execute(update(objects).where(*_is(fresh.bucket, fresh.key)).values(**values))
