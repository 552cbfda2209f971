"""The queue's transactions, one method each. Blocking; raises SQLAlchemyError. Nothing here runs a call, waits or keeps state.

On SQLite writers follow each other; on PostgreSQL claims skip the rows that others hold. Times come from the caller, in seconds since
the epoch: dispatchers on several machines need clocks that agree to well within a lease.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Engine, Table, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from sandbox.settings import Settings
from server.errors import QueueFull
from server.events.model import QUEUED, RUNNING, Depth, Event, LaneWork, NewEvent, Settlement, lane_of
from server.records.ids import new_request_id
from server.records.journal import Journal
from server.records.model import Filter, to_row
from server.store.engine import writing
from server.store.tables import dead_letters, event_keys, event_outcomes, events

#: So close to the limit every batch counts anew; further away a count may be this old.
NEAR_LIMIT: Final = 5000
COUNT_SECONDS: Final = 1.0

_c = events.c
_INSERT: Final = insert(events)
#: A claimed row is settled only by who claimed it, and only while it still has it.
_MINE: Final = and_(_c.request_id == bindparam("mine"), _c.epoch == bindparam("claimed"), _c.state == RUNNING)
_DELETE: Final = delete(events).where(_MINE)
_RETRY: Final = (
    update(events)
    .where(_MINE, _c.cancelled.is_(False))
    .values(state=QUEUED, due_at=bindparam("due"), tries=bindparam("tried"), attempts=bindparam("listed"), owner="", lease_until=0.0)
)


def put(connection: Connection, event: NewEvent, *, now: float | None = None) -> str:
    """Put an event into the queue within the caller's transaction: it exists once that commits. Its request id, or the one that a known
    idempotency key had. Whether there is room is the caller's business (`check_room`)."""
    now = time.time() if now is None else now
    request_id = event.request_id or new_request_id()
    if event.idempotency_key:
        known = _take_key(connection, event, request_id, now)
        if known != request_id:
            return known
    connection.execute(_INSERT, _row(event, request_id, now))
    return request_id


def _row(event: NewEvent, request_id: str, now: float) -> dict[str, Any]:
    ready_at = max(now, event.not_before)
    return {
        "request_id": request_id,
        "lane": lane_of(event.namespace, event.function),
        "qualifier": event.qualifier,
        "state": QUEUED,
        "due_at": ready_at,
        "payload": event.payload,
        "source": event.source,
        "trigger": event.trigger,
        "caused_by": event.caused_by,
        "hops": event.hops,
        "created_at": now,
        "ready_at": ready_at,
        "tries": 0,
        "attempts": "[]",
        "epoch": 0,
        "owner": "",
        "lease_until": 0.0,
        "claimed_at": None,
        "cancelled": False,
        "routing_key": orjson.dumps(event.routing_key).decode() if event.routing_key else "",
    }


def _take_key(connection: Connection, event: NewEvent, request_id: str, now: float) -> str:
    """The request that has this key now: ours, unless another came first."""
    lane = lane_of(event.namespace, event.function)
    values = {"lane": lane, "key": event.idempotency_key, "request_id": request_id, "created_at": now}
    if insert_if_new(connection, event_keys, values):
        return request_id
    query = select(event_keys.c.request_id).where(event_keys.c.lane == lane, event_keys.c.key == event.idempotency_key)
    known: str = connection.execute(query).scalar_one()
    return known


