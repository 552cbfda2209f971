"""Dead letters: events that ended badly. Every one is kept here, also one that has a target of its own, until it is sent again or purged.

delivery    none ─ no target · pending ─ the dispatcher brings it there · delivered · failed ─ after so many tries
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, Connection, Engine, Row, delete, func, select, update

from sandbox.settings import Settings
from server.errors import NotFound
from server.events.model import Event, EventSettings, NewEvent, lane_of
from server.events.queue import EventQueue, put
from server.store.engine import writing
from server.store.tables import dead_letters
from server.store.times import rfc3339

PENDING: Final = "pending"
#: A delivery that fails is tried so often, one retry interval apart.
MOST_DELIVERIES: Final = 10
#: How long a delivery may take before another dispatcher tries it.
DELIVERY_SECONDS: Final = 60.0
#: SCF's names of what made a request.
SOURCES: Final = {
    "client": "INVOKE",
    "resend": "INVOKE",
    "dead-letter": "INVOKE",
    "timer": "TRIGGER_TIMER",
    "cos": "TRIGGER_COS",
    "http": "TRIGGER_HTTP",
}

_c = dead_letters.c


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row of `dead_letters`. `retries`: attempts that failed, the first not counted; times in seconds since the epoch."""

    request_id: str
    lane: str
    qualifier: str
    source: str
    trigger: str
    hops: int
    state: str
    status: int
    error: str
    retries: int
    payload: bytes
    created_at: float
    died_at: float
    target_type: str
    target: str
    delivery: str
    deliveries: int
    deliver_at: float

    @property
    def namespace(self) -> str:
        return self.lane.partition("/")[0]

    @property
    def function(self) -> str:
        return self.lane.partition("/")[2]

    @classmethod
    def from_row(cls, row: Row[Any]) -> DeadLetter:
        values = dict(row._mapping)
        del values["seq"]
        return cls(**{**values, "payload": bytes(values["payload"])})

    def to_json(self, *, payload: bool) -> dict[str, Any]:
        """REST's shape; the event itself only on demand."""
        target = None if self.target_type == "none" else {"type": self.target_type, "target": self.target}
        shown = {
            "request_id": self.request_id,
            "function": self.function,
            "namespace": self.namespace,
            "qualifier": self.qualifier,
            "source": self.source,
            "trigger": self.trigger or None,
            "state": self.state,
            "status": self.status,
            "error": orjson.loads(self.error),
            "retries": self.retries,
            "event_bytes": len(self.payload),
            "created_at": rfc3339(self.created_at),
            "died_at": rfc3339(self.died_at),
            "dead_letter": target,
            "delivery": self.delivery,
        }
        return shown | ({"event": self.payload.decode(errors="replace")} if payload else {})


def row_of(
    event: Event, settings: EventSettings, *, state: str, status: int, error: dict[str, Any], retries: int, now: float
) -> dict[str, Any]:
    """The row that an event leaves when it ends badly."""
    return {
        "request_id": event.request_id,
        "lane": event.lane,
        "qualifier": event.qualifier,
        "source": event.source,
        "trigger": event.trigger,
        "hops": event.hops,
        "state": state,
        "status": status,
        "error": orjson.dumps(error).decode(),
        "retries": retries,
        "payload": event.payload,
        "created_at": event.created_at,
        "died_at": now,
        "target_type": settings.target_type,
        "target": settings.target,
        "delivery": "none" if settings.target_type == "none" else PENDING,
        "deliveries": 0,
        "deliver_at": now,
    }


def message(letter: DeadLetter) -> dict[str, Any]:
    """SCF's form of a dead letter (scf-interface.md section 9)."""
    error = orjson.loads(letter.error)
    pushed = datetime.fromtimestamp(letter.died_at, UTC).astimezone()
    return {
        "RequestId": letter.request_id,
        "ErrorCode": -1,
        "ErrorMessage": error.get("stack_trace") or error.get("message", ""),
        "Body": {
            "AppId": 0,
            "Uin": "",
            "SubAccountUin": "",
            "RequestSource": SOURCES.get(letter.source, f"TRIGGER_{letter.source.upper()}"),
            "FunctionName": letter.function,
            "Namespace": letter.namespace,
            "Qualifier": letter.qualifier,
            "InvocationType": "Event",
            "ClientContext": letter.payload.decode(errors="replace"),
            "LogType": "",
            "TimeStampForInvoker": str(int(letter.created_at * 1000)),
            "RequestId": letter.request_id,
            "PushTime": pushed.isoformat(),
            "RetryNum": letter.retries,
            "Ttl": 0,
        },
    }


