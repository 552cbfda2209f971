"""The event settings of functions: how often and how long an event is tried, and where its dead letter goes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import Connection, Engine, delete, insert, select

from sandbox.settings import Settings
from server.errors import BadRequest, FunctionNotFound, NotFound, Unsupported
from server.events.model import EventSettings
from server.functions.checks import checked_integer, is_name, shown
from server.functions.model import Function
from server.functions.rows import find
from server.functions.service import Functions
from server.store.engine import writing
from server.store.tables import event_settings

MOST_RETRIES: Final = 2
SHORTEST_TTL_SECONDS: Final = 60
LONGEST_TTL_SECONDS: Final = 21_600
FIELDS: Final = ("retries", "ttl", "dead_letter")
TARGETS: Final = ("none", "file", "url", "function")
FILE_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
CACHE_SECONDS: Final = 2.0
MAX_KNOWN: Final = 4096


class EventConfigs:
    """Blocking. Methods raise ApiErrors and SQLAlchemyError."""

    def __init__(self, engine: Engine, settings: Settings, functions: Functions, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._functions = functions
        self._shortest = min(SHORTEST_TTL_SECONDS, settings.event_ttl_seconds)
        self._defaults = EventSettings(settings.event_retries, settings.event_ttl_seconds)
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, EventSettings]] = {}

    def get(self, name: str, namespace: str = "default") -> EventSettings:
        """A function's own, or the defaults. Raises FunctionNotFound."""
        function = self._functions.get(name, namespace)
        with self._engine.connect() as connection:
            return self._read(connection, function)

    def change(self, name: str, changes: Any, namespace: str = "default") -> EventSettings:
        """Change what `changes` names: {"retries", "ttl", "dead_letter": {"type", "target"} or null}; null is the default again. Raises
        BadRequest, FunctionNotFound."""
        function = self._functions.get(name, namespace)
        checked = self._checked(changes, name)
        if function.always_asynchronous and checked.get("retries"):
            detail = f"function {name} was made with AsyncRunEnable: its calls are not tried again"
            raise Unsupported(detail, field="retries", hint="0, or leave it out")
        with writing(self._engine) as connection:
            self._write(connection, function.function_id, checked)
            found = self._read(connection, function)
        self._known.pop((namespace, name), None)
        return found

    def reset(self, name: str, namespace: str = "default") -> None:
        """Back to the defaults. Raises FunctionNotFound."""
        function = self._functions.get(name, namespace)
        with writing(self._engine) as connection:
            connection.execute(delete(event_settings).where(event_settings.c.function_id == function.function_id))
        self._known.pop((namespace, name), None)

    def target(self, value: Any, name: str) -> dict[str, str]:
        """The columns of a function's dead-letter target, from {"type", "target"} or None. Raises BadRequest."""
        return self._target(value, name)

    def point(self, connection: Connection, owner: Function, target: Mapping[str, str]) -> None:
        """Give a function that target in the caller's transaction. Raises BadRequest where it is a function that there is not."""
        if target["target_type"] == "function":
            try:
                find(connection, target["target"], owner.namespace)
            except FunctionNotFound as error:
                detail = f"dead_letter.target: there is no function {target['target']} in namespace {owner.namespace}"
                raise BadRequest(detail, field="dead_letter.target", hint="create it first") from error
        self._write(connection, owner.function_id, target)

    def copy(self, connection: Connection, source: Function, owner: Function) -> None:
        """Give a function what another has, in the caller's transaction."""
        if row := self._row(connection, source.function_id):
            self._write(connection, owner.function_id, row)

    def limits(self) -> dict[str, int]:
        """What `change` takes at most, and of `min_ttl` at least: {"retries", "min_ttl", "max_ttl"}."""
        return {"retries": MOST_RETRIES, "min_ttl": self._shortest, "max_ttl": LONGEST_TTL_SECONDS}

    def recent(self, name: str, namespace: str) -> EventSettings:
        """As `get`, perhaps two seconds old, and the defaults for a function that is gone. For the dispatcher."""
        key, now = (namespace, name), self._clock()
        known = self._known.get(key)
        if known is None or known[0] <= now:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            known = self._known[key] = (now + CACHE_SECONDS, self._by_name(name, namespace))
        return known[1]

    def _by_name(self, name: str, namespace: str) -> EventSettings:
        try:
            return self.get(name, namespace)
        except NotFound:
            return self._defaults

    def _read(self, connection: Connection, function: Function) -> EventSettings:
        row = self._row(connection, function.function_id)
        found = replace(self._defaults, **{key: value for key, value in row.items() if value is not None})
        return replace(found, retries=0) if function.always_asynchronous else found

    def _row(self, connection: Connection, function_id: str) -> dict[str, Any]:
        columns = event_settings.c
        query = select(columns.retries, columns.ttl, columns.target_type, columns.target).where(columns.function_id == function_id)
        row = connection.execute(query).mappings().one_or_none()
        return {} if row is None else dict(row)

    def _write(self, connection: Connection, function_id: str, changes: Mapping[str, Any]) -> None:
        values = {"retries": None, "ttl": None, "target_type": "none", "target": "", **self._row(connection, function_id), **changes}
        connection.execute(delete(event_settings).where(event_settings.c.function_id == function_id))
        connection.execute(insert(event_settings).values(function_id=function_id, updated_at=time.time(), **values))

    def _checked(self, changes: Any, name: str) -> dict[str, Any]:
        if not isinstance(changes, dict):
            raise BadRequest("the body is not a JSON object")
        if unknown := sorted(changes.keys() - set(FIELDS)):
            raise BadRequest(f"unknown field {shown(unknown[0])}", field=unknown[0], hint=f"known are {', '.join(FIELDS)}")
        values: dict[str, Any] = {}
        if "retries" in changes:
            values["retries"] = _whole("retries", changes["retries"], 0, MOST_RETRIES)
        if "ttl" in changes:
            values["ttl"] = _whole("ttl", changes["ttl"], self._shortest, LONGEST_TTL_SECONDS)
        if "dead_letter" in changes:
            values |= self._target(changes["dead_letter"], name)
        return values

    def _target(self, value: Any, name: str) -> dict[str, str]:
        if value is None:
            return {"target_type": "none", "target": ""}
        if not isinstance(value, dict) or value.keys() - {"type", "target"} or value.get("type") not in TARGETS:
            raise BadRequest(
                f"dead_letter: {shown(value)} is no target", field="dead_letter", hint='{"type": "file" | "url" | "function", "target": …}'
            )
        kind, target = value["type"], value.get("target") or ""
        if not isinstance(target, str):
            raise BadRequest("dead_letter.target is not a string", field="dead_letter.target")
        if kind == "none":
            return {"target_type": "none", "target": ""}
        check: Callable[[str, str], str] = {"file": _file, "url": _url, "function": _function}[kind]
        return {"target_type": kind, "target": check(target, name)}


