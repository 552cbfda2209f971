"""Writing many records at once without holding up the interpreter.

SQLAlchemy and the sqlite3 module take and give the interpreter's lock for each row, and so does the event loop's thread at each of its
system calls: the two then hand it to and fro, which cost a warm call more than its record. On SQLite a whole batch is therefore one
statement with one JSON parameter, taken apart by json_each(1) inside the library. Other databases get the ordinary way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Engine, bindparam, delete, insert

from server.store.tables import invocations

_TEXTS: Final = ("request_id", "namespace", "function", "state", "record")
_NUMBERS: Final = ("seq", "created_at")
_BYTES: Final = ("result", "log")
_COLUMNS: Final = (*_NUMBERS, *_TEXTS, *_BYTES)

#: A text of SQLite's ends at a NUL for some of its functions, so rows with one go the ordinary way.
_NUL: Final = 0

_DELETE: Final = delete(invocations).where(invocations.c.request_id == bindparam("replaced"))
_DELETE_MANY: Final = "DELETE FROM invocations WHERE request_id IN (SELECT value FROM json_each(?))"
_VALUES: Final = ", ".join(
    f"CAST(json_extract(value, '$[{at}]') AS BLOB)" if name in _BYTES else f"json_extract(value, '$[{at}]')"
    for at, name in enumerate(_COLUMNS)
)
_INSERT_MANY: Final = f"INSERT INTO invocations ({', '.join(_COLUMNS)}) SELECT {_VALUES} FROM json_each(?)"

Row = Mapping[str, Any]


def replace(engine: Engine, connection: Connection, rows: Sequence[Row]) -> None:
    """Insert rows of `invocations` (every column), in place of those of the same request. Raises SQLAlchemyError."""
    if engine.dialect.name != "sqlite":
        _one_by_one(connection, rows)
        return
    texts, others = [], []
    for row in rows:
        values = _as_text(row)
        if values is None:
            others.append(row)
        else:
            texts.append(values)
    connection.exec_driver_sql(_DELETE_MANY, (orjson.dumps([row["request_id"] for row in rows]).decode(),))
    if texts:
        connection.exec_driver_sql(_INSERT_MANY, (orjson.dumps(texts).decode(),))
    if others:
        connection.execute(insert(invocations), others)


def _one_by_one(connection: Connection, rows: Sequence[Row]) -> None:
    connection.execute(_DELETE, [{"replaced": row["request_id"]} for row in rows])
    connection.execute(insert(invocations), rows)


def _as_text(row: Row) -> list[Any] | None:
    """The values in the order of _COLUMNS with bytes as text; None where that is not possible."""
    values = [row[name] for name in _NUMBERS + _TEXTS]
    for name in _BYTES:
        value = row[name]
        if value:
            if _NUL in value:
                return None
            try:
                value = value.decode()
            except UnicodeDecodeError:
                return None
        elif value is not None:
            value = ""
        values.append(value)
    return values