class DeadLetters:
    """Blocking. Methods raise ApiErrors and SQLAlchemyError."""

    def __init__(self, engine: Engine, settings: Settings, queue: EventQueue) -> None:
        self._engine, self._settings, self._queue = engine, settings, queue

    def search(self, lane: str | None = None, limit: int = 100, *, namespace: str | None = None) -> list[DeadLetter]:
        """The newest first, of one function or one namespace if given."""
        query = select(dead_letters).where(*_of(lane, namespace)).order_by(_c.seq.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [DeadLetter.from_row(row) for row in connection.execute(query)]

    def get(self, request_id: str) -> DeadLetter:
        """Raises NotFound."""
        with self._engine.connect() as connection:
            return _find(connection, request_id)

    def resend(self, request_id: str) -> str:
        """Put its event into the queue again, in the same commit that takes the letter away; the new event's id. Its record says what
        caused it. Raises NotFound, QueueFull."""
        with writing(self._engine) as connection:
            letter = _find(connection, request_id, lock=True)
            self._queue.check_room(connection)
            event = NewEvent(
                namespace=letter.namespace,
                function=letter.function,
                qualifier=letter.qualifier,
                payload=letter.payload,
                source="resend",
                trigger=letter.trigger,
                caused_by=letter.request_id,
                hops=letter.hops,
            )
            new_id = put(connection, event)
            connection.execute(delete(dead_letters).where(_c.request_id == request_id))
        return new_id

    def purge(self, request_id: str) -> None:
        """Drop one. Raises NotFound."""
        with writing(self._engine) as connection:
            if not connection.execute(delete(dead_letters).where(_c.request_id == request_id)).rowcount:
                raise missing(request_id)

    def purge_all(self, lane: str | None = None, *, namespace: str | None = None, before: float | None = None) -> int:
        """Drop all, of one function, of one namespace or older than a moment if given; how many."""
        query = delete(dead_letters).where(*_of(lane, namespace))
        if before is not None:
            query = query.where(_c.died_at < before)
        with writing(self._engine) as connection:
            return connection.execute(query).rowcount

    def count(self) -> dict[str, int]:
        """How many by lane."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(_c.lane, func.count()).group_by(_c.lane))
            return {row[0]: row[1] for row in rows}

    # -- for the dispatcher -------------------------------------------------------------------------------------------------

    def take_pending(self, limit: int, *, now: float) -> list[DeadLetter]:
        """Letters to deliver, which nobody else gets for a while."""
        query = select(dead_letters).where(_c.delivery == PENDING, _c.deliver_at <= now).order_by(_c.deliver_at, _c.seq).limit(limit)
        with self._engine.connect() as connection:  # nearly always there are none: not worth the lock for writing
            if connection.execute(query.with_only_columns(_c.seq)).first() is None:
                return []
        with writing(self._engine) as connection:
            found = [DeadLetter.from_row(row) for row in connection.execute(query.with_for_update(skip_locked=True))]
            taken = _c.request_id.in_([letter.request_id for letter in found])
            connection.execute(update(dead_letters).where(taken).values(deliver_at=now + DELIVERY_SECONDS, deliveries=_c.deliveries + 1))
        return found

    def delivered(self, letters: Sequence[DeadLetter]) -> None:
        with writing(self._engine) as connection:
            _mark(connection, letters, delivery="delivered")

    def not_delivered(self, letters: Sequence[DeadLetter], *, now: float) -> None:
        """Try these again later, or never where they have been tried often enough."""
        with writing(self._engine) as connection:
            for letter in letters:
                if letter.deliveries + 1 >= MOST_DELIVERIES:
                    _mark(connection, [letter], delivery="failed")
                else:
                    _mark(connection, [letter], deliver_at=now + self._settings.event_retry_seconds)

    def hand_to_function(self, letter: DeadLetter) -> None:
        """Deliver to another function: its event and the mark are one commit."""
        event = NewEvent(
            namespace=letter.namespace,
            function=letter.target,
            payload=orjson.dumps(message(letter)),
            source="dead-letter",
            trigger=letter.function,
            caused_by=letter.request_id,
            hops=letter.hops + 1,
        )
        with writing(self._engine) as connection:
            same = (_c.request_id == letter.request_id, _c.delivery == PENDING)
            if connection.execute(update(dead_letters).where(*same).values(delivery="delivered")).rowcount:
                put(connection, event)


def missing(request_id: str) -> NotFound:
    return NotFound(f"no dead letter {request_id[:80]!a}", code="dead_letter_not_found", hint="GET /v1/dead-letters lists what there is")


def _mark(connection: Connection, letters: Sequence[DeadLetter], **values: Any) -> None:
    ids = [letter.request_id for letter in letters]
    connection.execute(update(dead_letters).where(_c.request_id.in_(ids), _c.delivery == PENDING).values(**values))


def _of(lane: str | None, namespace: str | None) -> list[ColumnElement[bool]]:
    found = [] if lane is None else [_c.lane == lane]
    return found if namespace is None else [*found, _c.lane.startswith(lane_of(namespace, ""), autoescape=True)]


def _find(connection: Connection, request_id: str, *, lock: bool = False) -> DeadLetter:
    if not request_id.isprintable():
        raise missing(request_id)  # nothing a database should be asked for
    query = select(dead_letters).where(_c.request_id == request_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise missing(request_id)
    return DeadLetter.from_row(row)
