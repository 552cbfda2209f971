"""Records written behind the replies: `put` costs a dictionary entry, one thread writes batches within 100 ms.

    put ─▶ waiting ─▶ (thread) in hand ─▶ writer's process ─▶ one transaction: records, logs, usage
             └──────── get looks here first ────────┘

What has been put is in memory until it is committed: a process that is killed loses at most its last 100 ms. The queue is
bounded in number and bytes; past that, records are counted as dropped and logged, never waited for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from sandbox.log import pairs
from sandbox.settings import Settings
from server.records.journal import Journal
from server.records.model import Filter, LogEntry, UsageRow, from_row, to_row
from server.records.outcome import Outcome
from server.records.process import WriterProcess
from server.records.writer import CLOSE_SECONDS, Item, Writer, record_of

BATCH_SECONDS: Final = 0.075
FIRST_PRUNE_SECONDS: Final = 60.0
PRUNE_SECONDS: Final = 3600.0
#: Of what waits; as much again may be in hand.
MAX_WAITING: Final = 50_000
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024

_log = logging.getLogger(__name__)

_Waiting = dict[str, Item]


class Recorder:
    """Records of one process. `start()` once, `close()` at the end; all but `put` block and belong into a thread.

    `process`: where they are written; None: in this process, by the recorder's thread.
    """

    def __init__(self, engine: Engine, settings: Settings, process: WriterProcess | None = None) -> None:
        self._journal = Journal(engine)
        self._process = process
        self._writer = process or Writer(self._journal, lambda: self._closing)
        self._settings = settings
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._waiting: _Waiting = {}
        self._waiting_bytes = 0
        self._in_hand: _Waiting = {}
        self._work = threading.Event()
        self._hurry = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._written_since_prune = 0
        self._next_prune = 0.0
        self._reported_drops = 0
        #: Records lost to a full queue or because they could not be written.
        self.dropped = 0

    def start(self) -> None:
        self._next_prune = time.monotonic() + FIRST_PRUNE_SECONDS
        if self._process is not None:
            try:
                self._process.start()
            except OSError as error:
                _log.error(pairs("the records' writer could not be started, it is tried again", error=str(error)))
        self._thread.start()

    def put(self, record: Mapping[str, Any], memory_mb: int = 0) -> None:
        """Take a record (`new_record`); `memory_mb`, the function's own limit, is for usage. Never blocks, never raises.

        A later record of the same request replaces the earlier one. The record must not be changed afterwards.
        """
        self._put(record["request_id"], (record, memory_mb), _size(record))

    def put_outcome(self, outcome: Outcome) -> None:
        """`put` for a call that is over, as it came: what it takes to make a record of it is done elsewhere."""
        self._put(outcome.request_id, outcome, 1000 + len(outcome.log) + len(outcome.result or b""))

    def _put(self, request_id: str, item: Item, size_bytes: int) -> None:
        with self._lock:
            if len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES or self._closing:
                self.dropped += 1
                return
            self._waiting[request_id] = item
            self._waiting_bytes += size_bytes
        if not self._work.is_set():
            self._work.set()

    def get(self, request_id: str) -> dict[str, Any] | None:
        """The record, whether it is written yet or not; None when there is none (another process's may come within 100 ms)."""
        with self._lock:
            found = self._waiting.get(request_id) or self._in_hand.get(request_id)
        if found is not None:
            row = to_row(record_of(found)[0])
            return from_row(row["record"], row["result"], row["log"])
        return self._journal.get(request_id) if _askable(request_id) else None

    def latest(self, function: str, namespace: str = "default", limit: int = 20, state: str | None = None) -> list[dict[str, Any]]:
        """A function's newest records first, of one state if given; their logs are cut to the last 4 KB."""
        return self.search(Filter(namespace, function, state), limit)

    def search(self, wanted: Filter, limit: int = 20) -> list[dict[str, Any]]:
        """The newest records first; their logs are cut to the last 4 KB."""
        self.flush()
        texts = (text for text in (wanted.namespace, wanted.function, wanted.state) if text is not None)
        return self._journal.latest(wanted, limit) if _askable(*texts) else []

    def logs(self, function: str, namespace: str = "default", after: int | None = None, limit: int = 100) -> list[LogEntry]:
        """What calls wrote, oldest first: behind the cursor `after`, or the newest `limit`. To follow, ask again with the last cursor."""
        if after is None:
            self.flush()
        return self._journal.logs(function, namespace, after, limit) if _askable(function, namespace) else []

    def outlines(self, function: str, namespace: str, *, since: float, until: float, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` records of calls made between two moments, newest first, without results and logs."""
        self.flush()
        return self._journal.outlines(function, namespace, since, until, limit) if _askable(function, namespace) else []

    def parts(self, request_ids: Sequence[str], part_bytes: int) -> dict[str, tuple[bytes | None, bytes]]:
        """Result and log of these requests, as they are stored: of each no more than `part_bytes`, of a log its end."""
        return self._journal.parts(request_ids, part_bytes)

    def last_cursor(self) -> int:
        """Where a follower who wants only what comes now begins."""
        return self._journal.last_cursor()

    def usage(self, from_day: str | None = None, to_day: str | None = None, namespace: str | None = None) -> list[UsageRow]:
        """Calls and GB-seconds by function and day (UTC, `2026-11-23`, both ends included)."""
        self.flush()
        return self._journal.usage(from_day, to_day, namespace) if _askable(from_day or "", to_day or "", namespace or "") else []

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything put so far is committed; False when that took longer than `timeout` seconds."""
        with self._idle:
            ids = {*self._waiting, *self._in_hand}
            if not ids:
                return True
            self._hurry.set()
            return self._idle.wait_for(lambda: ids.isdisjoint(self._waiting) and ids.isdisjoint(self._in_hand), timeout)

    def prune(self) -> int:
        """Drop what `keep_records` and `keep_records_days` no longer keep; return how many records went."""
        removed = self._journal.prune_to(self._settings.keep_records)
        removed += self._journal.prune_before(time.time() - self._settings.keep_records_days * 86_400)
        return removed

    def close(self) -> None:
        """Write what is left, within seconds, and end the thread. `put` after it counts as dropped."""
        with self._lock:
            self._closing = True
        self._hurry.set()
        self._work.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS * 2)

    def _run(self) -> None:
        while not self._closing:
            if self._work.wait(timeout=max(0.0, self._next_prune - time.monotonic())):
                # The whole pause before each batch: what comes while one is written waits too, or a busy process would write many of a few.
                self._hurry.wait(BATCH_SECONDS)
                self._write_waiting()
            self._prune_if_due()
        while self._write_waiting():
            continue
        if self._process is not None:
            self._process.close()

    def _write_waiting(self) -> bool:
        """One batch of what waits; whether there was anything."""
        if not self._take():
            return False
        items = list(self._in_hand.values())
        dropped = self._writer.write(items)
        self._written_since_prune += len(items)
        with self._idle:
            self.dropped += dropped
            self._in_hand = {}
            self._idle.notify_all()
        self._report_drops()
        return True

    def _take(self) -> bool:
        with self._lock:
            # Cleared before looking, under the lock: who puts after this wakes us again.
            self._work.clear()
            self._in_hand, self._waiting, self._waiting_bytes = self._waiting, {}, 0
            if not self._in_hand:
                self._hurry.clear()
            return bool(self._in_hand)

    def _prune_if_due(self) -> None:
        # A busy function makes an hour's worth of records in minutes: the number decides too.
        due = self._written_since_prune > max(1000, self._settings.keep_records // 10)
        if not due and time.monotonic() < self._next_prune:
            return
        self._written_since_prune, self._next_prune = 0, time.monotonic() + PRUNE_SECONDS
        try:
            if removed := self.prune():
                _log.info(pairs("old records removed", count=removed))
        except SQLAlchemyError as error:
            _log.warning(pairs("removing old records failed", error=str(error).splitlines()[0]))

    def _report_drops(self) -> None:
        if self.dropped > self._reported_drops:
            _log.warning(pairs("records dropped", count=self.dropped - self._reported_drops))
            self._reported_drops = self.dropped


def _size(record: Mapping[str, Any]) -> int:
    """About the bytes it holds: log and result are the only large parts."""
    result = record.get("result")
    return 1000 + len(record.get("log") or "") + (len(result) if isinstance(result, bytes | str) else 0)


def _askable(*texts: str) -> bool:
    """Whether a database can be asked for them: no NUL, no half surrogates."""
    return all(text.isprintable() for text in texts)
