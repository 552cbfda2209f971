"""Runs what waits: claims events function by function, calls them through the runtime's client as the API does, settles what came.

    _dispatch   lanes ─▶ claim ─▶ one task an event: call ─▶ judge ─▶ settle (group commit) ─▶ wake who waits for the result
    _beat       prolongs the leases, stops what was cancelled or lost, takes over what dead dispatchers had
    _deliver    dead letters to their targets; old keys, dead letters and firings go
Every loop outlives the database's absence. Nothing is claimed while sandboxd is away. A dispatcher that is stopped waits a little for
what runs, then gives it back to the queue.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sqlalchemy.exc import SQLAlchemyError

from sandbox.errors import CallLost, SandboxError, StaleFunction, Unavailable
from sandbox.log import pairs
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec
from server.api.calls import Call, Calls, outcome_of
from server.api.lookup import FunctionCache
from server.api.threads import Threads
from server.errors import ApiError
from server.events import attempts, wake
from server.events.configs import EventConfigs
from server.events.deadletters import DeadLetters
from server.events.delivery import Delivery
from server.events.group import GroupCommit
from server.events.lanes import Lanes, Needs
from server.events.model import MAX_HOPS, Event, EventSettings, Settlement
from server.events.policy import CALLER_ERRORS, CANCELLED, FUNCTION_ERRORS, SUCCESS, Verdict, expired, judge
from server.events.queue import EventQueue
from server.events.wake import Mailbox
from server.triggers.timers import Timers

#: The lease is prolonged so often in its time.
BEATS: Final = 3
DATABASE_RETRY_SECONDS: Final = 1.0
#: So long before a timer's tick its function has a worker, and so long after it.
WARM_SECONDS: Final = 30.0
WARM_AFTER_SECONDS: Final = 10.0
HOUSEKEEPING_SECONDS: Final = 600.0
#: Claimed for a function that nobody knows: the look-up will say so.
UNKNOWN: Final = Needs(concurrency=20, memory_mb=0)

_log = logging.getLogger(__name__)


class Runtime(Protocol):
    """What of `sandbox.client.Client` a dispatcher asks itself; calls go through `Calls`."""

    @property
    def connected(self) -> bool: ...
    async def describe(self) -> dict[str, object]: ...
    async def provision(self, spec: FunctionSpec, number: int, *, purpose: str, seconds: float) -> None: ...


@dataclass(slots=True, eq=False)
class Run:
    """One claimed event on its way. `lost`: somebody else has it now, nothing of ours counts."""

    event: Event
    memory_mb: int
    call: Call | None = None
    cancelled: bool = False
    lost: bool = False
    settling: bool = False

    def cancel(self) -> None:
        self.cancelled = True
        if self.call is not None:
            self.call.cancel()


class Dispatcher:
    """One process's. `run` until `stop`."""

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime,
        *,
        queue: EventQueue,
        configs: EventConfigs,
        letters: DeadLetters,
        timers: Timers,
        calls: Calls,
        functions: FunctionCache,
        mailbox: Mailbox,
        threads: Threads,
        taken_over: Callable[[str], None] = lambda owner: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._runtime = settings, runtime
        self._queue, self._configs, self._letters, self._timers = queue, configs, letters, timers
        self._calls, self._functions, self._mailbox, self._threads, self._clock = calls, functions, mailbox, threads, clock
        self._taken_over = taken_over
        self._lanes = Lanes(settings)
        self._delivery = Delivery(settings, letters, threads)
        self._settler: GroupCommit[Settlement, bool] = GroupCommit("settler", self._commit)
        self._running: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._work = asyncio.Event()
        self._dead = asyncio.Event()
        self._timers_changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._giving_back = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._strays: set[str] = set()
        self._beating: asyncio.Task[None] | None = None
        self.owner = mailbox.name

    # -- life ---------------------------------------------------------------------------------------------------------------

    async def run(self, began: Callable[[], None] = lambda: None) -> None:
        """Until `stop`; then what runs may go on, see `drain`. `began` is called once everything is set up."""
        self._mailbox.open(self._told)
        self._loop = asyncio.get_running_loop()
        self._settler.start()
        loops = [self._dispatch, self._deliver, self._fire, self._warm, self._keep_house]
        # It beats on while what runs comes to its end.
        self._beating = asyncio.create_task(self._whatever_happens(self._beat))
        tasks = [asyncio.create_task(self._whatever_happens(loop)) for loop in loops]
        began()
        try:
            await self._stopping.wait()
        finally:
            await _cancel(tasks)

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping.set()

    def look(self) -> None:
        """There are events that nobody has told of; from any thread, while `run` goes on."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._work.set)
        self._mailbox.tell(wake.DISPATCHER, wake.WORK)

    async def drain(self, seconds: float) -> None:
        """Wait so long for what runs. What does not end is given back when the runtime's client is closed, which ends every call."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)
        self._giving_back = True

    async def close(self) -> None:
        """Once the client is closed: settle what has come back, and go."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=2 * DATABASE_RETRY_SECONDS)
        await _cancel([*self._tasks, *([self._beating] if self._beating else [])])
        await asyncio.to_thread(self._settler.close)
        await self._delivery.close()
        self._mailbox.close()

    def _told(self, message: bytes) -> None:
        if message == wake.WORK:
            self._work.set()
        elif message == wake.CANCEL:
            self._start(self._cancel_asked())
        elif message == wake.TIMERS:
            self._timers.changed.set()
            self._timers_changed.set()

    async def _whatever_happens(self, loop: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await loop()
            except SQLAlchemyError as error:
                _log.error(pairs("the database does not answer", part=loop.__name__, error=str(error).splitlines()[0]))
            except SandboxError as error:
                _log.warning(pairs("the runtime does not answer", part=loop.__name__, error=error.message))
            except Exception:
                _log.exception("a fault in %s", loop.__name__)
            await asyncio.sleep(DATABASE_RETRY_SECONDS)

    # -- dispatching --------------------------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        while True:
            self._work.clear()
            wait_seconds = await self._round()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), wait_seconds)

    async def _round(self) -> float:
        """Claim and begin what there is room for; how long until it is worth another look, if nobody says so."""
        poll = self._settings.event_poll_seconds
        if not self._runtime.connected:
            return min(poll, 0.1)
        work = await self._threads.run(self._queue.lanes)
        now = self._clock()
        needs = {lane.lane: await self._needs(lane.lane) for lane in work if lane.due_at <= now}
        wants = self._lanes.share_out(needs, now) if needs else {}
        if wants:
            lease_until = now + self._settings.event_lease_seconds
            found = await self._threads.run(self._queue.claim, wants, self.owner, now=now, lease_until=lease_until)
            for event in found:
                self._begin(event, needs[event.lane].memory_mb)
            if found:
                return 0.0
        moments = [lane.due_at for lane in work if lane.due_at > now]
        if (pause := self._lanes.pauses_end(now)) is not None:
            moments.append(pause)
        return max(0.0, min([poll, *(moment - now for moment in moments)]))

    async def _needs(self, lane: str) -> Needs:
        try:
            namespace, _, function = lane.partition("/")
            known = await self._functions.find(function, namespace)
        except ApiError:
            return UNKNOWN
        return Needs(known.function.concurrency, known.function.memory)

    def _begin(self, event: Event, memory_mb: int) -> None:
        run = Run(event, memory_mb)
        self._running[event.request_id] = run
        self._lanes.begin(event.lane, memory_mb)
        self._start(self._attempt(run))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a fault in an attempt", exc_info=error)

    async def _attempt(self, run: Run) -> None:
        event = run.event
        try:
            settings = await self._threads.run(self._configs.recent, event.function, event.namespace)
            await self._settle(run, settings, await self._come_to_an_end(run, settings))
        except SQLAlchemyError as error:
            # Nothing was settled: its lease runs out, and it runs again.
            _log.error(pairs("an event could not be settled", request_id=event.request_id, error=str(error).splitlines()[0]))
        finally:
            self._running.pop(event.request_id, None)
            self._lanes.end(event.lane, run.memory_mb)
            self._work.set()

    async def _come_to_an_end(self, run: Run, settings: EventSettings) -> Settlement:
        """Run it, unless it is too late; what became of it."""
        event, now = run.event, self._clock()
        deadline = event.ready_at + settings.ttl
        last = event.attempts[-1]["status"] if event.attempts else None
        if run.cancelled or event.cancelled:
            return attempts.cancellation(event, settings, now=now)
        if expired(last, now=now, deadline=deadline):
            return attempts.expiry(event, settings, now=now)
        if event.hops >= MAX_HOPS:
            return attempts.too_many_hops(event, settings, now=now)
        try:
            known = await self._functions.find(event.function, event.namespace, event.qualifier, event.routing_key)
        except ApiError as error:
            status = error.scf_status or error.status
            record = attempts.of_refusal(error, now=self._clock())
            verdict = self._judge(event, settings, status)
            return attempts.settlement(event, settings, record, status, verdict, memory_mb=0, now=self._clock())
        call = run.call = Call(event.request_id, known, event.qualifier, event.routing_key, hops=event.hops, created_at=event.created_at)
        if run.cancelled:
            return attempts.cancellation(event, settings, now=self._clock())
        await self._calls.perform(call, event.payload)
        status = self._status(run, call)
        verdict = self._judge(event, settings, status)
        if self._giving_back and isinstance(call.refusal, (CallLost, Unavailable)):
            verdict = Verdict("retried", self._clock(), event.tries)
        record = outcome_of(call, call.status, status).to_record()
        memory_mb = call.known.function.memory
        return attempts.settlement(event, settings, record, status, verdict, memory_mb=memory_mb, now=self._clock())

    def _status(self, run: Run, call: Call) -> int:
        """A call that was told to stop and did not succeed was cancelled, whatever it came to in that moment."""
        return CANCELLED if run.cancelled and call.status != SUCCESS else call.status

    def _judge(self, event: Event, settings: EventSettings, status: int) -> Verdict:
        now = self._clock()
        if status not in (SUCCESS, CANCELLED) and status not in FUNCTION_ERRORS | CALLER_ERRORS:
            self._lanes.pause(event.lane, now)
        return judge(
            status,
            tries=event.tries,
            now=now,
            deadline=event.ready_at + settings.ttl,
            retries=settings.retries,
            interval_seconds=self._settings.event_retry_seconds,
        )

    # -- settling -----------------------------------------------------------------------------------------------------------

    async def _settle(self, run: Run, settings: EventSettings, settlement: Settlement) -> None:
        if run.lost:
            return
        run.settling = True
        if await self._submit(settlement):
            return
        # It was cancelled while it ran and can't be tried again, or somebody else has it.
        now = await self._threads.run(self._queue.get, run.event.request_id)
        if now is not None and now.epoch == run.event.epoch and now.cancelled:
            await self._submit(attempts.cancellation(now, settings, now=self._clock()))
            return
        _log.warning(pairs("an event's lease was lost, its result is not kept", request_id=run.event.request_id))

    async def _submit(self, settlement: Settlement) -> bool:
        """Whether it was ours to settle. Tried again while the database is away, for as long as the lease can last."""
        give_up = time.monotonic() + self._settings.event_lease_seconds
        while True:
            try:
                return await self._settler.submit(settlement)
            except SQLAlchemyError as error:
                _log.error(pairs("settling failed", request_id=settlement.event.request_id, error=str(error).splitlines()[0]))
                if time.monotonic() > give_up:
                    raise
            await asyncio.sleep(DATABASE_RETRY_SECONDS)

    def _commit(self, settlements: Sequence[Settlement]) -> list[bool]:
        """In the settler's thread."""
        done = self._queue.settle(settlements)
        ended = [one.event.request_id for one, mine in zip(settlements, done, strict=True) if mine and one.record is not None]
        if ended:
            self._mailbox.tell_done(ended)
        return done

    # -- leases -------------------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        pause = self._settings.event_lease_seconds / BEATS
        while True:
            await self._prolong()
            await self._take_over()
            await self._learn_capacity()
            await asyncio.sleep(pause)

    async def _prolong(self) -> None:
        before = dict(self._running)
        lease_until = self._clock() + self._settings.event_lease_seconds
        mine = await self._threads.run(self._queue.extend, self.owner, lease_until)
        for request_id, run in before.items():
            if run.settling or self._running.get(request_id) is not run:
                continue
            epoch, cancelled = mine.get(request_id, (-1, False))
            if epoch != run.event.epoch:
                run.lost = True
                _log.warning(pairs("an event's lease was lost, its run is stopped", request_id=request_id))
            if run.lost or cancelled:
                run.cancel()
        await self._give_back_strays(set(mine) - set(self._running))

    async def _give_back_strays(self, ids: set[str]) -> None:
        """Events that are ours and that nobody here runs: settling one failed. Looked at twice, as a claim may just be coming back."""
        again, self._strays = self._strays & ids, ids
        for request_id in again:
            event = await self._threads.run(self._queue.get, request_id)
            if event is not None and event.owner == self.owner:
                await self._submit(attempts.lost(event, now=self._clock()))

    async def _take_over(self) -> None:
        """Events of dispatchers that are dead, or have said nothing for a lease."""
        dead = await self._threads.run(self._mailbox.tell, wake.DISPATCHER, b"")
        found = await self._threads.run(self._queue.lost, now=self._clock(), but=self.owner, dead=dead)
        for event in found:
            now = self._clock()
            settings = await self._threads.run(self._configs.recent, event.function, event.namespace)
            taken = attempts.cancellation(event, settings, now=now) if event.cancelled else attempts.lost(event, now=now)
            if await self._submit(taken):
                _log.warning(pairs("an event was taken from its dispatcher", request_id=event.request_id, dispatcher=event.owner))
                self._work.set()
        for name in dead:
            await self._threads.run(self._taken_over, name)
            self._mailbox.forget(name)

    async def _cancel_asked(self) -> None:
        for request_id in await self._threads.run(self._queue.to_cancel, self.owner):
            if (run := self._running.get(request_id)) is not None:
                run.cancel()

    async def _learn_capacity(self) -> None:
        if not self._runtime.connected:
            return
        capacity = (await self._runtime.describe()).get("capacity")
        if isinstance(capacity, dict) and (bound := capacity.get("capacity_bytes")):
            self._lanes.capacity_mb = bound / (1 << 20)

    # -- beside the calls -----------------------------------------------------------------------------------------------------

    async def _deliver(self) -> None:
        while True:
            if not await self._delivery.run_once():
                await asyncio.sleep(self._settings.event_poll_seconds)

    async def _fire(self) -> None:
        while True:
            fired, wait_seconds = await self._threads.run(self._timers.fire_due, self._clock())
            if fired:
                self._work.set()
                await self._threads.run(self._mailbox.tell, wake.DISPATCHER, wake.WORK)
            self._timers.changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._timers.changed.wait(), min(wait_seconds, self._settings.event_poll_seconds))

    async def _warm(self) -> None:
        """A worker for each timer that ticks soon, kept until a little after its tick."""
        while True:
            self._timers_changed.clear()
            now = self._clock()
            for timer in await self._threads.run(self._timers.upcoming, now, WARM_SECONDS) if self._runtime.connected else []:
                with suppress(ApiError, StaleFunction):  # gone or just changed: the next look, or the call itself, will tell
                    known = await self._functions.find(timer.function, timer.namespace, timer.qualifier)
                    seconds = (timer.next_at or now) - now + WARM_AFTER_SECONDS
                    await self._runtime.provision(known.spec, 1, purpose=f"timer {timer.name}", seconds=seconds)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._timers_changed.wait(), WARM_SECONDS / 3)

    async def _keep_house(self) -> None:
        while True:
            now = self._clock()
            await self._threads.run(self._queue.forget_keys, now - self._settings.keep_idempotency_hours * 3600)
            await self._threads.run(self._letters.purge_all, before=now - self._settings.keep_dead_letters_days * 86_400)
            await self._threads.run(self._timers.forget_firings, now)
            await asyncio.sleep(HOUSEKEEPING_SECONDS)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
