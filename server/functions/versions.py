"""Published versions: frozen copies of a function's code and configuration, numbered 1, 2, 3 …; a number is never used again.

A version has an id and workers of its own, so whatever becomes of `$LATEST`, it serves what was published. It goes with its function.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from sandbox.settings import Settings
from server.errors import BadRequest, Conflict, LimitExceeded
from server.functions import aliases
from server.functions.checks import checked_description, checked_fields, shown
from server.functions.model import DEFAULT_NAMESPACE, LATEST, Function
from server.functions.quotas import forget_version
from server.functions.rows import find, find_version, hold
from server.store.engine import writing
from server.store.tables import functions
from server.store.tables import versions as table

NO_FIELDS: Final[Mapping[str, Any]] = {}
IN_USE_HINT: Final = "change the alias, or delete with force"


class Versions:
    """Of all functions. Blocking; raises `server.errors.ApiError`s and SQLAlchemyError."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    def publish(self, name: str, payload: Any = NO_FIELDS, namespace: str = DEFAULT_NAMESPACE) -> Function:
        """Freeze `$LATEST` as the next version, whether it has changed or not; from `{description}`, which else is the function's.

        Raises BadRequest, FunctionNotFound, NamespaceNotFound, LimitExceeded.
        """
        given = checked_fields(payload, ("description",))
        description = checked_description(given["description"]) if "description" in given else None
        with writing(self._engine) as connection:
            return freeze(connection, hold(connection, name, namespace), self._settings, description)

    def get(self, name: str, version: str, namespace: str = DEFAULT_NAMESPACE) -> Function:
        """`version` is a number or `$LATEST`. Raises FunctionNotFound, NamespaceNotFound, QualifierNotFound."""
        with self._engine.connect() as connection:
            return find_version(connection, find(connection, name, namespace), version)

    def list(
        self, name: str, namespace: str = DEFAULT_NAMESPACE, *, order: str = "asc", offset: int = 0, limit: int | None = None
    ) -> tuple[int, list[Function]]:
        """How many there are, `$LATEST` included, and `limit` of them from `offset` on: `$LATEST`, then by number, asc or desc."""
        if order not in ("asc", "desc"):
            raise BadRequest(f"order: {shown(order)} is neither asc nor desc", field="order")
        by_number = table.c.number.asc() if order == "asc" else table.c.number.desc()
        with self._engine.connect() as connection:
            function = find(connection, name, namespace)
            mine = table.c.function_id == function.function_id
            rows = connection.execute(select(table).where(mine).order_by(by_number)).mappings()
            found = [function, *(function.version_from_row(row) for row in rows)]
        return len(found), found[offset:] if limit is None else found[offset : offset + limit]

    def delete(self, name: str, version: str, namespace: str = DEFAULT_NAMESPACE, *, force: bool = False) -> Function:
        """Forget a version and return what it was.

        Raises FunctionNotFound, QualifierNotFound, and Conflict for `$LATEST` and while an alias points to it. With `force` such an alias
        goes too, a routing to it is dropped, and `$DEFAULT` falls back to `$LATEST`.
        """
        with writing(self._engine) as connection:
            function = hold(connection, name, namespace)
            if version == LATEST:
                raise Conflict(f"{LATEST} can't be deleted", code="latest_version", hint="delete the function")
            found = find_version(connection, function, version)
            if force:
                aliases.let_go(connection, function, version)
            elif using := [alias.name for alias in aliases.of_function(connection, function) if version in alias.versions]:
                raise Conflict(f"version {version} of {name} is used by the alias {using[0]}", code="version_in_use", hint=IN_USE_HINT)
            connection.execute(delete(table).where(table.c.version_id == found.function_id))
            forget_version(connection, found.function_id)
            return found


def freeze(connection: Connection, function: Function, settings: Settings, description: str | None = None) -> Function:
    """The function's next version, in the caller's transaction, which must hold the function (`rows.hold`, or a change of its row). Raises
    LimitExceeded."""
    _check_room(connection, function, settings.limit_versions)
    number = _next_number(connection, function)
    connection.execute(insert(table).values(function.frozen(number, description, time.time())))
    return find_version(connection, function, str(number))


def _check_room(connection: Connection, function: Function, limit: int) -> None:
    mine = table.c.function_id == function.function_id
    count: int = connection.execute(select(func.count()).select_from(table).where(mine)).scalar_one()
    if count >= limit:
        raise LimitExceeded(f"function {function.name} has {count} versions, limit {limit}", hint="delete old ones")


def _next_number(connection: Connection, function: Function) -> int:
    mine = functions.c.function_id == function.function_id
    connection.execute(update(functions).where(mine).values(published=functions.c.published + 1))
    number: int = connection.execute(select(functions.c.published).where(mine)).scalar_one()
    return number
