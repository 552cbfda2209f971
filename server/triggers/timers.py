"""Timers: each tick becomes one event, whichever dispatcher gets there first.

A timer's row knows its next tick. Who finds it due writes the tick into `firings`, whose key makes it one, puts the event and moves the row
on, all in one commit. What was missed while nothing ran:

    a tick that is at most LATE_SECONDS late       fires, each of them
    ticks missed for longer                        one firing for the latest, if it is younger than `timer_catch_up_seconds`; else none
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

import orjson
from sqlalchemy import Connection, Engine, delete, func, select, update

from sandbox.log import pairs
from sandbox.settings import Settings
from server.events.model import NewEvent
from server.events.queue import insert_if_new, put
from server.records.ids import new_request_id
from server.store.engine import writing
from server.store.tables import firings, triggers
from server.triggers import cron
from server.triggers.kinds import TIMER, TimerKind
from server.triggers.model import Trigger

LATE_SECONDS: Final = 10.0
#: Timers of one commit.
AT_ONCE: Final = 200
KEEP_FIRINGS_SECONDS: Final = 86_400.0
#: Nothing known to come: looked at again then.
IDLE_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


class Timers:
    """Blocking but for `changed`, which its dispatcher's loop waits for."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._catch_up = settings.timer_catch_up_seconds
        self._kind = TimerKind(settings)
        self.changed = asyncio.Event()

    def fire_due(self, now: float) -> tuple[int, float]:
        """Fire what is due; how many events that made, and how long until the next tick is."""
        fired = 0
        if self._wait_seconds(now) <= 0:
            with writing(self._engine) as connection:
                query = select(triggers).where(triggers.c.next_at <= now, triggers.c.enabled.is_(True), triggers.c.type == TIMER)
                rows = connection.execute(query.order_by(triggers.c.next_at).limit(AT_ONCE).with_for_update(skip_locked=True)).mappings()
                for row in rows.all():
                    fired += self._fire(connection, Trigger.from_row(row), now)
        return fired, max(0.0, self._wait_seconds(now))

    def upcoming(self, now: float, within_seconds: float) -> list[Trigger]:
        """Timers that tick so soon: whose function's worker may be made warm."""
        soon = (triggers.c.next_at > now, triggers.c.next_at <= now + within_seconds)
        query = select(triggers).where(*soon, triggers.c.enabled.is_(True), triggers.c.type == TIMER).order_by(triggers.c.next_at)
        with self._engine.connect() as connection:
            return [Trigger.from_row(row) for row in connection.execute(query).mappings()]

    def forget_firings(self, now: float) -> int:
        """Drop firings that nobody can repeat any more: a row never goes back to a tick behind it."""
        with writing(self._engine) as connection:
            return connection.execute(delete(firings).where(firings.c.fired_at < now - KEEP_FIRINGS_SECONDS)).rowcount

    def _wait_seconds(self, now: float) -> float:
        with self._engine.connect() as connection:
            query = select(func.min(triggers.c.next_at)).where(triggers.c.enabled.is_(True), triggers.c.type == TIMER)
            earliest: float | None = connection.execute(query).scalar_one()
        return IDLE_SECONDS if earliest is None else earliest - now

    def _fire(self, connection: Connection, timer: Trigger, now: float) -> int:
        assert timer.next_at is not None
        expression, zone = cron.parse(timer.config["cron"]), self._kind.zone(timer.config)
        ticks = due_ticks(
            timer.next_at,
            now,
            catch_up_seconds=self._catch_up,
            following=lambda after: expression.next_tick(after, zone),
            latest=lambda since, until: expression.last_tick(since, until, zone),
        )
        fired = sum(_fire_once(connection, timer, tick, now) for tick in ticks)
        moved = expression.next_tick(now, zone)
        connection.execute(update(triggers).where(triggers.c.trigger_id == timer.trigger_id).values(next_at=moved))
        if now - timer.next_at > LATE_SECONDS:
            _log.warning(
                pairs("a timer is late", function=timer.function, trigger=timer.name, late_seconds=round(now - timer.next_at), fired=fired)
            )
        return fired


def due_ticks(
    next_at: float,
    now: float,
    *,
    catch_up_seconds: float,
    following: Callable[[float], float | None],
    latest: Callable[[float, float], float | None],
) -> list[float]:
    """Which of the ticks from `next_at` to `now` fire, by the rule above."""
    if now - next_at > LATE_SECONDS:
        last = latest(next_at, now) or next_at
        return [last] if now - last <= max(catch_up_seconds, LATE_SECONDS) else []
    ticks, tick = [], next_at
    while tick <= now:
        ticks.append(tick)
        after = following(tick)
        if after is None:
            break
        tick = after
    return ticks


def _fire_once(connection: Connection, timer: Trigger, tick: float, now: float) -> int:
    request_id = new_request_id()
    values = {"trigger_id": timer.trigger_id, "tick": tick, "request_id": request_id, "fired_at": now}
    if not insert_if_new(connection, firings, values):
        return 0  # another dispatcher's
    put(connection, event_of(timer, tick, request_id))
    return 1


def event_of(timer: Trigger, tick: float, request_id: str) -> NewEvent:
    """SCF's timer event (scf-interface.md section 8.1); `Time` is the tick in UTC."""
    payload = {
        "Type": "Timer",
        "TriggerName": timer.name,
        "Time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(tick)),
        "Message": timer.config["argument"],
    }
    return NewEvent(
        namespace=timer.namespace,
        function=timer.function,
        qualifier=timer.qualifier,
        payload=orjson.dumps(payload),
        source="timer",
        trigger=timer.name,
        request_id=request_id,
    )
