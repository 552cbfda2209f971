"""Creating, changing and looking up triggers. Blocking, a few milliseconds each."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from sandbox.settings import Settings
from server.errors import BadRequest, Conflict, LimitExceeded, NotFound
from server.functions.checks import MAX_DESCRIPTION, shown
from server.functions.model import LATEST, Function
from server.store.engine import next_numbers, writing
from server.store.tables import FUNCTIONS_COUNTER
from server.store.tables import triggers as table
from server.triggers.descriptions import free_name
from server.triggers.kinds import OBJECT, kinds
from server.triggers.model import Trigger

FIELDS: Final = ("name", "type", "config", "qualifier", "enabled", "description")
CHANGEABLE: Final = ("config", "qualifier", "enabled", "description")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)
_QUALIFIER: Final = re.compile(r"\$LATEST|\$DEFAULT|[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Draft:
    """A checked trigger that has no function yet."""

    name: str
    type: str
    config: dict[str, Any]
    qualifier: str = LATEST
    enabled: bool = True
    description: str = ""


class Triggers:
    """All triggers of one installation. `find(name, namespace)` is `Functions.get`. Methods raise ApiErrors and SQLAlchemyError."""

    def __init__(
        self, engine: Engine, settings: Settings, find: Callable[[str, str], Function], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._engine, self._settings, self._find, self._clock = engine, settings, find, clock
        self._kinds = kinds(settings)

    def limits(self) -> dict[str, int]:
        """How many of each type a function may have."""
        return {name: kind.limit(self._settings) for name, kind in self._kinds.items()}

    def create(self, function: str, payload: Any, namespace: str = "default", *, shares_name: bool = False) -> Trigger:
        """With `shares_name` an object trigger whose name is taken by others of its bucket is called `name.2` and so on, see
        `server.triggers.descriptions.told_name`. Raises BadRequest, Conflict, FunctionNotFound, LimitExceeded."""
        draft = self.draft(payload)
        owner = self._find(function, namespace)
        with writing(self._engine) as connection:
            next_numbers(connection, FUNCTIONS_COUNTER)  # one at a time, or two could pass the limit together
            if shares_name and draft.type == OBJECT:
                taken = [Trigger.from_row(row) for row in connection.execute(_all_of(owner)).mappings()]
                draft = replace(draft, name=free_name(draft.name, draft.config, taken))
            return self._shown(self.attach(connection, owner, [draft])[0])

    def drafts(self, payloads: Any) -> list[Draft]:
        """The `triggers` of a function's creation. Raises BadRequest, LimitExceeded."""
        if payloads is None:
            return []
        if not isinstance(payloads, list):
            raise BadRequest("triggers is not a list", field="triggers")
        if len(payloads) > (most := self._settings.limit_triggers_at_creation):
            raise LimitExceeded(
                f"triggers: {len(payloads)} with a function's creation, limit {most}", hint="POST /v1/functions/{name}/triggers adds more"
            )
        return [self.draft(payload) for payload in payloads]

    def attach(self, connection: Connection, owner: Function, drafts: Sequence[Draft]) -> list[Trigger]:
        """Give a function these triggers, in the caller's transaction."""
        made = []
        for draft in drafts:
            self._check_room(connection, owner, draft)
            trigger = self._made(owner, draft)
            self._kinds[draft.type].admit(connection, draft.config, trigger.trigger_id)
            try:
                connection.execute(insert(table).values(trigger.to_row()))
            except IntegrityError as error:
                raise _exists(owner, draft) from error
            made.append(trigger)
        return made

    def of_kind(self, kind: str) -> list[Trigger]:
        """Every trigger of one type, for the process that makes its events."""
        query = select(table).where(table.c.type == kind).order_by(table.c.namespace, table.c.function, table.c.name)
        with self._engine.connect() as connection:
            return [Trigger.from_row(row) for row in connection.execute(query).mappings()]

    def get(self, function: str, name: str, namespace: str = "default") -> Trigger:
        """Raises FunctionNotFound, NotFound."""
        owner = self._find(function, namespace)
        with self._engine.connect() as connection:
            return self._shown(_one(connection, owner, name))

    def by_id(self, trigger_id: str) -> Trigger | None:
        """A trigger as it is stored; None where there is none of that id."""
        with self._engine.connect() as connection:
            row = connection.execute(select(table).where(table.c.trigger_id == trigger_id)).mappings().one_or_none()
        return None if row is None else Trigger.from_row(row)

    def change(self, function: str, name: str, changes: Any, namespace: str = "default") -> Trigger:
        """Change what is named: config, qualifier, enabled, description. Raises BadRequest, Conflict, FunctionNotFound, NotFound."""
        owner = self._find(function, namespace)
        given = _fields(changes, CHANGEABLE)
        with writing(self._engine) as connection:
            next_numbers(connection, FUNCTIONS_COUNTER)  # one at a time, or two could take the same qualifier together
            return self._changed(connection, owner, _one(connection, owner, name), given)

    def put(self, function: str, payload: Any, namespace: str = "default", *, new_name: str = "") -> Trigger:
        """Make a trigger, or give the one that has its name and type another config, and another name where one is given.

        Raises BadRequest, Conflict, FunctionNotFound, LimitExceeded, NotFound (of that name there is one of another type)."""
        draft = self.draft(payload)
        owner = self._find(function, namespace)
        with writing(self._engine) as connection:
            next_numbers(connection, FUNCTIONS_COUNTER)  # as `create`
            try:
                current = _one(connection, owner, draft.name)
            except NotFound:
                return self.attach(connection, owner, [self.draft({**payload, "name": new_name or draft.name})])[0]
            if current.type != draft.type:
                raise NotFound(f"trigger {draft.name!r} is not of type {draft.type}", code="trigger_not_found")
            return self._changed(connection, owner, current, {"config": draft.config, "name": new_name or draft.name})

    def _changed(self, connection: Connection, owner: Function, current: Trigger, given: Mapping[str, Any]) -> Trigger:
        kept = {key: getattr(current, key) for key in ("name", "type", *CHANGEABLE)}
        draft, now = self._checked({**kept, **given}), self._clock()
        if draft.qualifier != current.qualifier:
            self._check_qualifier(draft, connection.execute(_of(owner)).all())
        changed = replace(
            current,
            name=draft.name,
            config=draft.config,
            qualifier=draft.qualifier,
            enabled=draft.enabled,
            description=draft.description,
            updated_at=now,
        )
        if (draft.config, draft.enabled) != (current.config, current.enabled):
            changed = replace(changed, next_at=self._next(draft, now))
        self._kinds[draft.type].admit(connection, draft.config, current.trigger_id)
        try:
            connection.execute(update(table).where(table.c.trigger_id == current.trigger_id).values(changed.to_row()))
        except IntegrityError as error:
            raise _exists(owner, draft) from error
        return self._shown(changed)

    def delete(self, function: str, name: str, namespace: str = "default") -> Trigger:
        """Raises FunctionNotFound, NotFound."""
        owner = self._find(function, namespace)
        with writing(self._engine) as connection:
            trigger = _one(connection, owner, name)
            connection.execute(delete(table).where(table.c.trigger_id == trigger.trigger_id))
        return trigger

    def draft(self, payload: Any) -> Draft:
        """A checked creation body. Raises BadRequest."""
        given = _fields(payload, FIELDS)
        for field in ("name", "type", "config"):
            if given.get(field) is None:
                raise BadRequest(f"{field} is missing", field=field, hint="a trigger needs name, type, config")
        return self._checked(given)

    def _checked(self, given: Mapping[str, Any]) -> Draft:
        name, kind, config = given["name"], given["type"], given["config"]
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            hint = "1 to 100 letters, digits, _ . or -, a letter or digit first"
            raise BadRequest(f"name: {shown(name)} is not a valid name of a trigger", field="name", hint=hint, code="invalid_trigger_name")
        if not isinstance(kind, str) or kind not in self._kinds:
            raise BadRequest(f"type: {shown(kind)} is not known", field="type", hint=f"one of {', '.join(sorted(self._kinds))}")
        if not isinstance(config, dict):
            raise BadRequest("config is not an object", field="config")
        qualifier = LATEST if given.get("qualifier") is None else given["qualifier"]
        if not isinstance(qualifier, str) or _QUALIFIER.fullmatch(qualifier) is None:
            raise BadRequest(f"qualifier: {shown(qualifier)} is no version or alias", field="qualifier")
        enabled = True if given.get("enabled") is None else given["enabled"]
        if not isinstance(enabled, bool):
            raise BadRequest(f"enabled: {shown(enabled)} is not true or false", field="enabled")
        description = "" if given.get("description") is None else given["description"]
        if not isinstance(description, str) or len(description) > MAX_DESCRIPTION or not _storable(description):
            raise BadRequest(f"description is no text of at most {MAX_DESCRIPTION} characters", field="description")
        return Draft(name, kind, self._kinds[kind].checked(config), qualifier, enabled, description)

    def _made(self, owner: Function, draft: Draft) -> Trigger:
        now = self._clock()
        return Trigger(
            trigger_id=str(uuid.uuid4()),
            function_id=owner.function_id,
            namespace=owner.namespace,
            function=owner.name,
            name=draft.name,
            type=draft.type,
            config=draft.config,
            qualifier=draft.qualifier,
            enabled=draft.enabled,
            description=draft.description,
            next_at=self._next(draft, now),
            created_at=now,
            updated_at=now,
        )

    def _next(self, draft: Draft, now: float) -> float | None:
        return self._kinds[draft.type].next_at(draft.config, now) if draft.enabled else None

    def _check_room(self, connection: Connection, owner: Function, draft: Draft) -> None:
        rows = connection.execute(_of(owner)).all()
        if any(row.name == draft.name for row in rows):
            raise _exists(owner, draft)
        limit = self._kinds[draft.type].limit(self._settings)
        if sum(row.type == draft.type for row in rows) >= limit:
            raise LimitExceeded(f"function {owner.name} has {limit} triggers of type {draft.type}, the limit", hint="delete one")
        self._check_qualifier(draft, rows)

    def _check_qualifier(self, draft: Draft, rows: Sequence[Any]) -> None:
        if not self._kinds[draft.type].one_per_qualifier:
            return
        taken = [row.name for row in rows if (row.type, row.qualifier) == (draft.type, draft.qualifier) and row.name != draft.name]
        if taken:
            detail = f"{draft.qualifier} has a trigger of type {draft.type} already, {taken[0]}"
            raise Conflict(detail, code="trigger_exists", hint="change that one, or name another qualifier")

    def _shown(self, trigger: Trigger) -> Trigger:
        return replace(trigger, config=self._kinds[trigger.type].shown(trigger))

    def list(self, function: str, namespace: str = "default") -> list[Trigger]:
        """A function's, by name. Raises FunctionNotFound."""
        owner = self._find(function, namespace)
        with self._engine.connect() as connection:
            return [self._shown(Trigger.from_row(row)) for row in connection.execute(_all_of(owner)).mappings()]


