"""From a notification to the events of the functions that wait for it: all of its records in one commit, none twice. Blocking.

A sender that hears nothing sends again, so each event's idempotency key is made of what identifies its record: for as long as the key is
known (the setting keep_idempotency_hours) the same record makes no second event of a function.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection, Engine, select

from sandbox.settings import Settings
from server.errors import SCF_EVENT_TOO_LARGE, PayloadTooLarge
from server.events.model import NewEvent
from server.events.queue import EventQueue, put
from server.notifications.s3 import Notified
from server.records.ids import new_request_id
from server.store.engine import writing
from server.store.tables import triggers
from server.triggers.kinds import OBJECT
from server.triggers.model import Trigger
from server.triggers.objects import ObjectChange, ObjectRule, event_body, matches

SOURCE: Final = "cos"


@dataclass(frozen=True, slots=True)
class Receipt:
    """`request_ids`: of the events that the records have made, now or when they came the first time; `ignored` records made none."""

    records: int
    ignored: int
    request_ids: list[str]


class Inbox:
    def __init__(self, engine: Engine, settings: Settings, queue: EventQueue, *, clock: Callable[[], float] = time.time) -> None:
        self._engine, self._queue, self._clock = engine, queue, clock
        self._region, self._limit_bytes = settings.region, settings.limit_async_event_bytes

    def take(self, source: str, records: Sequence[Notified | None]) -> Receipt:
        """On disk when this returns. Raises PayloadTooLarge, QueueFull, SQLAlchemyError: then nothing of it has happened."""
        if not any(records):
            return Receipt(len(records), len(records), [])
        with writing(self._engine) as connection:
            bound = _triggers(connection, source)
            made = [self._events(bound, source, record) if record is not None else [] for record in records]
            events = [event for found in made for event in found]
            self._queue.check_room(connection, len(events))
            now = self._clock()
            request_ids = [put(connection, event, now=now) for event in events]
        return Receipt(len(records), made.count([]), list(dict.fromkeys(request_ids)))

    def _events(self, bound: Sequence[Trigger], source: str, record: Notified) -> list[NewEvent]:
        change = record.change
        return [
            self._event(trigger, source, change, record.identity)
            for trigger in bound
            if trigger.config["bucket"] == change.bucket and matches(ObjectRule.of_config(trigger.config), change.event, change.key)
        ]

    def _event(self, trigger: Trigger, source: str, change: ObjectChange, identity: str) -> NewEvent:
        request_id = new_request_id()
        told = replace(change, request_id=change.request_id or request_id, at=change.at or self._clock())
        payload = event_body(told, region=self._region, namespace=trigger.namespace, function=trigger.function, qualifier=trigger.qualifier)
        if len(payload) > self._limit_bytes:
            raise PayloadTooLarge(f"an event is over the limit of {self._limit_bytes} bytes", scf_status=SCF_EVENT_TOO_LARGE)
        return NewEvent(
            namespace=trigger.namespace,
            function=trigger.function,
            qualifier=trigger.qualifier,
            payload=payload,
            source=SOURCE,
            trigger=trigger.name,
            idempotency_key=f"notified:{source}:{identity}" if identity else "",
            request_id=request_id,
        )


def _triggers(connection: Connection, source: str) -> list[Trigger]:
    query = select(triggers).where(triggers.c.type == OBJECT, triggers.c.enabled.is_(True)).order_by(triggers.c.trigger_id)
    found = [Trigger.from_row(row) for row in connection.execute(query).mappings()]
    return [trigger for trigger in found if trigger.config.get("source") == source]
