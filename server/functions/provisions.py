"""What is provisioned of published versions, as rows: how many workers, and the schedule that changes it.

A row's revision grows with every change: of two that come to sandboxd in the wrong order, the newer one holds. Who carries it there is
`reconciler`. A version is whatever `get(name, namespace, version)` finds; its rows go by its own `function_id`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from sqlalchemy import Connection, Engine, RowMapping, delete, insert, select

from sandbox.settings import Settings
from server.errors import BadRequest, Conflict, FunctionNotFound, LimitExceeded
from server.functions import quotas
from server.functions.checks import checked_integer, shown
from server.functions.model import DEFAULT_NAMESPACE, LATEST, Function
from server.functions.provisioning import Action, check_cron, largest, number_at
from server.store.engine import next_numbers, writing
from server.store.tables import QUOTAS_COUNTER, functions, reservations
from server.store.tables import provisioned as table
from server.store.times import rfc3339

#: Fits the column; the limit is a setting.
MOST = (1 << 31) - 1
_ACTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Target:
    """One row, and the time zone of its schedule. `number` is the configured one, `actions` change it over time."""

    function_id: str
    family: str
    namespace: str
    function: str
    version: str
    number: int
    memory_mb: int
    actions: tuple[Action, ...]
    revision: int
    updated_at: float
    zone: ZoneInfo

    @property
    def peak(self) -> int:
        """What it can come to: quotas are checked against that."""
        return largest(self.number, self.actions)

    def at(self, now: float) -> tuple[int, float]:
        """(workers wanted at `now`, when that changes next)."""
        return number_at(self.number, self.actions, since=self.updated_at, now=now, zone=self.zone)

    def to_json(self) -> dict[str, Any]:
        return {
            "function": self.function,
            "namespace": self.namespace,
            "version": self.version,
            "number": self.number,
            "schedule": [action.to_json() for action in self.actions],
            "updated_at": rfc3339(self.updated_at),
        }

    def state(self, row: Mapping[str, Any] | None, now: float) -> dict[str, Any]:
        """{"allocated", "available", "status": "done"|"in_progress"|"failed", "reason"} from what sandboxd says of it (None: nothing)."""
        wanted = self.at(now)[0]
        nothing = {"allocated": wanted, "available": 0, "status": "in_progress" if wanted else "done", "reason": ""}
        return nothing if row is None else {key: row[key] for key in nothing}

    @classmethod
    def from_row(cls, row: RowMapping, zone: ZoneInfo) -> Target:
        values = {key: value for key, value in row.items() if key != "peak"}
        return cls(actions=tuple(Action.from_json(action) for action in orjson.loads(values.pop("schedule"))), zone=zone, **values)


@dataclass(frozen=True, slots=True)
class _Share:
    """Of what may be provisioned (`limit_mb`), how much is; by the function's reservation or by what functions without one share."""

    used_mb: int
    limit_mb: int
    is_reserved: bool


