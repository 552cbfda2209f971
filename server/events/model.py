"""Events as data: what is put, what a dispatcher claims, what becomes of it, and how a pending one is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson
from sqlalchemy import Row

from server.functions.model import LATEST
from server.functions.routing import NO_KEY, RoutingKey, no_key
from server.records.model import UsageRow, new_record
from server.store.times import rfc3339

QUEUED: Final = "queued"
RUNNING: Final = "running"
#: SCF's "running" (section 4.5): what a pending record shows as its status.
ACCEPTED: Final = 202
#: Calls that led to each other: what a function makes happen that makes it run again stops here.
MAX_HOPS: Final = 16

Outcome = Literal["succeeded", "failed", "cancelled", "expired", "retried"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event to put into the queue.

    `payload` is JSON text. `source`: "client", or what made it: "timer", "cos", "http", "resend", "dead-letter"; `trigger` is that
    trigger's name, `caused_by` the request that led to it, `hops` how many events led to each other before it. `not_before`, seconds
    since the epoch, delays it. `request_id` is made when empty. A known `idempotency_key` of the same function puts nothing.
    `routing_key` is what its caller says to an alias.
    """

    namespace: str
    function: str
    payload: bytes
    qualifier: str = LATEST
    source: str = "client"
    trigger: str = ""
    caused_by: str = ""
    hops: int = 0
    idempotency_key: str = ""
    not_before: float = 0.0
    request_id: str = ""
    routing_key: RoutingKey = field(default_factory=no_key)


@dataclass(frozen=True, slots=True)
class Event:
    """A row of `events`. Times in seconds since the epoch: `ready_at` is when it was accepted or what it was delayed to, `due_at` when the
    next attempt may begin. `tries` counts attempts that ended in an error of the function."""

    request_id: str
    lane: str
    qualifier: str
    state: str
    due_at: float
    payload: bytes
    source: str
    trigger: str
    caused_by: str
    hops: int
    created_at: float
    ready_at: float
    tries: int
    attempts: list[dict[str, Any]]
    epoch: int
    owner: str
    lease_until: float
    claimed_at: float | None
    cancelled: bool
    routing_key: RoutingKey = field(default_factory=no_key)

    @property
    def namespace(self) -> str:
        return self.lane.partition("/")[0]

    @property
    def function(self) -> str:
        return self.lane.partition("/")[2]

    @classmethod
    def from_row(cls, row: Row[Any]) -> Event:
        values = dict(row._mapping)
        del values["seq"]
        return cls(
            **{
                **values,
                "payload": bytes(values["payload"]),
                "attempts": orjson.loads(values["attempts"]),
                "routing_key": _routing_key(values["routing_key"]),
            }
        )


@dataclass(slots=True, kw_only=True)
class Settlement:
    """What one attempt came to. Either `record` (it is over) or `due_at` (it is tried again then).

    `attempts` is the whole list, this one included; `tries` the new count. `dead` is the row of `dead_letters`, where it became one.
    """

    event: Event
    outcome: Outcome
    status: int
    attempts: list[dict[str, Any]]
    due_at: float = 0.0
    tries: int = 0
    record: dict[str, Any] | None = None
    dead: dict[str, Any] | None = None
    usage: UsageRow | None = None


@dataclass(frozen=True, slots=True)
class EventSettings:
    """A function's event settings: further attempts after its own errors, longest wait in seconds, where its dead letters go."""

    retries: int
    ttl: int
    target_type: Literal["none", "file", "url", "function"] = "none"
    target: str = ""


@dataclass(slots=True)
class LaneWork:
    """What waits of one function: when the earliest is due."""

    lane: str
    due_at: float


@dataclass(frozen=True, slots=True)
class Depth:
    """Of one function: how many wait, how many run, and since when the oldest could have begun."""

    lane: str
    queued: int
    running: int
    oldest: float | None = field(default=None)


def _routing_key(text: str) -> RoutingKey:
    return orjson.loads(text) if text else NO_KEY


def lane_of(namespace: str, function: str) -> str:
    return f"{namespace}/{function}"


def queue_ms(event: Event, began_at: float) -> float:
    """From when it could have begun until an attempt that really ran began."""
    return max(0.0, began_at - event.ready_at) * 1000


def common_fields(event: Event) -> dict[str, Any]:
    """The part of a record that does not depend on how it went."""
    return {
        "qualifier": event.qualifier,
        "type": "async",
        "source": event.source,
        "trigger": event.trigger or None,
        "caused_by": event.caused_by or None,
        "hops": event.hops,
        "created_at": event.created_at,
    }


def pending_record(event: Event) -> dict[str, Any]:
    """The record of an event that waits or runs, with times as REST shows them."""
    shown = new_record(
        event.request_id,
        event.function,
        event.namespace,
        state=event.state,
        status=ACCEPTED,
        started_at=event.claimed_at if event.state == RUNNING else None,
        attempts=event.attempts,
        due_at=rfc3339(event.due_at) if event.state == QUEUED else None,
        **common_fields(event),
    )
    shown["created_at"] = rfc3339(event.created_at)
    shown["started_at"] = None if shown["started_at"] is None else rfc3339(shown["started_at"])
    return shown


def final_record(event: Event, *, state: str, status: int, attempts: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """The record of an event that is over, as `Recorder` takes it. `fields` are those of the last attempt's record."""
    return new_record(
        event.request_id,
        event.function,
        event.namespace,
        **{**fields, **common_fields(event)},
        state=state,
        status=status,
        attempts=attempts,
    )


def error_fields(code: str, message: str) -> Mapping[str, str]:
    return {"code": code, "message": message}