def insert_if_new(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless its key is there already, perhaps by a transaction that ends just now; whether it was new."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    # Not by the row count: drivers count what was not inserted in their own ways.
    statement = dialect.insert(table).values(values).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return connection.execute(statement).first() is not None


class EventQueue:
    """The whole queue. One for a process; its methods may run in several threads."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._limit = settings.limit_queued_events
        self._journal = Journal(engine)
        self._counted, self._counted_at = 0, float("-inf")

    # -- putting ------------------------------------------------------------------------------------------------------------

    def accept(self, batch: Sequence[NewEvent], *, now: float | None = None) -> list[str | QueueFull]:
        """Put many in one commit; for each its request id, or that there was no room for it. On disk when this returns."""
        now = time.time() if now is None else now
        with writing(self._engine) as connection:
            room = self._room(connection)
            answers: list[str | QueueFull] = []
            rows = []
            for event in batch:
                if room <= 0:
                    answers.append(self._full())
                elif event.idempotency_key:
                    answers.append(put(connection, event, now=now))
                    room -= 1
                else:
                    rows.append(_row(event, event.request_id or new_request_id(), now))
                    answers.append(rows[-1]["request_id"])
                    room -= 1
            if rows:
                connection.execute(_INSERT, rows)
        self._counted += len(batch)
        return answers

    def check_room(self, connection: Connection, needed: int = 1) -> None:
        """Raises QueueFull where there is no room for so many."""
        if self._room(connection) < needed:
            raise self._full()

    def _room(self, connection: Connection) -> int:
        fresh = time.monotonic() - self._counted_at < COUNT_SECONDS
        if not fresh or self._limit - self._counted < NEAR_LIMIT:
            self._counted = connection.execute(select(func.count()).select_from(events)).scalar_one()
            self._counted_at = time.monotonic()
        return self._limit - self._counted

    def _full(self) -> QueueFull:
        return QueueFull(f"{self._limit} events wait or run, the queue is full", hint="try again, or raise the setting limit_queued_events")

    # -- claiming -----------------------------------------------------------------------------------------------------------

    def lanes(self) -> list[LaneWork]:
        """Every function with waiting events, and when its earliest is due. Costs a look-up for each function, however many wait."""
        # A skip scan: each step finds the next lane by the index.
        first = select(func.min(_c.lane).label("lane")).where(_c.state == QUEUED).cte("lanes", recursive=True)
        following = select(func.min(_c.lane)).where(_c.state == QUEUED, _c.lane > first.c.lane).scalar_subquery()
        lanes = first.union_all(select(following).where(first.c.lane.is_not(None)))
        earliest = select(func.min(_c.due_at)).where(_c.state == QUEUED, _c.lane == lanes.c.lane).scalar_subquery()
        with self._engine.connect() as connection:
            return [LaneWork(*row) for row in connection.execute(select(lanes.c.lane, earliest).where(lanes.c.lane.is_not(None)))]

    def claim(self, wants: Mapping[str, int], owner: str, *, now: float, lease_until: float) -> list[Event]:
        """Take up to so many due events of each lane, the longest due first; they are `owner`'s until `lease_until`."""
        with writing(self._engine) as connection:
            found = [event for lane, count in wants.items() for event in _due(connection, lane, count, now)]
            if found:
                mine = _c.request_id.in_([event.request_id for event in found])
                values = {"state": RUNNING, "epoch": _c.epoch + 1, "owner": owner, "lease_until": lease_until, "claimed_at": now}
                connection.execute(update(events).where(mine).values(values))
        return [
            replace(event, epoch=event.epoch + 1, state=RUNNING, owner=owner, lease_until=lease_until, claimed_at=now) for event in found
        ]

    def extend(self, owner: str, lease_until: float) -> dict[str, tuple[int, bool]]:
        """Prolong all leases of `owner`; what it still has: request id → (epoch, whether it is to be cancelled)."""
        with writing(self._engine) as connection:
            mine = (_c.owner == owner, _c.state == RUNNING)
            connection.execute(update(events).where(*mine).values(lease_until=lease_until))
            rows = connection.execute(select(_c.request_id, _c.epoch, _c.cancelled).where(*mine))
            return {row.request_id: (row.epoch, row.cancelled) for row in rows}

    def to_cancel(self, owner: str) -> list[str]:
        """Which of its events `owner` is asked to stop."""
        query = select(_c.request_id).where(_c.state == RUNNING, _c.owner == owner, _c.cancelled.is_(True))
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def lost(self, *, now: float, but: str, dead: Iterable[str] = ()) -> list[Event]:
        """Running events of others whose lease is over, or whose owner is known to be dead. `settle` takes them from it."""
        gone = or_(_c.lease_until < now, _c.owner.in_(list(dead)))
        with self._engine.connect() as connection:
            return [Event.from_row(row) for row in connection.execute(select(events).where(_c.state == RUNNING, _c.owner != but, gone))]

    # -- settling -----------------------------------------------------------------------------------------------------------

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """All of it in one commit: rows go or wait again, records, dead letters and counts come. False for each whose lease was lost to
        somebody else, or whose event was cancelled meanwhile and so can't be tried again: nothing of it was done."""
        with writing(self._engine) as connection:
            done = [self._settle_row(connection, settlement) for settlement in settlements]
            settled = [settlement for settlement, was_mine in zip(settlements, done, strict=True) if was_mine]
            self._journal.add(
                connection,
                [to_row(settlement.record) for settlement in settled if settlement.record is not None],
                [settlement.usage for settlement in settled if settlement.usage is not None],
            )
            dead = [settlement.dead for settlement in settled if settlement.dead is not None]
            if dead:
                connection.execute(insert(dead_letters), dead)
            _count_outcomes(connection, settled)
        self._counted_at = float("-inf") if settled else self._counted_at
        return done

    def _settle_row(self, connection: Connection, settlement: Settlement) -> bool:
        mine = {"mine": settlement.event.request_id, "claimed": settlement.event.epoch}
        if settlement.record is not None:
            return bool(connection.execute(_DELETE, mine).rowcount)
        again = {"due": settlement.due_at, "tried": settlement.tries, "listed": orjson.dumps(settlement.attempts).decode()}
        return bool(connection.execute(_RETRY, mine | again).rowcount)

    def cancel(self, request_id: str, *, now: float) -> Event | None:
        """Claim a waiting event for its cancellation, which `settle` completes, or ask a running one's dispatcher to stop it: the event as
        it is now, `cancelled` set. None where there is none."""
        with writing(self._engine) as connection:
            row = connection.execute(select(events).where(_c.request_id == request_id).with_for_update()).one_or_none()
            if row is None:
                return None
            event = Event.from_row(row)
            changes: dict[str, Any] = {"cancelled": True}
            if event.state == QUEUED:
                changes |= {"state": RUNNING, "epoch": event.epoch + 1, "owner": "cancel", "lease_until": now}
            connection.execute(update(events).where(_c.request_id == request_id).values(changes))
        return replace(event, **changes)

    # -- looking ------------------------------------------------------------------------------------------------------------

    def get(self, request_id: str) -> Event | None:
        with self._engine.connect() as connection:
            row = connection.execute(select(events).where(_c.request_id == request_id)).one_or_none()
        return None if row is None else Event.from_row(row)

    def search(self, wanted: Filter, limit: int) -> list[Event]:
        """Waiting and running events, newest first."""
        query = select(events).where(*_conditions(wanted)).order_by(_c.seq.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [Event.from_row(row) for row in connection.execute(query)]

    def depths(self) -> list[Depth]:
        """What waits and runs, by function."""
        query = select(_c.lane, _c.state, func.count(), func.min(_c.ready_at)).group_by(_c.lane, _c.state)
        found: dict[str, dict[str, tuple[int, float]]] = {}
        with self._engine.connect() as connection:
            for lane, state, count, oldest in connection.execute(query):
                found.setdefault(lane, {})[state] = (count, oldest)
        return [
            Depth(lane, by.get(QUEUED, (0, 0.0))[0], by.get(RUNNING, (0, 0.0))[0], by[QUEUED][1] if QUEUED in by else None)
            for lane, by in sorted(found.items())
        ]

    def outcomes(self) -> list[tuple[str, str, int, int]]:
        """(lane, outcome, SCF status, how many attempts), since ever."""
        columns = event_outcomes.c
        with self._engine.connect() as connection:
            rows = connection.execute(select(columns.lane, columns.outcome, columns.status, columns.count))
            return [(row.lane, row.outcome, row.status, row[3]) for row in rows]

    def forget_keys(self, before: float) -> int:
        """Drop idempotency keys that came before that moment."""
        with writing(self._engine) as connection:
            return connection.execute(delete(event_keys).where(event_keys.c.created_at < before)).rowcount


def _due(connection: Connection, lane: str, count: int, now: float) -> list[Event]:
    query = select(events).where(_c.state == QUEUED, _c.lane == lane, _c.due_at <= now).order_by(_c.due_at, _c.seq).limit(count)
    return [Event.from_row(row) for row in connection.execute(query.with_for_update(skip_locked=True))]


def _conditions(wanted: Filter) -> Iterable[ColumnElement[bool]]:
    if wanted.namespace is not None and wanted.function is not None:
        yield _c.lane == lane_of(wanted.namespace, wanted.function)
    elif wanted.namespace is not None:
        yield _c.lane.startswith(f"{wanted.namespace}/", autoescape=True)
    if wanted.state is not None:
        yield _c.state == wanted.state
    if wanted.since is not None:
        yield _c.created_at >= wanted.since
    if wanted.until is not None:
        yield _c.created_at < wanted.until


def _count_outcomes(connection: Connection, settled: Sequence[Settlement]) -> None:
    sums: dict[tuple[str, str, int], int] = {}
    for settlement in settled:
        key = (settlement.event.lane, settlement.outcome, settlement.status)
        sums[key] = sums.get(key, 0) + 1
    columns = event_outcomes.c
    for (lane, outcome, status), count in sums.items():
        same = and_(columns.lane == lane, columns.outcome == outcome, columns.status == status)
        # Nobody else inserts between the two: settling holds the counter of records.
        if not connection.execute(update(event_outcomes).where(same).values({"count": columns["count"] + count})).rowcount:
            connection.execute(insert(event_outcomes).values(lane=lane, outcome=outcome, status=status, count=count))
