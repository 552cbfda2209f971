"""Listing keys: in the order of their bytes, a page at a time, with everything behind a delimiter rolled into one prefix.

Each common prefix costs one step, not one for each key below it: the next query starts behind the last key it can have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, select

from server.store.tables import objects, uploads

MOST_KEYS: Final = 1000


@dataclass(slots=True)
class Page:
    """`rows` of the table and `prefixes`, both sorted; `last` is the last of both, where the next page goes on when `truncated`."""

    rows: list[Any] = field(default_factory=list)
    prefixes: list[bytes] = field(default_factory=list)
    last: bytes = b""
    truncated: bool = False


def list_keys(engine: Engine, bucket: str, *, prefix: str = "", delimiter: str = "", after: str = "", most: int = MOST_KEYS) -> Page:
    """A page of objects with keys behind `after`. `after` may be a common prefix: then everything below it is behind us."""
    start, include = after.encode(), False
    if delimiter and after.startswith(prefix) and 0 <= after.find(delimiter, len(prefix)) == len(after) - len(delimiter):
        start, include = successor(start) or start, True
    with engine.connect() as connection:
        return _page(connection, bucket, prefix.encode(), delimiter.encode(), start, most, include=include)


def _page(connection: Connection, bucket: str, prefix: bytes, delimiter: bytes, after: bytes, most: int, *, include: bool) -> Page:
    page = Page()
    if most == 0:
        return page
    for key, row in _steps(connection, objects, bucket, prefix, delimiter, after, most + 1, include):
        if len(page.rows) + len(page.prefixes) == most:
            page.truncated = True
            return page
        page.last = key
        if row is None:
            page.prefixes.append(key)
        else:
            page.rows.append(row)
    return page


def _steps(
    connection: Connection, table: Table, bucket: str, prefix: bytes, delimiter: bytes, after: bytes, batch: int, include: bool
) -> Iterator[tuple[bytes, Any]]:
    """(key, row) and (common prefix, None), in order."""
    while True:
        rows = _query(connection, table, bucket, prefix, after, batch, include)
        common = b""
        for row in rows:
            key = bytes(row["key"])
            after, include = key, False
            if common and key.startswith(common):
                continue
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            common = key[: end + len(delimiter)] if end >= 0 else b""
            yield (common, None) if common else (key, row)
        if len(rows) < batch:
            return
        if common:
            behind = successor(common)
            if behind is None:
                return
            after, include = behind, True


def _query(connection: Connection, table: Table, bucket: str, prefix: bytes, after: bytes, batch: int, include: bool) -> list[Any]:
    key = table.c.key
    if prefix > after:
        after, include = prefix, True
    query = select(table).where(table.c.bucket == bucket, key >= after if include else key > after).order_by(key).limit(batch)
    if prefix and (end := successor(prefix)) is not None:
        query = query.where(key < end)
    return list(connection.execute(query).mappings())


def successor(prefix: bytes) -> bytes | None:
    """The first key that is behind all those with this prefix; None when there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def list_uploads(engine: Engine, bucket: str, *, prefix: str, key_marker: str, id_marker: str, most: int) -> tuple[list[Any], bool]:
    """Uploads that have not ended, by key and id, behind (`key_marker`, `id_marker`); and whether there are more."""
    key, marker = uploads.c.key, key_marker.encode()
    query = select(uploads).where(uploads.c.bucket == bucket).order_by(key, uploads.c.upload_id).limit(most + 1)
    if marker:
        behind = key > marker
        query = query.where(behind | ((key == marker) & (uploads.c.upload_id > id_marker)) if id_marker else behind)
    if prefix:
        query = query.where(key >= prefix.encode())
        if (end := successor(prefix.encode())) is not None:
            query = query.where(key < end)
    with engine.connect() as connection:
        rows = list(connection.execute(query).mappings())
    return rows[:most], len(rows) > most
