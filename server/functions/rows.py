"""A function's row by its name and its versions' rows, as every class of this package finds them, and holds the function meanwhile."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection, bindparam, select, update

from server.errors import FunctionNotFound, QualifierNotFound
from server.functions.checks import is_name, shown
from server.functions.model import LATEST, Function
from server.functions.namespaces import require_namespace
from server.store.tables import functions as table
from server.store.tables import versions

# Made once: building a statement costs more than running it.
_BY_NAME: Final = select(table).where(table.c.namespace == bindparam("of_namespace"), table.c.name == bindparam("of_name"))
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


def find(connection: Connection, name: str, namespace: str) -> Function:
    """The function's `$LATEST`. Raises FunctionNotFound, NamespaceNotFound."""
    if is_name(name) and is_name(namespace):  # nothing else should a database be asked for
        row = connection.execute(_BY_NAME, {"of_namespace": namespace, "of_name": name}).mappings().one_or_none()
        if row is not None:
            return Function.from_row(row)
    require_namespace(connection, namespace)
    raise missing(name)


def hold(connection: Connection, name: str, namespace: str) -> Function:
    """`find`, and nobody else changes the function, its versions or its aliases before this transaction has ended."""
    if is_name(name) and is_name(namespace):
        mine = (table.c.namespace == namespace, table.c.name == name)
        connection.execute(update(table).where(*mine).values(published=table.c.published))
    return find(connection, name, namespace)


def find_versions(connection: Connection, function: Function, names: Iterable[str]) -> dict[str, Function]:
    """Those of the named versions that there are; `$LATEST` is one."""
    wanted = set(names)
    found = {LATEST: function} if LATEST in wanted else {}
    if numbers := [int(name) for name in wanted if _NUMBER.fullmatch(name)]:
        query = select(versions).where(versions.c.function_id == function.function_id, versions.c.number.in_(numbers))
        for row in connection.execute(query).mappings():
            found[str(row["number"])] = function.version_from_row(row)
    return found


def find_version(connection: Connection, function: Function, name: str) -> Function:
    """Raises QualifierNotFound."""
    found = find_versions(connection, function, [name]).get(name)
    if found is None:
        raise missing_version(function.name, name)
    return found


def missing_version(function: str, name: str) -> QualifierNotFound:
    hint = f"GET /v1/functions/{function}/versions lists what there is"
    return QualifierNotFound(f"function {function} has no version {shown(name)}", code="version_not_found", hint=hint)


def missing(name: str) -> FunctionNotFound:
    return FunctionNotFound(f"no function {shown(name)}", hint="GET /v1/functions lists what there is")
