"""Code packages that lie in buckets: what a function or a layer is made of when its client names an object instead of sending bytes.

The API reads them here, from the same tables and files as the bucket service, whether or not that runs. Nothing is written.
"""

from __future__ import annotations

import os
import re

from sqlalchemy import Connection, Engine, select

from sandbox.settings import Settings
from server.buckets.call import is_bucket_name
from server.buckets.files import Files
from server.buckets.model import StoredObject
from server.buckets.objects import of_row
from server.errors import BadRequest, Conflict, NotFound, PayloadTooLarge
from server.store.tables import buckets, objects

#: A file that is gone was replaced between two looks: the row names another by then.
TRIES = 5
MAX_KEY_BYTES = 1024
_APPID = re.compile(r"-[0-9]+", re.ASCII)


class Packages:
    """Blocking. Methods raise `server.errors.ApiError`s, OSError and SQLAlchemyError."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine, self._files = engine, Files(settings.buckets_dir)
        self._limit_bytes = settings.limit_code_bytes

    def read(self, bucket: str, key: str, namespace: str, *, others: bool = False) -> bytes:
        """The bytes of an object in one of the namespace's buckets, or with `others` in anybody's.

        `bucket` may lack its appid, but not another namespace's: nobody's new bucket is taken for one of these. `key` may begin with a
        slash, as SCF's object names do. Raises BadRequest (fields `bucket`, `key`), NotFound (`bucket_not_found`,
        `object_not_found`), PayloadTooLarge, Conflict.
        """
        if not (is_bucket_name(bucket) or is_bucket_name(f"{bucket}-0")):  # a name alone may be shorter
            raise BadRequest(f"bucket: {bucket[:80]!a} is no bucket's name", field="bucket")
        key = key.removeprefix("/")
        if not key or len(_bytes(key)) > MAX_KEY_BYTES:
            raise BadRequest(f"key: {key[:80]!a} is no object's name", field="key", hint=f"1 to {MAX_KEY_BYTES} bytes of UTF-8")
        for _ in range(TRIES):
            found = self._find(bucket, key, namespace, others)
            try:
                return _whole(self._files.open(found.file), found.size)
            except FileNotFoundError:
                continue
        raise Conflict(f"object {key[:80]!a} of bucket {bucket} is being changed, or its data is not on this machine")

    def _find(self, bucket: str, key: str, namespace: str, others: bool) -> StoredObject:
        with self._engine.connect() as connection:
            name = _bucket(connection, bucket, namespace, others)
            query = select(objects).where(objects.c.bucket == name, objects.c.key == _bytes(key))
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise NotFound(f"bucket {name} has no object {key[:80]!a}", code="object_not_found")
        found = of_row(row)
        if found.size > self._limit_bytes:
            raise PayloadTooLarge(
                f"code package: {found.size} bytes, limit {self._limit_bytes}", code="code_too_large", hint="the setting limit_code_bytes"
            )
        return found


def _bucket(connection: Connection, name: str, namespace: str, others: bool) -> str:
    """The whole name of the bucket that is meant."""
    query = select(buckets.c.name, buckets.c.namespace).where(buckets.c.name.startswith(name, autoescape=True))
    found: dict[str, str] = {row.name: row.namespace for row in connection.execute(query)}
    own = [whole for whole in found if found[whole] == namespace and _APPID.fullmatch(whole[len(name) :])]
    if found.get(name) == namespace or (others and not own and name in found):
        return name
    if len(own) > 1:
        raise BadRequest(f"bucket: {name} may be any of {', '.join(sorted(own))[:200]}", field="bucket", hint="name it with its appid")
    if not own:
        raise NotFound(f"there is no bucket {name}", code="bucket_not_found")
    return own[0]


def _bytes(key: str) -> bytes:
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise BadRequest("key: half a surrogate pair", field="key") from None


def _whole(descriptor: int, size_bytes: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(size_bytes)
    if len(data) != size_bytes:
        raise OSError(f"a data file has {len(data)} bytes, its row says {size_bytes}")
    return data
