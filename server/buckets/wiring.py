"""What the bucket service takes from the parts beside it: secret pairs, object triggers, the event queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Engine, select

from sandbox.settings import Settings
from server.buckets.access import Pair, Secret
from server.buckets.notices import Binding, Notice
from server.events.model import NewEvent
from server.events.queue import EventQueue, put
from server.keys.model import is_secret_id
from server.keys.service import Keys
from server.store.tables import triggers
from server.triggers.kinds import OBJECT
from server.triggers.model import Trigger
from server.triggers.objects import ObjectRule

SOURCE: Final = "cos"


class KeyTable:
    """`access.Secrets`: the pairs of `hearth keys`. Nothing is kept, so a revoked one is gone at once."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def find(self, secret_id: str) -> Secret | None:
        found = self._keys.find(secret_id) if is_secret_id(secret_id) else None
        if found is None:
            return None
        pair, secret_key = found
        return Pair(pair.secret_id, secret_key, pair.scope, pair.namespace)


class TriggerTable:
    """`notices.Bindings`: the enabled object triggers, read in the change's own transaction."""

    def of_bucket(self, connection: Connection, bucket: str) -> Sequence[Binding]:
        query = select(triggers).where(triggers.c.type == OBJECT, triggers.c.enabled.is_(True)).order_by(triggers.c.trigger_id)
        found = [Trigger.from_row(row) for row in connection.execute(query).mappings()]
        return [_binding(trigger) for trigger in found if trigger.config["bucket"] == bucket and "source" not in trigger.config]


def _binding(trigger: Trigger) -> Binding:
    rule = ObjectRule.of_config(trigger.config)
    return Binding(trigger.name, trigger.namespace, trigger.function, trigger.qualifier, rule)


class Queue:
    """Events into the queue, in the change's own transaction."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._queue = EventQueue(engine, settings)

    def put(self, connection: Connection, notice: Notice) -> None:
        """Raises QueueFull: then the change is refused too."""
        self._queue.check_room(connection)
        event = NewEvent(
            namespace=notice.namespace,
            function=notice.function,
            qualifier=notice.qualifier,
            payload=notice.payload,
            source=SOURCE,
            trigger=notice.trigger,
            caused_by=notice.caused_by,
            hops=notice.hops,
        )
        put(connection, event)
