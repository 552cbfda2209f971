"""Aliases: names for versions that callers use, and what a qualifier means.

`$DEFAULT` is made with its function, points to `$LATEST` unless it is changed, and goes only with the function.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Engine, RowMapping, delete, func, insert, select, update

from sandbox.settings import Settings
from server.errors import BadRequest, Conflict, LimitExceeded, QualifierNotFound
from server.functions.checks import checked_description, checked_fields, checked_text, shown
from server.functions.model import DEFAULT_ALIAS, DEFAULT_NAMESPACE, LATEST, Function
from server.functions.routing import Routing, checked_routing
from server.functions.rows import find, find_versions, hold, missing_version
from server.store.engine import writing
from server.store.tables import aliases as table
from server.store.times import rfc3339

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
#: A version may be deleted between two statements, and its aliases changed with it.
RESOLVE_ATTEMPTS: Final = 3
FIELDS: Final = ("version", "description", "routing")


@dataclass(frozen=True, slots=True)
class Alias:
    """`version` is a number or `$LATEST`. Times in seconds since the epoch."""

    name: str
    version: str
    description: str
    routing: Routing
    created_at: float
    updated_at: float

    @property
    def versions(self) -> set[str]:
        """All that its calls may go to."""
        return self.routing.versions | {self.version}

    def to_json(self) -> dict[str, Any]:
        times = {"created_at": rfc3339(self.created_at), "updated_at": rfc3339(self.updated_at)}
        return {"name": self.name, "version": self.version, "description": self.description, "routing": self.routing.to_json(), **times}


@dataclass(frozen=True, slots=True)
class Target:
    """What a qualifier means at one moment: `versions` has every version that `main` and `routing` name."""

    main: str
    versions: Mapping[str, Function]
    routing: Routing | None = None

    @property
    def function(self) -> Function:
        return self.versions[self.main]


class Aliases:
    """Of all functions. Blocking; raises `server.errors.ApiError`s and SQLAlchemyError.

    Changes return the function with the alias: its id is what everybody must be told who has cached what the alias meant.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    def create(self, name: str, payload: Any, namespace: str = DEFAULT_NAMESPACE) -> tuple[Function, Alias]:
        """From `{name, version, description, routing}`. Raises BadRequest, Conflict, LimitExceeded, FunctionNotFound, QualifierNotFound."""
        given = checked_fields(payload, ("name", *FIELDS))
        now = time.time()
        alias = Alias(_checked_name(given.get("name")), _version(given.get("version")), *_optional(given), now, now)
        with writing(self._engine) as connection:
            function = hold(connection, name, namespace)
            if _row(connection, function, alias.name) is not None:
                raise Conflict(f"function {name} has an alias {alias.name} already", code="alias_exists", hint="change it with PATCH")
            self._check_room(connection, function)
            _require_versions(connection, function, alias)
            connection.execute(insert(table).values(_to_row(function, alias)))
        return function, alias

    def get(self, name: str, alias: str, namespace: str = DEFAULT_NAMESPACE) -> Alias:
        """Raises FunctionNotFound, NamespaceNotFound, QualifierNotFound."""
        with self._engine.connect() as connection:
            return find_alias(connection, find(connection, name, namespace), alias)

    def list(self, name: str, namespace: str = DEFAULT_NAMESPACE, *, version: str = "") -> list[Alias]:
        """By name; with `version` only those whose calls may go to it."""
        with self._engine.connect() as connection:
            found = of_function(connection, find(connection, name, namespace))
        return [alias for alias in found if not version or version in alias.versions]

    def update(self, name: str, alias: str, payload: Any, namespace: str = DEFAULT_NAMESPACE) -> tuple[Function, Alias]:
        """Change what is given of `{version, description, routing}`; a routing is replaced whole."""
        given = checked_fields(payload, FIELDS)
        changes: dict[str, Any] = {key: value for key, value in zip(FIELDS[1:], _optional(given), strict=True) if key in given}
        if "version" in given:
            changes["version"] = _version(given["version"])
        with writing(self._engine) as connection:
            function = hold(connection, name, namespace)
            changed = replace(find_alias(connection, function, alias), **changes, updated_at=time.time())
            _require_versions(connection, function, changed)
            connection.execute(update(table).where(*_mine(function, alias)).values(_to_row(function, changed)))
        return function, changed

    def delete(self, name: str, alias: str, namespace: str = DEFAULT_NAMESPACE) -> tuple[Function, Alias]:
        """Raises Conflict for `$DEFAULT`, FunctionNotFound, NamespaceNotFound, QualifierNotFound."""
        with writing(self._engine) as connection:
            function = hold(connection, name, namespace)
            found = find_alias(connection, function, alias)
            if alias == DEFAULT_ALIAS:
                raise Conflict(f"{DEFAULT_ALIAS} can't be deleted", code="default_alias", hint="change what it points to")
            connection.execute(delete(table).where(*_mine(function, alias)))
        return function, found

    def _check_room(self, connection: Connection, function: Function) -> None:
        mine = table.c.function_id == function.function_id
        count: int = connection.execute(select(func.count()).select_from(table).where(mine)).scalar_one()
        if count >= (limit := self._settings.limit_aliases):
            raise LimitExceeded(f"function {function.name} has {count} aliases, limit {limit}", hint="the setting limit_aliases")


