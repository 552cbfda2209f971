"""Reserved and total concurrency, in MB of the functions' memory as SCF counts it (how many calls that is depends on each one's memory).

    total         what a namespace's functions may use at once; a setting gives it where it was never set
    reserved      a function's private part of the total, over all its versions: nobody else's, and its own bound; 0 shuts it off
    unreserved    the rest, which the functions without a reservation share; a part of the total stays unreserved always

Nothing is counted here: sandboxd counts, and takes the quotas with each call. A change is whole when it is answered, so SCF's
"reserved in progress" never is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from sandbox.settings import Settings
from sandbox.spec import FunctionSpec
from server.errors import Conflict, FunctionNotFound, LimitExceeded
from server.functions import quotas
from server.functions.checks import MAX_INIT_TIMEOUT_SECONDS, checked_integer, checked_name
from server.functions.model import DEFAULT_NAMESPACE, Function
from server.functions.namespaces import require_namespace
from server.store.engine import writing
from server.store.tables import functions, namespaces, provisioned, reservations
from server.store.tables import quotas as quota_table

MOST_MB: Final = (1 << 40) - 1


@dataclass(frozen=True, slots=True)
class QuotaChange:
    """What sandboxd is told after the commit. `family` is empty where a total was changed."""

    namespace: str
    epoch: int
    family: str = ""
    is_reserved: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """Of one function: its reservation (None: none), and what is provisioned of its versions at most."""

    reserved_mb: int | None = None
    provisioned_mb: int = 0


class Concurrency:
    """All quotas of one installation. Blocking; raises `server.errors.ApiError`s and SQLAlchemyError. `get` finds a function by name and
    namespace."""

    def __init__(self, engine: Engine, settings: Settings, get: Callable[[str, str], Function]) -> None:
        self._engine, self._settings, self._get = engine, settings, get

    def bounded(self, spec: FunctionSpec) -> FunctionSpec:
        """The specification with the quotas that hold now."""
        with self._engine.connect() as connection:
            return quotas.bounds(connection, spec.namespace, spec.family, self._settings).apply(spec)

    # -- a function's reservation ---------------------------------------------------------------------------------------

    def reservation(self, name: str, namespace: str = DEFAULT_NAMESPACE) -> dict[str, Any]:
        """{"function", "namespace", "reserved_mb" (None: none), "total_mb", "unreserved_mb"}. Raises FunctionNotFound."""
        function = self._get(name, namespace)
        with self._engine.connect() as connection:
            quota = quotas.read(connection, namespace, self._settings)
            mine = quotas.reserved_mb(connection, function.function_id)
        shares = {"total_mb": quota.total_mb, "unreserved_mb": quota.unreserved_mb}
        return {"function": name, "namespace": namespace, "reserved_mb": mine, **shares}

    def shares(self, namespace: str = DEFAULT_NAMESPACE) -> dict[str, Share]:
        """By function id, of the namespace's functions that have any; the others have none of either."""
        with self._engine.connect() as connection:
            reserved = select(reservations.c.function_id, reservations.c.reserved_mb).where(reservations.c.namespace == namespace)
            by_function = {row.function_id: row.reserved_mb for row in connection.execute(reserved)}
            set_aside = quotas.provisioned_by_family(connection, namespace)
        return {family: Share(by_function.get(family), set_aside.get(family, 0)) for family in by_function.keys() | set_aside.keys()}

    def reserve(self, name: str, reserved_mb: Any, namespace: str = DEFAULT_NAMESPACE) -> QuotaChange:
        """Give the function a share of its own. Raises BadRequest, FunctionNotFound, Conflict `reserved_exceeds_total`, LimitExceeded
        `reserved_concurrency_limit` where too little would stay unreserved. Less than before, and 0, always goes."""
        wanted = checked_integer("reserved_mb", reserved_mb, 0, MOST_MB)
        family = self._get(name, namespace).function_id
        with writing(self._engine) as connection:
            epoch = quotas.change(connection, namespace)
            _hold(connection, family, name)
            mine = quotas.reserved_mb(connection, family)
            self._check_room(quotas.read(connection, namespace, self._settings), wanted, mine)
            if mine is None:
                connection.execute(insert(reservations).values(function_id=family, namespace=namespace, reserved_mb=wanted))
            else:
                connection.execute(update(reservations).where(reservations.c.function_id == family).values(reserved_mb=wanted))
        return QuotaChange(namespace, epoch, family, is_reserved=True)

    def release(self, name: str, namespace: str = DEFAULT_NAMESPACE) -> QuotaChange:
        """Back to the shared part, also where there was no reservation. Raises FunctionNotFound."""
        family = self._get(name, namespace).function_id
        with writing(self._engine) as connection:
            epoch = quotas.change(connection, namespace)
            connection.execute(delete(reservations).where(reservations.c.function_id == family))
        return QuotaChange(namespace, epoch, family)

    def _check_room(self, quota: quotas.Quota, wanted: int, mine: int | None) -> None:
        if wanted <= (mine or 0):
            return
        if wanted > quota.total_mb:
            raise Conflict(
                f"{wanted} MB are more than the total of namespace {quota.namespace}, {quota.total_mb} MB",
                code="reserved_exceeds_total",
                hint="raise the total first: `hearth account set-total`",
            )
        left = quota.total_mb - (quota.reserved_mb - (mine or 0)) - wanted
        if left < (least := self._least_unreserved(quota.total_mb)):
            raise LimitExceeded(
                f"{left} MB of namespace {quota.namespace} would stay unreserved, at least {least} MB of {quota.total_mb} MB have to",
                code="reserved_concurrency_limit",
                hint="reserve less, or raise the total",
            )

    def _least_unreserved(self, total_mb: int) -> int:
        return math.ceil(total_mb * self._settings.unreserved_percent / 100)

    # -- totals ---------------------------------------------------------------------------------------------------------

    def set_total(self, namespace: Any, total_mb: Any) -> QuotaChange:
        """What a namespace's functions may use together. Raises BadRequest, NamespaceNotFound, LimitExceeded:
        `user_total_concurrency_limit` above the largest, `total_concurrency_limit` where reservations need more."""
        namespace = checked_name(namespace, "namespace")
        wanted = checked_integer("total_mb", total_mb, 1, MOST_MB)
        if wanted > (largest := self._settings.limit_total_mb):
            raise LimitExceeded(
                f"total_mb: {wanted} is over the limit of {largest}", code="user_total_concurrency_limit", hint="the setting limit_total_mb"
            )
        with writing(self._engine) as connection:
            require_namespace(connection, namespace)
            epoch = quotas.change(connection, namespace)
            reserved = quotas.read(connection, namespace, self._settings).reserved_mb
            if reserved and wanted < reserved + (least := self._least_unreserved(wanted)):
                raise LimitExceeded(
                    f"{reserved} MB of namespace {namespace} are reserved and {least} MB have to stay unreserved: {wanted} MB are too few",
                    code="total_concurrency_limit",
                    hint="take back reservations first",
                )
            connection.execute(update(quota_table).where(quota_table.c.namespace == namespace).values(total_mb=wanted))
        return QuotaChange(namespace, epoch)

    def account(self, namespace: str = "") -> dict[str, Any]:
        """{"namespaces": […], "total_mb", "reserved_mb", "provisioned_mb", "limits": {…}}: what is used of what there may be, by all
        namespaces or by one. Raises NamespaceNotFound."""
        with self._engine.connect() as connection:
            if namespace:
                require_namespace(connection, namespace)
            rows = [self._usage(connection, name) for name in ([namespace] if namespace else self._namespaces(connection))]
        sums = {key: sum(row[key] for row in rows) for key in ("total_mb", "reserved_mb", "provisioned_mb")}
        return {"namespaces": rows, **sums, "limits": self._limits()}

    def _namespaces(self, connection: Connection) -> list[str]:
        return sorted(connection.execute(select(namespaces.c.name)).scalars())

    def _usage(self, connection: Connection, namespace: str) -> dict[str, Any]:
        quota = quotas.read(connection, namespace, self._settings)
        names = select(functions.c.name).where(functions.c.namespace == namespace).order_by(functions.c.name)
        reserved = select(func.count()).where(reservations.c.namespace == namespace)
        found = list(connection.execute(names).scalars())
        return {
            "namespace": namespace,
            "functions": found,
            "functions_count": len(found),
            "total_mb": quota.total_mb,
            "reserved_mb": quota.reserved_mb,
            "reserved_functions": connection.execute(reserved).scalar_one(),
            "unreserved_mb": quota.unreserved_mb,
            "provisioned_mb": quotas.provisioned_mb(connection, provisioned.c.namespace == namespace),
        }

    def _limits(self) -> dict[str, Any]:
        s = self._settings
        return {
            "namespaces": s.limit_namespaces,
            "functions": s.limit_functions,
            "timeout": s.limit_timeout_seconds,
            "init_timeout": MAX_INIT_TIMEOUT_SECONDS,
            "memory": s.limit_memory_mb,
            "concurrency": s.limit_concurrency,
            "timers": s.limit_timers,
            "object_triggers": s.limit_object_triggers,
            "http_triggers": s.limit_http_triggers,
            "total_mb": s.limit_total_mb,
            "unreserved_percent": s.unreserved_percent,
            "provisioned": s.limit_provisioned,
            "provisioned_actions": s.limit_provisioned_actions,
        }


def _hold(connection: Connection, function_id: str, name: str) -> None:
    """Keep the function from being deleted until the commit. Raises FunctionNotFound where it just was."""
    query = select(functions.c.function_id).where(functions.c.function_id == function_id).with_for_update()
    if connection.execute(query).first() is None:
        raise FunctionNotFound(f"no function {name!r}", hint="GET /v1/functions lists what there is")
