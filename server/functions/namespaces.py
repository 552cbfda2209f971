"""Namespaces: a user is one. A function's name is its own only within its namespace; `default` is always there.

Creating a function holds the same lock as making and deleting a namespace, so that none is deleted under a function that is being made.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from sandbox.settings import Settings
from server.errors import Conflict, LimitExceeded, NamespaceNotFound
from server.functions.checks import checked_description, checked_fields, checked_name, is_name, shown
from server.functions.model import DEFAULT_NAMESPACE
from server.functions.quotas import forget_namespace
from server.store.engine import next_numbers, writing
from server.store.tables import FUNCTIONS_COUNTER, LAYERS_COUNTER, functions, layer_versions, layers
from server.store.tables import namespaces as table
from server.store.times import rfc3339


@dataclass(frozen=True, slots=True)
class Namespace:
    """Times in seconds since the epoch."""

    name: str
    description: str
    created_at: float
    updated_at: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"created_at": rfc3339(self.created_at), "updated_at": rfc3339(self.updated_at)}


class Namespaces:
    """All of one installation. Blocking; raises `server.errors.ApiError`s and SQLAlchemyError."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    def create(self, payload: Any) -> Namespace:
        """From `{name, description}`. Raises BadRequest, Conflict, LimitExceeded."""
        given = checked_fields(payload, ("name", "description"))
        name, description = checked_name(given.get("name")), checked_description(given.get("description", ""))
        now = time.time()
        namespace = Namespace(name, description, now, now)
        with writing(self._engine) as connection:
            next_numbers(connection, FUNCTIONS_COUNTER)
            if _row(connection, name) is not None:
                raise Conflict(f"namespace {name!r} exists already", code="namespace_exists")
            count: int = connection.execute(select(func.count()).select_from(table)).scalar_one()
            if count >= (limit := self._settings.limit_namespaces):
                raise LimitExceeded(f"there are {count} namespaces, limit {limit}", hint="the setting limit_namespaces")
            connection.execute(insert(table).values(**asdict(namespace)))
        return namespace

    def get(self, name: str) -> Namespace:
        """Raises NamespaceNotFound."""
        with self._engine.connect() as connection:
            return _found(connection, name)

    def list(self) -> list[Namespace]:
        """By name."""
        with self._engine.connect() as connection:
            return [Namespace(**row) for row in connection.execute(select(table).order_by(table.c.name)).mappings()]

    def update(self, name: str, payload: Any) -> Namespace:
        """Another description, from `{description}`. Raises BadRequest, NamespaceNotFound."""
        given = checked_fields(payload, ("description",))
        changes = {"description": checked_description(given["description"])} if "description" in given else {}
        with writing(self._engine) as connection:
            found = _found(connection, name)
            connection.execute(update(table).where(table.c.name == found.name).values(**changes, updated_at=time.time()))
            return _found(connection, name)

    def delete(self, name: str) -> None:
        """Raises NamespaceNotFound, and Conflict for `default` and for one that has functions or layers."""
        with writing(self._engine) as connection:
            next_numbers(connection, FUNCTIONS_COUNTER)
            next_numbers(connection, LAYERS_COUNTER)
            found = _found(connection, name)
            if name == DEFAULT_NAMESPACE:
                raise Conflict(f"namespace {name} can't be deleted", code="default_namespace")
            for what, inside in (("functions", functions), ("layer versions", layer_versions)):
                count = connection.execute(select(func.count()).select_from(inside).where(inside.c.namespace == name)).scalar_one()
                if count:
                    raise Conflict(f"namespace {name} has {count} {what}", code="namespace_not_empty", hint="delete them first")
            connection.execute(delete(layers).where(layers.c.namespace == name))
            forget_namespace(connection, name)
            connection.execute(delete(table).where(table.c.name == found.name))


def require_namespace(connection: Connection, name: str) -> None:
    """Raise NamespaceNotFound where there is none."""
    _found(connection, name)


def _found(connection: Connection, name: str) -> Namespace:
    row = _row(connection, name) if is_name(name) else None  # nothing else should a database be asked for
    if row is None:
        raise NamespaceNotFound(f"no namespace {shown(name)}", hint="GET /v1/namespaces lists what there is")
    return Namespace(**row)


def _row(connection: Connection, name: str) -> Any:
    return connection.execute(select(table).where(table.c.name == name)).mappings().one_or_none()
