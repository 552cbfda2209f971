"""Creating, changing and looking up functions. Blocking, a few milliseconds each: the API calls it through a thread.

Each change is one transaction that also raises the generation, so a sandbox made for an older one is never taken for the
new. The package is unpacked before its transaction; one that no function came to own is collected later.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from sandbox.settings import Settings
from server.errors import BadRequest, Conflict, FunctionNotFound, LimitExceeded, Unsupported
from server.functions.aliases import add_default, resolve
from server.functions.bindings import Bindings
from server.functions.checks import Checks, checked_description, checked_name
from server.functions.codestore import CodeStore
from server.functions.collection import collect_unused
from server.functions.listing import NO_FILTERS, conditions, ordering
from server.functions.model import DEFAULT_NAMESPACE, LATEST, Function
from server.functions.namespaces import require_namespace
from server.functions.quotas import forget_function
from server.functions.rows import find, missing
from server.functions.versions import freeze
from server.store.engine import next_numbers, writing
from server.store.tables import FUNCTIONS_COUNTER, event_settings, triggers
from server.store.tables import functions as table

#: How often an update starts over after somebody else's came first, when the client has named no generation.
UPDATE_ATTEMPTS: Final = 5
NO_EXTRAS: Final[Mapping[str, Any]] = {}
#: A dead-letter target that nobody speaks of; None is to have none.
UNCHANGED: Final = object()


class Attachments(Protocol):
    """What of `server.triggers.service.Triggers` a creation needs: a function and its triggers are one commit."""

    def drafts(self, payloads: Any) -> Any:
        """Checked triggers. Raises BadRequest, LimitExceeded."""

    def attach(self, connection: Connection, owner: Function, drafts: Any) -> Any: ...


class Events(Protocol):
    """What of `server.events.configs.EventConfigs` a function's creation, change and copy need: where its dead letters go is the same
    commit."""

    def target(self, value: Any, name: str) -> Mapping[str, str]:
        """A checked target. Raises BadRequest."""

    def point(self, connection: Connection, owner: Function, target: Mapping[str, str]) -> None:
        """Raises BadRequest."""

    def copy(self, connection: Connection, source: Function, owner: Function) -> None: ...


class Functions:
    """All functions of one installation. Methods raise `server.errors.ApiError`s and SQLAlchemyError."""

    def __init__(self, engine: Engine, settings: Settings, codestore: CodeStore) -> None:
        self._engine = engine
        self._settings = settings
        self._code = codestore
        self._checks = Checks(settings)
        self._bindings = Bindings(settings, codestore)
        #: What a creation's `triggers` are made by; the composition root says so.
        self.triggers: Attachments | None = None
        #: What keeps dead-letter targets; the composition root says so.
        self.events: Events | None = None

    def create(
        self,
        payload: Any,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        scf: Mapping[str, Any] = NO_EXTRAS,
        dead_letter: Any = UNCHANGED,
    ) -> Function:
        """Make a function from REST's creation body. Raises BadRequest, PayloadTooLarge, Conflict, LimitExceeded,
        NamespaceNotFound.

        `scf`: what SCF's clients configure besides, kept as it is. `dead_letter`: {"type", "target"}, as events' settings have it.
        """
        checked_name(namespace, "namespace")
        configuration = self._checks.creation(payload)
        drafts = self._drafts(payload.get("triggers"))
        target = self._target(dead_letter, configuration["name"])
        data = self._checks.code(payload["code"])
        with self._engine.connect() as connection:
            self._check_room(connection, configuration["name"], namespace)
            configuration["layers"] = self._bindings.bound(connection, namespace, configuration["layers"])
        digest = self._code.put_zip(data, handler=configuration["handler"], runtime=configuration["runtime"])
        function = Function(namespace=namespace, code=digest, code_size=len(data), scf=dict(scf), **configuration, **_newborn())
        self._bindings.check(function)
        self._insert(function, drafts, target)
        return function

    def get(self, name: str, namespace: str = DEFAULT_NAMESPACE, qualifier: str = LATEST) -> Function:
        """`qualifier` is `$LATEST`, a version's number or an alias. Raises FunctionNotFound, NamespaceNotFound, QualifierNotFound."""
        with self._engine.connect() as connection:
            return resolve(connection, name, namespace, qualifier).function

    def list(
        self,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        search: str = "",
        order: str = "asc",
        order_by: str = "name",
        offset: int = 0,
        limit: int | None = None,
        description: str = "",
        filters: Mapping[str, Sequence[str]] = NO_FILTERS,
    ) -> tuple[int, list[Function]]:
        """How many there are of a namespace, and `limit` of them from `offset` on.

        `search` is part of the name, `description` of the description, letters' case aside; `order` is asc or desc, `order_by` name,
        created_at or updated_at; `filters` say for runtime, state or type which values may be. Raises BadRequest, NamespaceNotFound.
        """
        wanted = [table.c.namespace == namespace, *conditions(search, description, filters)]
        ordered = select(table).where(*wanted).order_by(*ordering(order, order_by)).offset(offset).limit(limit)
        with self._engine.connect() as connection:
            require_namespace(connection, namespace)
            total: int = connection.execute(select(func.count()).select_from(table).where(*wanted)).scalar_one()
            return total, [Function.from_row(row) for row in connection.execute(ordered).mappings()]

    def update(
        self,
        name: str,
        changes: Any,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        zip_bytes: bytes | None = None,
        expected_generation: int | None = None,
        scf: Mapping[str, Any] = NO_EXTRAS,
        dead_letter: Any = UNCHANGED,
        publish: bool = False,
    ) -> Function:
        """Change the configuration, with `zip_bytes` the code as well, and with `publish` freeze what comes of it as the next version.

        It is one commit: no call sees a part without the others. With `expected_generation` only if that is still the current one, else
        Conflict. `scf` replaces those of its fields that it names; `dead_letter` is as `create` has it, None takes it away.

        Raises BadRequest, PayloadTooLarge, FunctionNotFound, Conflict, LimitExceeded.
        """
        checked, target = self._checks.changes(changes), self._target(dead_letter, name)
        if zip_bytes is not None:
            checked |= self._package(zip_bytes, checked, self.get(name, namespace))
        elif checked.get("layers"):
            self._code.unpacked_bytes(self.get(name, namespace).code)  # counted here once, and not while the database is ours
        function = self._change(name, namespace, checked, expected_generation, scf, target=target, publish=publish)
        if zip_bytes is not None:
            self.collect_code()
        return function

    def update_code(self, name: str, zip_bytes: bytes, handler: str | None = None, namespace: str = DEFAULT_NAMESPACE) -> Function:
        """Give the function another package, and with it another handler if one is named."""
        return self.update(name, {} if handler is None else {"handler": handler}, namespace, zip_bytes=zip_bytes)

    def _package(self, zip_bytes: bytes, changes: Mapping[str, Any], current: Function) -> dict[str, Any]:
        """Unpack it for the function as the changes will make it; what they are with it."""
        self._checks.code_bytes(zip_bytes)
        now: dict[str, Any] = {"handler": current.handler, "runtime": current.runtime, "layers": current.layers, **changes}
        digest = self._code.put_zip(zip_bytes, handler=now["handler"], runtime=now["runtime"])
        if now["layers"]:
            self._code.unpacked_bytes(digest)  # counted here once, and not while the database is ours
        return {"code": digest, "code_size": len(zip_bytes)}

    def delete(self, name: str, namespace: str = DEFAULT_NAMESPACE) -> Function:
        """Forget it and all its versions, and return what it was: its id is what sandboxd must be told."""
        with writing(self._engine) as connection:
            function = find(connection, name, namespace)
            if not connection.execute(delete(table).where(table.c.function_id == function.function_id)).rowcount:
                raise missing(name)
            forget_function(connection, function.function_id, namespace)
            _forget_events(connection, function)
        self.collect_code()
        return function

    def copy(
        self,
        name: str,
        new_name: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        target_namespace: str = "",
        override: bool = False,
        copy_configuration: bool = True,
        description: str | None = None,
    ) -> tuple[Function, Function | None]:
        """A new function with another's code and, with `copy_configuration`, its configuration and event settings.

        No version, alias or trigger comes along.

        With it the function that it replaced where `override` let it: that one is deleted, and its id is what sandboxd must be told.

        Raises BadRequest, Conflict, LimitExceeded, FunctionNotFound, NamespaceNotFound.
        """
        checked_name(new_name, "new_name")
        where = target_namespace or namespace
        described = {} if description is None else {"description": checked_description(description)}
        with writing(self._engine) as connection:
            next_numbers(connection, FUNCTIONS_COUNTER)
            source = find(connection, name, namespace)
            if (source.namespace, source.name) == (where, new_name):
                raise BadRequest(f"function {name} can't be copied to itself", field="new_name")
            overwritten = _take_away(connection, new_name, where) if override else None
            self._check_room(connection, new_name, where)
            configuration = {**({} if copy_configuration else {**self._checks.defaults, "scf": {}}), **described}
            function = replace(source, **configuration, namespace=where, name=new_name, **_newborn())
            _add(connection, function)
            if copy_configuration and self.events is not None:
                self.events.copy(connection, source, function)
        if overwritten is not None:
            self.collect_code()
        return function, overwritten

    def decode_code(self, value: Any) -> bytes:
        """The zip of a JSON `{"zip": base64}` object. Raises BadRequest, PayloadTooLarge."""
        return self._checks.code(value)

    def collect_code(self) -> tuple[str, ...]:
        """Let the code store remove what nobody has used for its grace."""
        return collect_unused(self._engine, self._code)

    def _check_room(self, connection: Connection, name: str, namespace: str) -> None:
        require_namespace(connection, namespace)
        inside = table.c.namespace == namespace
        if connection.execute(select(table.c.function_id).where(inside, table.c.name == name)).first():
            raise _exists(name)
        count: int = connection.execute(select(func.count()).select_from(table).where(inside)).scalar_one()
        if count >= (limit := self._settings.limit_functions):
            raise LimitExceeded(
                f"namespace {namespace} has {count} functions, limit {limit}", hint="delete one, or raise the setting limit_functions"
            )

    def _drafts(self, given: Any) -> Any:
        if self.triggers is None and given:
            raise Unsupported("triggers are not available here", field="triggers", hint="leave the list empty")
        return self.triggers.drafts(given) if self.triggers is not None else []

    def _target(self, dead_letter: Any, name: str) -> Mapping[str, str] | None:
        """None where it stays as it is."""
        if dead_letter is UNCHANGED:
            return None
        if self.events is None:
            raise Unsupported("dead letters are not available here", field="dead_letter")
        return self.events.target(dead_letter, name)

    def _point(self, connection: Connection, function: Function, target: Mapping[str, str] | None) -> None:
        if self.events is not None and target is not None:
            self.events.point(connection, function, target)

    def _insert(self, function: Function, drafts: Any, target: Mapping[str, str] | None) -> None:
        try:
            with writing(self._engine) as connection:
                next_numbers(connection, FUNCTIONS_COUNTER)  # one creation at a time, or two could pass the limit together
                self._check_room(connection, function.name, function.namespace)
                _add(connection, function)
                self._point(connection, function, target)
                if self.triggers is not None:
                    self.triggers.attach(connection, function, drafts)
        except IntegrityError as error:
            raise _exists(function.name) from error

    def _change(
        self,
        name: str,
        namespace: str,
        changes: dict[str, Any],
        expected: int | None = None,
        scf: Mapping[str, Any] = NO_EXTRAS,
        *,
        target: Mapping[str, str] | None = None,
        publish: bool = False,
    ) -> Function:
        for _ in range(UPDATE_ATTEMPTS):
            with writing(self._engine) as connection:
                current = find(connection, name, namespace)
                if expected is not None and current.generation != expected:
                    raise Conflict(f"function {name} is at generation {current.generation}, not {expected}", hint="read it again")
                settled = self._bindings.changed(connection, current, changes)
                newer: dict[str, Any] = {"generation": current.generation + 1, "updated_at": time.time(), "scf": {**current.scf, **scf}}
                changed = replace(current, **settled, **newer)
                if (changed.code, changed.handler, changed.runtime) != (current.code, current.handler, current.runtime):
                    self._code.check_handler(changed.code, changed.handler, changed.runtime)
                if (changed.code, changed.layers, changed.runtime) != (current.code, current.layers, current.runtime):
                    self._bindings.check(changed)
                same = (table.c.function_id == current.function_id) & (table.c.generation == current.generation)
                if connection.execute(update(table).where(same).values(changed.to_row())).rowcount:
                    self._point(connection, changed, target)
                    if publish:
                        freeze(connection, changed, self._settings)
                    return changed
        raise Conflict(f"function {name} is being changed by others", hint="try again")


def _newborn() -> dict[str, Any]:
    """What a function has that is made now."""
    now = time.time()
    return {"function_id": str(uuid.uuid4()), "generation": 1, "created_at": now, "updated_at": now}


def _forget_events(connection: Connection, function: Function) -> None:
    """Its triggers and event settings go with a function; a timer would find another of its name."""
    for owned in (triggers, event_settings):
        connection.execute(delete(owned).where(owned.c.function_id == function.function_id))


def _take_away(connection: Connection, name: str, namespace: str) -> Function | None:
    """Delete it where there is one."""
    try:
        found = find(connection, name, namespace)
    except FunctionNotFound:
        return None
    connection.execute(delete(table).where(table.c.function_id == found.function_id))
    forget_function(connection, found.function_id, namespace)
    _forget_events(connection, found)
    return found


def _add(connection: Connection, function: Function) -> None:
    connection.execute(insert(table).values(function.to_row()))
    add_default(connection, function)


def _exists(name: str) -> Conflict:
    return Conflict(f"function {name!r} exists already", code="function_exists", hint="change it with PATCH, its code with PUT …/code")
