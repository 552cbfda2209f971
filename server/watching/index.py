"""What is known of watched directories and their files. Blocking; raises SQLAlchemyError.

A directory is its owner's for as long as the lease lasts; whoever writes prolongs it in the same commit, and writes nothing once it is
somebody else's. A file's row and the events of its change are one commit: neither is ever there without the other.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, and_, bindparam, delete, insert, or_, select, update

from sandbox.settings import Settings
from server.events.model import NewEvent
from server.events.queue import EventQueue, insert_if_new, put
from server.records.ids import new_request_id
from server.store.engine import next_numbers, writing
from server.store.tables import FUNCTIONS_COUNTER, triggers, watched_files, watches
from server.triggers.model import Trigger
from server.triggers.objects import ObjectChange, ObjectRule, event_body, matches

DIRECTORY: Final = "directory"
CREATED: Final = "cos:ObjectCreated:Put"
REMOVED: Final = "cos:ObjectRemove:Delete"

_w, _f = watches.c, watched_files.c
_DELETE: Final = delete(watched_files).where(_f.watch_id == bindparam("watch"), _f.digest == bindparam("known"))


class LeaseLost(Exception):
    """The directory is another dispatcher's now."""


@dataclass(frozen=True, slots=True)
class FileState:
    size: int
    mtime_ns: int
    inode: str

    @classmethod
    def of(cls, facts: os.stat_result) -> FileState:
        return cls(facts.st_size, facts.st_mtime_ns, str(facts.st_ino))


@dataclass(frozen=True, slots=True)
class FileChange:
    """`state` None: it is gone, and `size` what it had. A silent one makes no event: it was there before anybody watched."""

    path: bytes
    state: FileState | None
    size: int
    is_silent: bool = False


@dataclass(frozen=True, slots=True)
class WatchRow:
    watch_id: str
    directory: str
    since: float
    inode: str


def register(connection: Connection, directory: str, now: float) -> None:
    """Begin to watch a directory, in the transaction that stores its trigger: what comes from now on counts."""
    with_id = {"watch_id": str(uuid.uuid4()), "directory": directory, "since": now, "inode": "", "owner": "", "lease_until": 0.0}
    if connection.execute(select(_w.watch_id).where(_w.directory == directory)).first() is None:
        insert_if_new(connection, watches, with_id)


