"""Quotas as rows: what a namespace and its functions may take, read and changed in the caller's transaction.

A change takes the next number of one counter as the namespace's epoch, and holds the counter until it commits: changes are one after the
other, and no epoch is ever given twice, whatever is deleted and made again. sandboxd refuses what was read at an older epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, select, update

from sandbox.settings import Settings
from sandbox.spec import FunctionSpec
from server.store.engine import next_numbers
from server.store.tables import QUOTAS_COUNTER, provisioned, quotas, reservations

_QUOTA = quotas.c.namespace == bindparam("of_namespace")
_SHARES = reservations.c.namespace == bindparam("of_namespace")
# Made once: building a statement costs more than running it.
_BOUNDS = select(
    select(quotas.c.epoch).where(_QUOTA).scalar_subquery().label("epoch"),
    select(quotas.c.total_mb).where(_QUOTA).scalar_subquery().label("total"),
    select(func.count()).select_from(reservations).where(_SHARES).scalar_subquery().label("reservations"),
    select(func.sum(reservations.c.reserved_mb)).where(_SHARES).scalar_subquery().label("reserved"),
    select(reservations.c.reserved_mb).where(reservations.c.function_id == bindparam("of_family")).scalar_subquery().label("mine"),
)


@dataclass(frozen=True, slots=True)
class Quota:
    """A namespace's, in MB of its functions' memory.

    `total_mb` and `reserved_mb` (the sum of all reservations) are what is shown. `is_bound` is False where neither a total nor a
    reservation was ever made: then only the machine bounds the namespace.
    """

    namespace: str
    epoch: int
    total_mb: int
    reserved_mb: int
    is_bound: bool

    @property
    def unreserved_mb(self) -> int:
        """What functions without a reservation share."""
        return max(0, self.total_mb - self.reserved_mb)


def read(connection: Connection, namespace: str, settings: Settings) -> Quota:
    # The epoch first: where another commits between two statements, new figures may go with an old epoch, never the other way round.
    row = connection.execute(select(quotas.c.epoch, quotas.c.total_mb).where(quotas.c.namespace == namespace)).one_or_none()
    query = select(func.count(), func.coalesce(func.sum(reservations.c.reserved_mb), 0)).where(reservations.c.namespace == namespace)
    count, reserved = connection.execute(query).one()
    total = row.total_mb if row is not None else None
    epoch = row.epoch if row is not None else 0
    return Quota(namespace, epoch, settings.default_total_mb if total is None else total, int(reserved), total is not None or count > 0)


def reserved_mb(connection: Connection, family: str) -> int | None:
    """A function's reservation; None where it has none."""
    return connection.execute(select(reservations.c.reserved_mb).where(reservations.c.function_id == family)).scalar_one_or_none()


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a specification says of quotas (`sandbox.spec.FunctionSpec`)."""

    quota_epoch: int
    reserved_mb: int | None
    unreserved_mb: int | None

    def apply(self, spec: FunctionSpec) -> FunctionSpec:
        return replace(spec, quota_epoch=self.quota_epoch, reserved_mb=self.reserved_mb, unreserved_mb=self.unreserved_mb)


def bounds(connection: Connection, namespace: str, family: str, settings: Settings) -> Bounds:
    """Of one function, in one statement: this is on the way of calls."""
    row = connection.execute(_BOUNDS, {"of_namespace": namespace, "of_family": family}).one()
    total = settings.default_total_mb if row.total is None else row.total
    is_bound = row.total is not None or row.reservations > 0
    return Bounds(row.epoch or 0, row.mine, max(0, total - int(row.reserved or 0)) if is_bound else None)


def change(connection: Connection, namespace: str) -> int:
    """Begin a change of a namespace's quotas: its new epoch. Everything after it in the transaction is exclusive."""
    epoch = next_numbers(connection, QUOTAS_COUNTER)
    if not connection.execute(update(quotas).where(quotas.c.namespace == namespace).values(epoch=epoch)).rowcount:
        connection.execute(insert(quotas).values(namespace=namespace, total_mb=None, epoch=epoch))
    return epoch


def forget_function(connection: Connection, function_id: str, namespace: str) -> None:
    """What a deleted function had goes back to the namespace, and nothing of its versions is provisioned any more."""
    connection.execute(delete(provisioned).where(provisioned.c.family == function_id))
    if reserved_mb(connection, function_id) is not None:
        change(connection, namespace)
        connection.execute(delete(reservations).where(reservations.c.function_id == function_id))


def forget_version(connection: Connection, function_id: str) -> None:
    """`function_id` is the deleted version's own."""
    connection.execute(delete(provisioned).where(provisioned.c.function_id == function_id))


def forget_namespace(connection: Connection, namespace: str) -> None:
    """Its total was a deleted namespace's: one of the same name starts anew. The row stays, since its epoch may not begin again."""
    change(connection, namespace)
    connection.execute(update(quotas).where(quotas.c.namespace == namespace).values(total_mb=None))


def provisioned_mb(connection: Connection, *conditions: ColumnElement[bool]) -> int:
    """Memory of the workers that the matching rows of `provisioned` want at most."""
    query = select(func.coalesce(func.sum(provisioned.c.peak * provisioned.c.memory_mb), 0)).where(*conditions)
    return int(connection.execute(query).scalar_one())


def provisioned_by_family(connection: Connection, namespace: str) -> dict[str, int]:
    """The same for each function of a namespace that has any."""
    total = func.sum(provisioned.c.peak * provisioned.c.memory_mb)
    query = select(provisioned.c.family, total.label("total")).where(provisioned.c.namespace == namespace).group_by(provisioned.c.family)
    return {row.family: int(row.total) for row in connection.execute(query)}
