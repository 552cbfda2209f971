"""A function's row by its name, as every class of this package finds it, and holds it while it changes something of the function."""

from __future__ import annotations

from sqlalchemy import Connection, select

from server.errors import FunctionNotFound
from server.functions.checks import is_name, shown
from server.functions.model import Function
from server.functions.namespaces import require_namespace
from server.store.tables import functions as table


def find(connection: Connection, name: str, namespace: str) -> Function:
    """The function's `$LATEST`. Raises FunctionNotFound, NamespaceNotFound."""
    if is_name(name) and is_name(namespace):  # nothing else should a database be asked for
        query = select(table).where(table.c.namespace == namespace, table.c.name == name)
        row = connection.execute(query).mappings().one_or_none()
        if row is not None:
            return Function.from_row(row)
    require_namespace(connection, namespace)
    raise missing(name)


def missing(name: str) -> FunctionNotFound:
    return FunctionNotFound(f"no function {shown(name)}", hint="GET /v1/functions lists what there is")
