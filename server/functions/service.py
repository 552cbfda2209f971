"""Creating, changing and looking up functions. Blocking, a few milliseconds each: the API calls it through a thread.

Each change is one transaction that also raises the generation, so a sandbox made for an older one is never taken for the
new. The package is unpacked before its transaction; one that no function came to own is collected later.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine, delete, false, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from sandbox.log import pairs
from sandbox.settings import Settings
from server.errors import BadRequest, Conflict, LimitExceeded
from server.functions.checks import Checks, checked_name, checked_text, shown
from server.functions.codestore import CodeStore
from server.functions.handlers import split_handler
from server.functions.model import DEFAULT_NAMESPACE, LATEST, STATE, Function
from server.functions.namespaces import require_namespace
from server.functions.rows import find, find_version, missing
from server.store.engine import next_numbers, writing
from server.store.tables import FUNCTIONS_COUNTER, versions
from server.store.tables import functions as table

#: How often an update starts over after somebody else's came first, when the client has named no generation.
UPDATE_ATTEMPTS: Final = 5
#: What `list` orders by, and what is the same of every function.
ORDERS: Final = ("name", "created_at", "updated_at")
CONSTANTS: Final[Mapping[str, str]] = {"state": STATE, "type": "Event"}
NO_FILTERS: Final[Mapping[str, Sequence[str]]] = {}

_log = logging.getLogger(__name__)


class Functions:
    """All functions of one installation. Methods raise `server.errors.ApiError`s and SQLAlchemyError."""

    def __init__(self, engine: Engine, settings: Settings, codestore: CodeStore) -> None:
        self._engine = engine
        self._settings = settings
        self._code = codestore
        self._checks = Checks(settings)

    def create(self, payload: Any, namespace: str = DEFAULT_NAMESPACE) -> Function:
        """Make a function from REST's creation body. Raises BadRequest, PayloadTooLarge, Conflict, LimitExceeded,
        NamespaceNotFound."""
        checked_name(namespace, "namespace")
        configuration = self._checks.creation(payload)
        data = self._checks.code(payload["code"])
        with self._engine.connect() as connection:
            self._check_room(connection, configuration["name"], namespace)
        digest = self._code.put_zip(data, handler=configuration["handler"], runtime=configuration["runtime"])
        now = time.time()
        function = Function(
            namespace=namespace,
            function_id=str(uuid.uuid4()),
            generation=1,
            code=digest,
            code_size=len(data),
            created_at=now,
            updated_at=now,
            **configuration,
        )
        self._insert(function)
        return function

    def get(self, name: str, namespace: str = DEFAULT_NAMESPACE, qualifier: str = LATEST) -> Function:
        """Raises FunctionNotFound, NamespaceNotFound, QualifierNotFound."""
        with self._engine.connect() as connection:
            return find_version(connection, find(connection, name, namespace), qualifier)

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
        wanted = [table.c.namespace == namespace, *_conditions(search, description, filters)]
        ordered = select(table).where(*wanted).order_by(*_order(order, order_by)).offset(offset).limit(limit)
        with self._engine.connect() as connection:
            require_namespace(connection, namespace)
            total: int = connection.execute(select(func.count()).select_from(table).where(*wanted)).scalar_one()
            return total, [Function.from_row(row) for row in connection.execute(ordered).mappings()]

    def update(self, name: str, changes: Any, namespace: str = DEFAULT_NAMESPACE, *, expected_generation: int | None = None) -> Function:
        """Change the configuration. With `expected_generation`, only if that is still the current one, else Conflict."""
        checked = self._checks.changes(changes)
        return self._change(name, namespace, checked, expected_generation)

    def update_code(self, name: str, zip_bytes: bytes, handler: str | None = None, namespace: str = DEFAULT_NAMESPACE) -> Function:
        """Give the function another package, and with it another handler if one is named."""
        self._checks.code_bytes(zip_bytes)
        current = self.get(name, namespace)
        if handler is not None:
            split_handler(handler)
        digest = self._code.put_zip(zip_bytes, handler=handler or current.handler, runtime=current.runtime)
        changes: dict[str, Any] = {"code": digest, "code_size": len(zip_bytes)}
        function = self._change(name, namespace, changes | ({} if handler is None else {"handler": handler}))
        self.collect_code()
        return function

    def delete(self, name: str, namespace: str = DEFAULT_NAMESPACE) -> Function:
        """Forget it and all its versions, and return what it was: its id is what sandboxd must be told."""
        with writing(self._engine) as connection:
            function = find(connection, name, namespace)
            if not connection.execute(delete(table).where(table.c.function_id == function.function_id)).rowcount:
                raise missing(name)
        self.collect_code()
        return function

    def decode_code(self, value: Any) -> bytes:
        """The zip of a JSON `{"zip": base64}` object. Raises BadRequest, PayloadTooLarge."""
        return self._checks.code(value)

    def collect_code(self) -> tuple[str, ...]:
        """Let the code store remove what no function has used for its grace; a failure is logged, the next call tries again."""
        try:
            with self._engine.connect() as connection:
                used = set(connection.execute(select(table.c.code).union(select(versions.c.code))).scalars())
            return tuple(self._code.collect(used))
        except OSError as error:
            _log.warning(pairs("collecting unused code failed", error=error))
            return ()

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

    def _insert(self, function: Function) -> None:
        try:
            with writing(self._engine) as connection:
                next_numbers(connection, FUNCTIONS_COUNTER)  # one creation at a time, or two could pass the limit together
                self._check_room(connection, function.name, function.namespace)
                connection.execute(insert(table).values(function.to_row()))
        except IntegrityError as error:
            raise _exists(function.name) from error

    def _change(self, name: str, namespace: str, changes: dict[str, Any], expected: int | None = None) -> Function:
        for _ in range(UPDATE_ATTEMPTS):
            with writing(self._engine) as connection:
                current = find(connection, name, namespace)
                if expected is not None and current.generation != expected:
                    raise Conflict(f"function {name} is at generation {current.generation}, not {expected}", hint="read it again")
                changed = replace(current, **changes, generation=current.generation + 1, updated_at=time.time())
                if (changed.code, changed.handler, changed.runtime) != (current.code, current.handler, current.runtime):
                    self._code.check_handler(changed.code, changed.handler, changed.runtime)
                same = (table.c.function_id == current.function_id) & (table.c.generation == current.generation)
                if connection.execute(update(table).where(same).values(changed.to_row())).rowcount:
                    return changed
        raise Conflict(f"function {name} is being changed by others", hint="try again")


def _conditions(search: str, description: str, filters: Mapping[str, Sequence[str]]) -> Iterator[ColumnElement[bool]]:
    for field, column, part in (("search", table.c.name, search), ("description", table.c.description, description)):
        if part:
            yield column.icontains(checked_text(field, part), autoescape=True)
    for field, values in filters.items():
        if field == "runtime":
            yield func.lower(table.c.runtime).in_([checked_text(field, value).lower() for value in values])
        elif field not in CONSTANTS:
            raise BadRequest(f"filters: {shown(field)} is not known", field="filters", hint=f"runtime, {', '.join(CONSTANTS)}")
        elif CONSTANTS[field] not in values:
            yield false()


def _order(order: str, order_by: str) -> tuple[Any, ...]:
    """By that column, and by name where it is the same."""
    if order not in ("asc", "desc"):
        raise BadRequest(f"order: {shown(order)} is neither asc nor desc", field="order")
    if order_by not in ORDERS:
        raise BadRequest(f"order_by: {shown(order_by)} is not known", field="order_by", hint=f"one of {', '.join(ORDERS)}")
    column = table.c[order_by]
    return (column.asc() if order == "asc" else column.desc(), table.c.name)


def _exists(name: str) -> Conflict:
    return Conflict(f"function {name!r} exists already", code="function_exists", hint="change it with PATCH, its code with PUT …/code")
