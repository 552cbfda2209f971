"""The API's side of the queue: events accepted in groups, results waited for, dispatchers woken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sandbox.settings import Settings
from server.api.threads import Threads
from server.errors import SCF_EVENT_TOO_LARGE, PayloadTooLarge, QueueFull
from server.events import attempts, wake
from server.events.configs import EventConfigs
from server.events.group import GroupCommit
from server.events.model import QUEUED, RUNNING, Event, NewEvent, pending_record
from server.events.queue import EventQueue
from server.events.wake import Mailbox
from server.records.model import FINAL_STATES, Filter
from server.records.recorder import Recorder

#: How long a wait goes on without being told before it looks for itself: another machine's dispatcher can't tell.
LOOK_SECONDS: Final = 1.0

Waiters = dict[str, set[asyncio.Future[None]]]


class EventFront:
    """One process's. `start` in the loop, `close` there."""

    def __init__(self, settings: Settings, queue: EventQueue, configs: EventConfigs, recorder: Recorder, threads: Threads) -> None:
        self._queue, self._configs, self._recorder, self._threads = queue, configs, recorder, threads
        self._mailbox = Mailbox(settings.wake_dir, wake.API)
        self._accepting: GroupCommit[NewEvent, str] = GroupCommit("accept", self._accept)
        self._waiters: Waiters = {}
        self._limit_bytes = settings.limit_async_event_bytes

    def start(self) -> None:
        self._mailbox.open(self._told)
        self._accepting.start()

    async def close(self) -> None:
        await asyncio.to_thread(self._accepting.close)
        self._mailbox.close()

    async def put(self, event: NewEvent) -> str:
        """Its request id, once it is on disk. Raises QueueFull, SQLAlchemyError."""
        return await self._accepting.submit(event)

    async def accept(self, event: NewEvent) -> str:
        """`put` for a caller from outside. Raises PayloadTooLarge, QueueFull, SQLAlchemyError."""
        if len(event.payload) > self._limit_bytes:
            raise PayloadTooLarge(f"the event is over the limit of {self._limit_bytes} bytes", scf_status=SCF_EVENT_TOO_LARGE)
        return await self.put(event)

    def _accept(self, batch: Any) -> list[str | Exception]:
        """In the accepting thread."""
        answers: list[str | Exception] = list(self._queue.accept(batch))
        if not all(isinstance(answer, QueueFull) for answer in answers):
            self._mailbox.tell(wake.DISPATCHER, wake.WORK)
        return answers

    def tell_dispatchers(self, message: bytes) -> None:
        """Blocking, but only for system calls."""
        self._mailbox.tell(wake.DISPATCHER, message)

    def tell_of_work(self) -> None:
        """For who puts events in a transaction of its own, once that is committed. The same."""
        self.tell_dispatchers(wake.WORK)

    def has_dispatcher(self) -> bool:
        """Whether a dispatcher lives on this machine."""
        return self._mailbox.has(wake.DISPATCHER)

    # -- records --------------------------------------------------------------------------------------------------------------

    async def record(self, request_id: str) -> dict[str, Any] | None:
        """The record of a call: pending or final, sync or async; None where there is none."""
        return await self._threads.run(self.find, request_id)

    def find(self, request_id: str) -> dict[str, Any] | None:
        """The same, blocking."""
        record = self._recorder.get(request_id)
        if record is not None or not request_id.isprintable():
            return record
        event = self._queue.get(request_id)
        # Settled between the two looks: its record has come in the commit that took it away.
        return pending_record(event) if event is not None else self._recorder.get(request_id)

    def search(self, wanted: Filter, limit: int) -> list[dict[str, Any]]:
        """Records, newest first: of events that wait or run, then merged with those of calls that are over. Blocking."""
        pending: list[Event] = []
        # In this order: what is settled between the two looks is seen twice, not never.
        if wanted.state in (None, QUEUED, RUNNING) and wanted.type in (None, "async"):
            pending = self._queue.search(wanted, limit)
        over = self._recorder.search(wanted, limit) if wanted.state in (None, *FINAL_STATES) else []
        if not pending:
            return over
        known = {record["request_id"] for record in over}  # settled between the two looks
        shown = [pending_record(event) for event in pending if event.request_id not in known]
        return sorted([*shown, *over], key=lambda record: str(record["created_at"]), reverse=True)[:limit]

    def outlines(self, function: str, namespace: str, *, since: float, until: float, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` records of calls made between two moments, newest first, pending ones too; no results, no logs. Blocking."""
        # In this order: what is settled between the two looks is seen twice, not never.
        pending = self._queue.search(Filter(namespace, function, since=since, until=until), limit)
        over = self._recorder.outlines(function, namespace, since=since, until=until, limit=limit)
        known = {record["request_id"] for record in over}
        shown = [pending_record(event) for event in pending if event.request_id not in known]
        return sorted([*shown, *over], key=lambda record: str(record["created_at"]), reverse=True)[:limit] if shown else over

    async def ended(self, request_id: str, timeout_seconds: float, look: Callable[[], bool] = lambda: True) -> dict[str, Any] | None:
        """The record once it is final, or as it is after that time; earlier where `look` says that waiting has no sense any more."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while True:
            # Asked for before looking: what ends in between is told.
            told = self._wait_for(request_id)
            try:
                record = await self.record(request_id)
                left = deadline - loop.time()
                if record is None or record["state"] in FINAL_STATES or left <= 0 or not look():
                    return record
                with suppress(TimeoutError):
                    await asyncio.wait_for(told, min(left, LOOK_SECONDS))
            finally:
                self._forget(request_id, told)

    async def cancel(self, request_id: str) -> Event | None:
        """Cancel a waiting event, or have a running one stopped, which takes a moment; None where there is no such event."""
        event = await self._threads.run(self._cancel, request_id)
        if event is not None and event.owner != "cancel":
            await self._threads.run(self.tell_dispatchers, wake.CANCEL)
        return event

    def _cancel(self, request_id: str) -> Event | None:
        if not request_id.isprintable():
            return None
        now = time.time()
        event = self._queue.cancel(request_id, now=now)
        if event is not None and event.state == RUNNING and event.owner == "cancel":
            settings = self._configs.recent(event.function, event.namespace)
            self._queue.settle([attempts.cancellation(event, settings, now=now)])
            self._mailbox.tell_done([request_id])
        return event

    # -- waiting --------------------------------------------------------------------------------------------------------------

    def _wait_for(self, request_id: str) -> asyncio.Future[None]:
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(request_id, set()).add(told)
        return told

    def _forget(self, request_id: str, told: asyncio.Future[None]) -> None:
        waiting = self._waiters.get(request_id)
        if waiting is not None:
            waiting.discard(told)
            if not waiting:
                del self._waiters[request_id]

    def _told(self, message: bytes) -> None:
        if self._waiters and message.startswith(wake.DONE):
            for word in message[len(wake.DONE) :].split():
                for told in self._waiters.get(word.decode(errors="replace"), ()):
                    if not told.done():
                        told.set_result(None)