def resolve(connection: Connection, name: str, namespace: str, qualifier: str) -> Target:
    """What a call with that qualifier runs. Raises FunctionNotFound, NamespaceNotFound, QualifierNotFound."""
    function = find(connection, name, namespace)
    if found := find_versions(connection, function, [qualifier]):
        return Target(qualifier, found)
    for _ in range(RESOLVE_ATTEMPTS):
        alias = find_alias(connection, function, qualifier)
        versions = find_versions(connection, function, alias.versions)
        lacking = alias.versions - set(versions)
        if not lacking:
            return Target(alias.version, versions, alias.routing if alias.routing.versions else None)
    raise missing_version(name, min(lacking))


def find_alias(connection: Connection, function: Function, name: str) -> Alias:
    """Raises QualifierNotFound."""
    row = _row(connection, function, name) if _is_name(name) else None
    if row is None:
        hint = f"GET /v1/functions/{function.name}/aliases and …/versions list what there is"
        raise QualifierNotFound(f"function {function.name} has no version or alias {shown(name)}", hint=hint)
    return _from_row(row)


def of_function(connection: Connection, function: Function) -> list[Alias]:
    """All of a function, by name."""
    query = select(table).where(table.c.function_id == function.function_id).order_by(table.c.name)
    return [_from_row(row) for row in connection.execute(query).mappings()]


def add_default(connection: Connection, function: Function) -> None:
    """`$DEFAULT` of a function that has just been inserted."""
    alias = Alias(DEFAULT_ALIAS, LATEST, "", Routing(), function.created_at, function.created_at)
    connection.execute(insert(table).values(_to_row(function, alias)))


def let_go(connection: Connection, function: Function, version: str) -> None:
    """A version goes though aliases point to it: those that are named for it go too, `$DEFAULT` falls back to `$LATEST`."""
    for alias in of_function(connection, function):
        mine = _mine(function, alias.name)
        if alias.version != version:
            changed = replace(alias, routing=alias.routing.without(version))
        elif alias.name == DEFAULT_ALIAS:
            changed = replace(alias, version=LATEST, routing=alias.routing.without(version))
        else:
            connection.execute(delete(table).where(*mine))
            continue
        if changed != alias:
            connection.execute(update(table).where(*mine).values(_to_row(function, replace(changed, updated_at=time.time()))))


def _mine(function: Function, name: str) -> tuple[Any, ...]:
    return table.c.function_id == function.function_id, table.c.name == name


def _row(connection: Connection, function: Function, name: str) -> Any:
    return connection.execute(select(table).where(*_mine(function, name))).mappings().one_or_none()


def _from_row(row: RowMapping) -> Alias:
    values = {key: row[key] for key in ("name", "version", "description", "created_at", "updated_at")}
    return Alias(**values, routing=checked_routing(orjson.loads(row["routing"])))


def _to_row(function: Function, alias: Alias) -> dict[str, Any]:
    return asdict(alias) | {"function_id": function.function_id, "routing": orjson.dumps(alias.routing.to_json()).decode()}


def _is_name(value: str) -> bool:
    return value == DEFAULT_ALIAS or _NAME.fullmatch(value) is not None


def _checked_name(value: Any) -> str:
    if isinstance(value, str) and _is_name(value):
        return value
    raise BadRequest(f"name: {shown(value)} is not an alias's name", field="name", hint="1 to 64 letters, digits, _ or -; a letter first")


def _version(value: Any) -> str:
    if value is None:
        raise BadRequest("version is missing", field="version", hint=f"a version's number as text, or {LATEST}")
    return checked_text("version", value)


def _optional(given: Mapping[str, Any]) -> tuple[str, Routing]:
    return checked_description(given.get("description", "")), checked_routing(given.get("routing", {}))


def _require_versions(connection: Connection, function: Function, alias: Alias) -> None:
    if lacking := alias.versions - set(find_versions(connection, function, alias.versions)):
        raise missing_version(function.name, min(lacking))