class Provisions:
    """All of one installation. Blocking; raises `server.errors.ApiError`s and SQLAlchemyError."""

    def __init__(self, engine: Engine, settings: Settings, get: Callable[[str, str, str], Function]) -> None:
        self._engine, self._settings, self._get = engine, settings, get
        self._zone = ZoneInfo(settings.timer_zone)

    def find(self, name: str, version: str, namespace: str = DEFAULT_NAMESPACE) -> tuple[Function, Target | None]:
        """The version and what is provisioned of it. Raises FunctionNotFound, QualifierNotFound."""
        function = self._get(name, namespace, version)
        with self._engine.connect() as connection:
            row = connection.execute(select(table).where(table.c.function_id == function.function_id)).mappings().one_or_none()
        return function, Target.from_row(row, self._zone) if row is not None else None

    def of_function(self, name: str, namespace: str = DEFAULT_NAMESPACE) -> tuple[int, list[Target]]:
        """How many more workers of `$LATEST`'s memory the quotas have room for, and what is provisioned of its versions, by number.

        Raises FunctionNotFound, NamespaceNotFound.
        """
        function = self._get(name, namespace, LATEST)
        with self._engine.connect() as connection:
            rows = connection.execute(select(table).where(table.c.family == function.function_id)).mappings()
            found = sorted((Target.from_row(row, self._zone) for row in rows), key=lambda target: int(target.version))
            share = self._share(connection, function.function_id, namespace)
        return max(0, share.limit_mb - share.used_mb) // function.memory, found

    def put(self, name: str, version: str, payload: Any, namespace: str = DEFAULT_NAMESPACE) -> Target:
        """From `{"number", "schedule": [{"name", "number", "cron"}, …]}`, whole.

        Raises BadRequest, FunctionNotFound, QualifierNotFound, LimitExceeded (`provisioned_number_limit`, `provisioned_actions_limit`),
        Conflict (`provisioned_latest`, `provisioned_exceeds_reserved`, `provisioned_exceeds_available`).
        """
        number, actions = self._checked(payload)
        function = self._get(name, namespace, version)
        if function.version == LATEST:
            raise Conflict(
                f"version: {LATEST} changes, only published versions have provisioned workers",
                code="provisioned_latest",
                hint="publish a version first",
            )
        with writing(self._engine) as connection:
            revision = next_numbers(connection, QUOTAS_COUNTER)
            family = _hold(connection, name, namespace)
            now = time.time()
            target = Target(
                function.function_id, family, namespace, name, function.version, number, function.memory, actions, revision, now, self._zone
            )
            connection.execute(delete(table).where(table.c.function_id == function.function_id))
            self._check_room(connection, target)
            connection.execute(insert(table).values(_row(target)))
        return target

    def delete(self, name: str, version: str, namespace: str = DEFAULT_NAMESPACE) -> tuple[str, int]:
        """(function_id, revision) of what is to be released. Raises FunctionNotFound, QualifierNotFound."""
        function = self._get(name, namespace, version)
        return function.function_id, self.forget(function.function_id)

    def forget(self, function_id: str) -> int:
        """Of a version that may be no more."""
        with writing(self._engine) as connection:
            revision = next_numbers(connection, QUOTAS_COUNTER)
            connection.execute(delete(table).where(table.c.function_id == function_id))
        return revision

    def targets(self) -> list[Target]:
        with self._engine.connect() as connection:
            return [Target.from_row(row, self._zone) for row in connection.execute(select(table)).mappings()]

    def _check_room(self, connection: Connection, target: Target) -> None:
        """Provisioned workers are for calls, which the quotas have to let in: more would only stand idle."""
        share = self._share(connection, target.family, target.namespace)
        total = share.used_mb + target.peak * target.memory_mb
        if total <= share.limit_mb:
            return
        if share.is_reserved:
            raise Conflict(
                f"{total} MB would be provisioned of function {target.function}, it has reserved {share.limit_mb} MB",
                code="provisioned_exceeds_reserved",
                hint="reserve more first",
            )
        raise Conflict(
            f"{total} MB would be provisioned in namespace {target.namespace}, {share.limit_mb} MB are unreserved",
            code="provisioned_exceeds_available",
            hint="provision less, or raise the total",
        )

    def _share(self, connection: Connection, family: str, namespace: str) -> _Share:
        reserved = quotas.reserved_mb(connection, family)
        if reserved is not None:
            return _Share(quotas.provisioned_mb(connection, table.c.family == family), reserved, is_reserved=True)
        others = ~table.c.family.in_(select(reservations.c.function_id))
        used = quotas.provisioned_mb(connection, table.c.namespace == namespace, others)
        return _Share(used, quotas.read(connection, namespace, self._settings).unreserved_mb, is_reserved=False)

    def _checked(self, payload: Any) -> tuple[int, tuple[Action, ...]]:
        if not isinstance(payload, dict):
            raise BadRequest("the body is not a JSON object", hint='{"number": 2}')
        if unknown := sorted(payload.keys() - {"number", "schedule"}):
            raise BadRequest(f"unknown field {shown(unknown[0])}", field=unknown[0], hint="known are number, schedule")
        schedule = payload.get("schedule") or []
        if not isinstance(schedule, list):
            raise BadRequest("schedule is not a list", field="schedule")
        if len(schedule) > (limit := self._settings.limit_provisioned_actions):
            raise LimitExceeded(f"schedule has {len(schedule)} actions, limit {limit}", code="provisioned_actions_limit")
        actions = tuple(self._action(index, given) for index, given in enumerate(schedule))
        if len({action.name for action in actions}) < len(actions):
            raise BadRequest("schedule has two actions of one name", field="schedule")
        return self._number("number", payload.get("number")), actions

    def _action(self, index: int, given: Any) -> Action:
        field = f"schedule[{index}]"
        if not isinstance(given, Mapping) or set(given) != {"name", "number", "cron"}:
            raise BadRequest(f"{field} is not an object of name, number and cron", field=field)
        name, cron = given["name"], given["cron"]
        if not isinstance(name, str) or not _ACTION_NAME.fullmatch(name):
            raise BadRequest(f"{field}.name is not 1 to 60 letters, digits, _ or -", field=f"{field}.name")
        try:
            if not isinstance(cron, str):
                raise ValueError("it is not a string")
            check_cron(cron)
        except ValueError as error:
            raise BadRequest(
                f"{field}.cron: {error}",
                field=f"{field}.cron",
                hint="second minute hour day month weekday year (in the zone of timers), as in 0 0 9 * * MON-FRI *",
            ) from error
        return Action(name, self._number(f"{field}.number", given["number"]), cron)

    def _number(self, field: str, value: Any) -> int:
        number = checked_integer(field, value, 0, MOST)
        if number > (limit := self._settings.limit_provisioned):
            raise LimitExceeded(
                f"{field}: {number} workers, limit {limit}", code="provisioned_number_limit", hint="the setting limit_provisioned"
            )
        return number


def _hold(connection: Connection, name: str, namespace: str) -> str:
    """The function's id; it can't be deleted until the commit. Raises FunctionNotFound."""
    query = select(functions.c.function_id).where(functions.c.namespace == namespace, functions.c.name == name).with_for_update()
    family: str | None = connection.execute(query).scalar_one_or_none()
    if family is None:
        raise FunctionNotFound(f"no function {name!r}", hint="GET /v1/functions lists what there is")
    return family


def _row(target: Target) -> dict[str, Any]:
    values = {column.name: getattr(target, column.name) for column in table.columns if column.name != "schedule"}
    return values | {"schedule": orjson.dumps([action.to_json() for action in target.actions]).decode()}
