"""Writing many records at once.

On SQLite a batch goes past SQLAlchemy, to the driver itself: that costs half as much. The same statement for every row of it replaces a
record of the same request, since the unique index on request ids is looked at anyway. Other databases get the ordinary way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, insert

from server.store.tables import invocations

_COLUMNS: Final = ("created_at", "request_id", "namespace", "function", "state", "type", "record", "result", "log")
_DELETE: Final = delete(invocations).where(invocations.c.request_id == bindparam("replaced"))
_REPLACE: Final = f"INSERT OR REPLACE INTO invocations (seq, {', '.join(_COLUMNS)}) VALUES (?{', ?' * len(_COLUMNS)})"

Row = Mapping[str, Any]


def replace(connection: Connection, rows: Sequence[Row], first_seq: int) -> None:
    """Insert rows of `invocations` (every column but `seq`, which counts on from `first_seq`), in place of those of the same request.

    Raises SQLAlchemyError, and the driver's errors for a value that is none of its.
    """
    if connection.dialect.name != "sqlite":
        connection.execute(_DELETE, [{"replaced": row["request_id"]} for row in rows])
        connection.execute(insert(invocations), [{**row, "seq": first_seq + at} for at, row in enumerate(rows)])
        return
    values = [(first_seq + at, *(row[name] for name in _COLUMNS)) for at, row in enumerate(rows)]
    connection.exec_driver_sql(_REPLACE, values)