class WatchIndex:
    def __init__(self, engine: Engine, settings: Settings, queue: EventQueue) -> None:
        self._engine, self._queue, self._region = engine, queue, settings.region

    def wanted(self) -> list[WatchRow]:
        """The directories that triggers name, enabled or not; what nobody names any more is forgotten."""
        with self._engine.connect() as connection:
            named = {trigger.config["path"] for trigger in _triggers(connection)}
            rows = [WatchRow(*row) for row in connection.execute(select(_w.watch_id, _w.directory, _w.since, _w.inode))]
        if any(row.directory not in named for row in rows):
            self._forget()
        return [row for row in rows if row.directory in named]

    def _forget(self) -> None:
        with writing(self._engine) as connection:
            next_numbers(connection, FUNCTIONS_COUNTER)  # a trigger that is made just now is seen, or makes its row after this
            named = {trigger.config["path"] for trigger in _triggers(connection)}
            for row in connection.execute(select(_w.watch_id, _w.directory)).all():
                if row.directory not in named:
                    connection.execute(delete(watched_files).where(_f.watch_id == row.watch_id))
                    connection.execute(delete(watches).where(_w.watch_id == row.watch_id))

    def acquire(self, watch_id: str, owner: str, *, now: float, lease_until: float) -> WatchRow | None:
        """The directory, taken or prolonged; None where another has it, or it is forgotten."""
        with writing(self._engine) as connection:
            free = and_(_w.watch_id == watch_id, or_(_w.owner == owner, _w.lease_until < now))
            if not connection.execute(update(watches).where(free).values(owner=owner, lease_until=lease_until)).rowcount:
                return None
            query = select(_w.watch_id, _w.directory, _w.since, _w.inode).where(_w.watch_id == watch_id)
            return WatchRow(*connection.execute(query).one())

    def release(self, owner: str) -> None:
        """What a dispatcher had that is dead, or ends."""
        with writing(self._engine) as connection:
            connection.execute(update(watches).where(_w.owner == owner).values(owner="", lease_until=0.0))

    def load(self, watch_id: str) -> dict[bytes, FileState]:
        query = select(_f.path, _f.size, _f.mtime_ns, _f.inode).where(_f.watch_id == watch_id)
        with self._engine.connect() as connection:
            return {bytes(row.path): FileState(row.size, row.mtime_ns, row.inode) for row in connection.execute(query)}

    def commit(self, row: WatchRow, owner: str, changes: Sequence[FileChange], *, inode: str, lease_until: float) -> int:
        """Know these changes, and put the events of those that triggers wait for; how many. Raises LeaseLost, QueueFull."""
        now = time.time()
        with writing(self._engine) as connection:
            mine = and_(_w.watch_id == row.watch_id, _w.owner == owner)
            if not connection.execute(update(watches).where(mine).values(lease_until=lease_until, inode=inode)).rowcount:
                raise LeaseLost
            _know(connection, row.watch_id, changes)
            bound = [trigger for trigger in _triggers(connection) if trigger.enabled and trigger.config["path"] == row.directory]
            events = [event for change in changes if not change.is_silent for event in self._events(bound, row.directory, change, now)]
            self._queue.check_room(connection, len(events)) if events else None
            for event in events:
                put(connection, event, now=now)
        return len(events)

    def _events(self, bound: Sequence[Trigger], directory: str, change: FileChange, now: float) -> list[NewEvent]:
        key, name = change.path.decode(errors="replace"), REMOVED if change.state is None else CREATED
        waiting = [trigger for trigger in bound if matches(ObjectRule.of_config(trigger.config), name, key)]
        return [_event(trigger, _told(directory, key, name, change, now), self._region) for trigger in waiting]


def _know(connection: Connection, watch_id: str, changes: Sequence[FileChange]) -> None:
    if not changes:
        return
    connection.execute(_DELETE, [{"watch": watch_id, "known": _digest(change.path)} for change in changes])
    rows = [_row(watch_id, change.path, change.state) for change in changes if change.state is not None]
    if rows:
        connection.execute(insert(watched_files), rows)


def _row(watch_id: str, path: bytes, state: FileState) -> Mapping[str, Any]:
    known = {"size": state.size, "mtime_ns": state.mtime_ns, "inode": state.inode}
    return {"watch_id": watch_id, "digest": _digest(path), "path": path, **known}


def _digest(path: bytes) -> bytes:
    return hashlib.sha256(path).digest()


def _told(directory: str, key: str, name: str, change: FileChange, now: float) -> ObjectChange:
    whole = os.path.join(os.fsencode(directory), change.path)
    return ObjectChange(
        event=name,
        bucket=directory,
        key=key,
        size=change.size,
        meta={},
        at=now,
        request_id="",
        peer="",
        headers={},
        url=f"file://{quote(whole)}",
        path=whole.decode(errors="replace"),
    )


def _event(trigger: Trigger, change: ObjectChange, region: str) -> NewEvent:
    return NewEvent(
        namespace=trigger.namespace,
        function=trigger.function,
        qualifier=trigger.qualifier,
        payload=event_body(change, region=region, namespace=trigger.namespace, function=trigger.function, qualifier=trigger.qualifier),
        source=DIRECTORY,
        trigger=trigger.name,
        request_id=new_request_id(),
    )


def _triggers(connection: Connection) -> list[Trigger]:
    query = select(triggers).where(triggers.c.type == DIRECTORY).order_by(triggers.c.trigger_id)
    return [Trigger.from_row(row) for row in connection.execute(query).mappings()]
