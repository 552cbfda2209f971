"""ListFunctions' selection: what SCF filters, orders and pages by, over functions already read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from server.functions.concurrency import Share
from server.functions.model import Function
from server.scf.configuration import listed, shown
from server.scf.errors import ScfError
from server.scf.parameters import Parameters

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 1000
MAX_FILTERS: Final = 10
MAX_VALUES: Final = 20
NO_SHARE: Final = Share()

_KEYS: Final[Mapping[str, Callable[[Function], Any]]] = {
    "AddTime": lambda function: function.created_at,
    "ModTime": lambda function: function.updated_at,
    "FunctionName": lambda function: function.name,
}

#: Filters by a field that GetFunction shows as it is.
_SHOWN: Final = ("Status", "Runtime", "Type", "Role", "AsyncRunEnable", "TraceEnable")
#: None of these exists here: whoever looks for one finds nothing.
_NOWHERE: Final = ("VpcId", "SubnetId", "ClsTopicId", "ClsLogsetId", "CfsId", "CfsMountInsId", "Eip")


def page(parameters: Parameters) -> tuple[int, int]:
    """(Offset, Limit), numbers or, as ListAliases' model has them, strings. Raises ScfError."""
    offset, limit = parameters.numeral("Offset"), parameters.numeral("Limit", DEFAULT_LIMIT)
    if offset < 0:
        raise ScfError("InvalidParameterValue.Offset", f"Offset: {offset} is negative")
    if not 0 <= limit <= MAX_LIMIT:
        raise ScfError("InvalidParameterValue.Limit", f"Limit: {limit} is not 0 to {MAX_LIMIT}")
    return offset, limit


def descending(parameters: Parameters, default: str) -> bool:
    order = parameters.text("Order") or default
    if order.upper() not in ("ASC", "DESC"):
        raise ScfError("InvalidParameterValue.Order", "Order is neither ASC nor DESC")
    return order.upper() == "DESC"


def select(functions: Sequence[Function], shares: Mapping[str, Share], parameters: Parameters) -> dict[str, Any]:
    """ListFunctions' answer. `shares` by function id. Raises ScfError."""
    offset, limit = page(parameters)
    by = parameters.text("Orderby") or parameters.text("OrderBy") or "ModTime"
    if by not in _KEYS:
        raise ScfError("InvalidParameterValue.OrderBy", f"Orderby is none of {', '.join(_KEYS)}")
    backwards = descending(parameters, "DESC")
    name, description = parameters.text("SearchKey").lower(), parameters.text("Description").lower()
    wanted = _filters(parameters)
    found = [
        function
        for function in functions
        if name in function.name.lower() and description in function.description.lower() and all(check(function) for check in wanted)
    ]
    found.sort(key=lambda function: (_KEYS[by](function), function.name), reverse=backwards)
    rows = [listed(function, shares.get(function.function_id, NO_SHARE)) for function in found[offset : offset + limit]]
    return {"TotalCount": len(found), "Functions": rows}


def _filters(parameters: Parameters) -> list[Callable[[Function], bool]]:
    given = parameters.objects("Filters")
    if len(given) > MAX_FILTERS:
        raise ScfError("InvalidParameterValue.Filters", f"{len(given)} filters, limit {MAX_FILTERS}")
    return [_filter(one.required("Name"), one.texts("Values")) for one in given]


def _filter(name: str, values: list[str]) -> Callable[[Function], bool]:
    if not 1 <= len(values) <= MAX_VALUES:
        raise ScfError(
            "InvalidParameterValue.Filters", f"the filter {name[:60]!a} has {len(values)} values, 1 to {MAX_VALUES} are possible"
        )
    if name.startswith("tag-"):
        key = name.removeprefix("tag-")
        return lambda function: any(tag["Key"] == key and tag["Value"] in values for tag in function.scf.get("Tags", ()))
    if name not in (*_SHOWN, *_NOWHERE, "PublicNetStatus", "Stamp"):
        raise ScfError("InvalidParameterValue.Filters", f"there is no filter {name[:60]!a}")
    return lambda function: _value(name, function) in values


def _value(name: str, function: Function) -> str:
    if name == "PublicNetStatus":
        return str(shown(function)["PublicNetConfig"][name])
    if name == "Stamp":
        return "MC"  # SCF's word for what a user made himself
    return "" if name in _NOWHERE else str(shown(function)[name])
