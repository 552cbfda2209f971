"""The tables of records and usage: one method a statement or two, no thread and no queue (that is `recorder`).

Every batch takes its numbers from a counter and so holds that counter's row until its commit: batches of all processes follow
each other, `seq` grows in the order of commits, and who follows a log by `seq` misses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, bindparam, case, delete, func, insert, select, update

from server.records import bulk
from server.records.model import Filter, LogEntry, UsageRow, from_row, parse_record
from server.store.engine import next_numbers, writing
from server.store.tables import INVOCATIONS_COUNTER, invocations, usage

#: What lists keep of a log. The whole one comes with its record.
TAIL_BYTES: Final = 4096
#: Rows of one deleting transaction: the write lock is let go between them.
PRUNE_ROWS: Final = 2000

# Made once: building a statement costs more than running it, and a batch may be of a few records.
_ADD_USAGE: Final = (
    update(usage)
    .where(*(usage.c[name] == bindparam(f"more_{name}") for name in ("namespace", "function", "day")))
    .values({name: usage.c[name] + bindparam(f"more_{name}") for name in ("calls", "failures", "throttled", "gb_seconds", "billed_ms")})
)


class Journal:
    """Reading and writing of records. Blocking; raises SQLAlchemyError."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write(self, rows: Sequence[dict[str, Any]], additions: Iterable[UsageRow]) -> None:
        """Store rows (a later one of the same request replaces the earlier) and add to usage, all of it or nothing."""
        with writing(self._engine) as connection:
            self.add(connection, rows, additions)

    def add(self, connection: Connection, rows: Sequence[dict[str, Any]], additions: Iterable[UsageRow]) -> None:
        """The same in the caller's transaction."""
        # Also for usage alone: who holds the counter is the only one that adds to usage.
        first = next_numbers(connection, INVOCATIONS_COUNTER, len(rows))
        if rows:
            bulk.replace(connection, rows, first)
        for addition in additions:
            _add_usage(connection, addition)

    def known(self, request_ids: Sequence[str]) -> dict[str, str]:
        """Which of these requests have a record, and its state."""
        query = select(invocations.c.request_id, invocations.c.state).where(invocations.c.request_id.in_(request_ids))
        with self._engine.connect() as connection:
            return {row.request_id: row.state for row in connection.execute(query)}

    def get(self, request_id: str) -> dict[str, Any] | None:
        columns = (invocations.c.record, invocations.c.result, invocations.c.log)
        with self._engine.connect() as connection:
            row = connection.execute(select(*columns).where(invocations.c.request_id == request_id)).one_or_none()
        return None if row is None else from_row(*row)

    def latest(self, wanted: Filter, limit: int) -> list[dict[str, Any]]:
        """Newest first, logs cut to their tail."""
        size = func.length(invocations.c.log)
        tail = func.substr(invocations.c.log, case((size > TAIL_BYTES, size - TAIL_BYTES + 1), else_=1))
        query = select(invocations.c.record, invocations.c.result, tail).where(*_conditions(wanted))
        with self._engine.connect() as connection:
            # SQLite: the substr of an empty blob is NULL.
            rows = connection.execute(query.order_by(invocations.c.seq.desc()).limit(limit))
            return [from_row(record, result, log or b"") for record, result, log in rows]

    def outlines(self, function: str, namespace: str, since: float, until: float, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` records of calls made in that time, newest first, without results and logs."""
        query = _of(select(invocations.c.record), function, namespace)
        query = query.where(invocations.c.created_at >= since, invocations.c.created_at <= until)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(invocations.c.seq.desc()).limit(limit)).scalars()
            return [from_row(record, None, b"") for record in rows]

    def parts(self, request_ids: Sequence[str], part_bytes: int) -> dict[str, tuple[bytes | None, bytes]]:
        """(result, log) of these requests as they are stored, of each the first, respectively the last, `part_bytes`."""
        size = func.length(invocations.c.log)
        tail = func.substr(invocations.c.log, case((size > part_bytes, size - part_bytes + 1), else_=1))
        columns = (invocations.c.request_id, func.substr(invocations.c.result, 1, part_bytes), tail)
        with self._engine.connect() as connection:
            rows = connection.execute(select(*columns).where(invocations.c.request_id.in_(request_ids)))
            return {request_id: (None if result is None else bytes(result), bytes(log or b"")) for request_id, result, log in rows}

    def logs(self, function: str, namespace: str, after: int | None, limit: int) -> list[LogEntry]:
        """Oldest first: the `limit` behind the cursor `after`, or without one the newest `limit`."""
        query = _of(select(invocations.c.seq, invocations.c.record, invocations.c.log), function, namespace).limit(limit)
        if after is None:
            query = query.order_by(invocations.c.seq.desc())
        else:
            query = query.where(invocations.c.seq > after).order_by(invocations.c.seq)
        with self._engine.connect() as connection:
            entries = [_entry(*row) for row in connection.execute(query)]
        return entries[::-1] if after is None else entries

    def last_cursor(self) -> int:
        with self._engine.connect() as connection:
            return connection.execute(select(func.max(invocations.c.seq))).scalar_one() or 0

    def usage(self, from_day: str | None, to_day: str | None, namespace: str | None) -> list[UsageRow]:
        """Both days included; by day, namespace, function."""
        query = select(usage).order_by(usage.c.day, usage.c.namespace, usage.c.function)
        if from_day is not None:
            query = query.where(usage.c.day >= from_day)
        if to_day is not None:
            query = query.where(usage.c.day <= to_day)
        if namespace is not None:
            query = query.where(usage.c.namespace == namespace)
        with self._engine.connect() as connection:
            return [UsageRow(**row) for row in connection.execute(query).mappings()]  # type: ignore[typeddict-item]

    def prune_to(self, keep: int) -> int:
        """Drop all but the newest `keep` records (numbers are dense, so by number); return how many went."""
        removed = 0
        while gone := self._prune(invocations.c.seq <= self.last_cursor() - keep):
            removed += gone
        return removed

    def prune_before(self, moment: float) -> int:
        """Drop records of calls made before `moment`; return how many went."""
        removed = 0
        while gone := self._prune(invocations.c.created_at < moment):
            removed += gone
        return removed

    def _prune(self, condition: Any) -> int:
        """Drop those of the oldest rows that meet `condition`. Only the oldest are looked at: rows lie in order of time."""
        with writing(self._engine) as connection:
            oldest = select(invocations.c.seq).order_by(invocations.c.seq).limit(PRUNE_ROWS).subquery()
            return connection.execute(delete(invocations).where(invocations.c.seq.in_(select(oldest.c.seq)), condition)).rowcount


def _conditions(wanted: Filter) -> Iterator[Any]:
    columns = invocations.c
    for column, value in (("namespace", wanted.namespace), ("function", wanted.function), ("state", wanted.state), ("type", wanted.type)):
        if value is not None:
            yield columns[column] == value
    if wanted.since is not None:
        yield columns.created_at >= wanted.since
    if wanted.until is not None:
        yield columns.created_at < wanted.until


def _of(query: Select[Any], function: str, namespace: str) -> Select[Any]:
    return query.where(invocations.c.namespace == namespace, invocations.c.function == function)


def _entry(seq: int, record: str, log: bytes) -> LogEntry:
    shown = parse_record(record)
    return {
        "cursor": seq,
        "request_id": shown["request_id"],
        "time": shown["started_at"] or shown["created_at"],
        "status": shown["status"],
        "log": bytes(log).decode(errors="backslashreplace"),
    }


def _add_usage(connection: Connection, more: UsageRow) -> None:
    # Nobody else can insert between the two: the batch holds its counter.
    if not connection.execute(_ADD_USAGE, {f"more_{name}": value for name, value in more.items()}).rowcount:
        connection.execute(insert(usage).values(**more))
