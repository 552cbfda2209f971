"""What `Functions.list` may be asked: parts of texts, filters and orders, as conditions on the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, false, func

from server.errors import BadRequest
from server.functions.checks import checked_text, shown
from server.functions.model import STATE
from server.store.tables import functions as table

#: What functions are ordered by, and what is the same of every one.
ORDERS: Final = ("name", "created_at", "updated_at")
CONSTANTS: Final[Mapping[str, str]] = {"state": STATE, "type": "Event"}
NO_FILTERS: Final[Mapping[str, Sequence[str]]] = {}


def conditions(search: str, description: str, filters: Mapping[str, Sequence[str]]) -> Iterator[ColumnElement[bool]]:
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


def ordering(order: str, order_by: str) -> tuple[Any, ...]:
    """By that column, and by name where it is the same."""
    if order not in ("asc", "desc"):
        raise BadRequest(f"order: {shown(order)} is neither asc nor desc", field="order")
    if order_by not in ORDERS:
        raise BadRequest(f"order_by: {shown(order_by)} is not known", field="order_by", hint=f"one of {', '.join(ORDERS)}")
    column = table.c[order_by]
    return (column.asc() if order == "asc" else column.desc(), table.c.name)
