"""Batches of records into the database, however long it takes: tried again while the database is away, bad ones found and left out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sandbox.log import pairs
from server.records.journal import Journal
from server.records.model import FINAL_STATES, UsageRow, state_of, to_row, usage_of
from server.records.outcome import Outcome

RETRY_SECONDS: Final = 1.0
CLOSE_SECONDS: Final = 5.0
MAX_BATCH: Final = 2000

_log = logging.getLogger(__name__)

#: A record and its function's memory in MB, for usage.
Recorded = tuple[Mapping[str, Any], int]
Item = Outcome | Recorded


class Writer:
    """`closing` tells that there is little time left: then a database that stays away costs the records."""

    def __init__(self, journal: Journal, closing: Callable[[], bool]) -> None:
        self._journal = journal
        self._closing = closing

    def write(self, items: Sequence[Item], *, again: bool = False) -> int:
        """Commit these; how many had to be dropped. `again`: an earlier try may have committed them, which must not count twice."""
        recorded = [record_of(item) for item in items]
        if again:
            known = self._journal.known([str(record.get("request_id")) for record, _ in recorded])
            recorded = [item for item in recorded if known.get(str(item[0].get("request_id"))) != state_of(item[0])]
        return sum(self._write(recorded[at : at + MAX_BATCH]) for at in range(0, len(recorded), MAX_BATCH))

    def _write(self, items: Sequence[Recorded]) -> int:
        """What the database refuses is found by halves, so that one bad record can't hold up the others."""
        give_up: float | None = None
        while True:
            try:
                self._journal.write(*_rows(items))
                return 0
            except (OperationalError, PoolTimeout) as error:
                _log.error(pairs("writing records failed", count=len(items), error=str(error).splitlines()[0]))
            except Exception as error:
                if len(items) == 1:
                    _log.error(pairs("record refused", request_id=items[0][0].get("request_id"), error=repr(error)[:500]))
                    return 1
                middle = len(items) // 2
                return self._write(items[:middle]) + self._write(items[middle:])
            if self._closing():
                give_up = give_up or time.monotonic() + CLOSE_SECONDS
                if time.monotonic() > give_up:
                    return len(items)
            time.sleep(RETRY_SECONDS)


def record_of(item: Item) -> Recorded:
    return (item.to_record(), item.memory_mb) if isinstance(item, Outcome) else item


def _rows(items: Sequence[Recorded]) -> tuple[list[dict[str, Any]], list[UsageRow]]:
    sums: dict[tuple[str, str, str], UsageRow] = {}
    for record, memory_mb in items:
        if state_of(record) in FINAL_STATES:
            _sum_up(sums, usage_of(record, memory_mb))
    return [to_row(record) for record, _ in items], list(sums.values())


def _sum_up(sums: dict[tuple[str, str, str], UsageRow], more: UsageRow) -> None:
    key = (more["namespace"], more["function"], more["day"])
    if (known := sums.get(key)) is None:
        sums[key] = more
        return
    known["calls"] += more["calls"]
    known["failures"] += more["failures"]
    known["throttled"] += more["throttled"]
    known["gb_seconds"] += more["gb_seconds"]
    known["billed_ms"] += more["billed_ms"]