def count_enabled(engine: Engine) -> dict[str, int]:
    """How many are enabled, by type."""
    query = select(table.c.type, func.count()).where(table.c.enabled.is_(True)).group_by(table.c.type)
    with engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


def _fields(value: Any, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest("a trigger is not a JSON object")
    if unknown := sorted(value.keys() - set(known)):
        raise BadRequest(f"unknown field {shown(unknown[0])}", field=unknown[0], hint=f"known are {', '.join(known)}")
    return value


def _all_of(owner: Function) -> Any:
    return select(table).where(table.c.function_id == owner.function_id).order_by(table.c.name)


def _of(owner: Function) -> Any:
    """What its triggers are held against."""
    return select(table.c.name, table.c.type, table.c.qualifier).where(table.c.function_id == owner.function_id)


def _one(connection: Connection, owner: Function, name: str) -> Trigger:
    if _NAME.fullmatch(name) is not None:
        query = select(table).where(table.c.function_id == owner.function_id, table.c.name == name)
        row = connection.execute(query).mappings().one_or_none()
        if row is not None:
            return Trigger.from_row(row)
    raise NotFound(f"function {owner.name} has no trigger {shown(name)}", code="trigger_not_found")


def _exists(owner: Function, draft: Draft) -> Conflict:
    return Conflict(f"function {owner.name} has a trigger {draft.name!r} already", code="trigger_exists", hint="change it with PATCH")


def _storable(text: str) -> bool:
    try:
        return "\0" not in text and bool(text.encode() or True)
    except UnicodeEncodeError:
        return False