def to_json(found: EventSettings) -> dict[str, Any]:
    """REST's shape."""
    values = asdict(found)
    kind, target = values.pop("target_type"), values.pop("target")
    return values | {"dead_letter": None if kind == "none" else {"type": kind, "target": target}}


def _whole(field: str, value: Any, low: int, high: int) -> int | None:
    return None if value is None else checked_integer(field, value, low, high)


def _file(target: str, name: str) -> str:
    target = target or name
    if re.fullmatch(FILE_NAME, target, re.ASCII) is None:
        hint = "letters, digits, _ . -; the file NAME.jsonl is in the state directory's dead-letters"
        raise BadRequest(f"dead_letter.target: {shown(target)} is no file's name", field="dead_letter.target", hint=hint)
    return target


def _url(target: str, name: str) -> str:
    try:
        parts = urlsplit(target)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or len(target) > 2000 or not target.isprintable() or not target.isascii() or " " in target:
        raise BadRequest(f"dead_letter.target: {shown(target)} is no http or https URL", field="dead_letter.target")
    return target


def _function(target: str, name: str) -> str:
    if not is_name(target):
        raise BadRequest(f"dead_letter.target: {shown(target)} is no function's name", field="dead_letter.target")
    if target == name:
        raise BadRequest("dead_letter.target is the function itself", field="dead_letter.target", hint="name another one")
    return target
