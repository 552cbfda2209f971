"""Namespaces. Whoever has a pair of one namespace describes it and sees no other; it is the owner of the installation who makes, deletes
and measures out namespaces, since a user is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from server.errors import LimitExceeded
from server.functions.namespaces import Namespace
from server.scf.actions.model import Action, Ask
from server.scf.errors import OwnCodes, ScfError
from server.scf.listing import descending, page
from server.scf.parameters import Parameters
from server.scf.times import local_time

_ORDERS: Final[dict[str, Callable[[Namespace], Any]]] = {
    "Name": lambda namespace: namespace.name,
    "Updatetime": lambda namespace: namespace.updated_at,
}
_SEARCHED: Final[dict[str, Callable[[Namespace], str]]] = {
    "Namespace": lambda namespace: namespace.name,
    "Description": lambda namespace: namespace.description,
}


async def create_namespace(ask: Ask) -> dict[str, Any]:
    parameters, services = ask.parameters, ask.services
    payload = {"name": parameters.required("Namespace"), "description": parameters.text("Description")}
    if (parameters.object("ResourceEnv") or Parameters({})).object("TKE") is not None:
        raise ScfError("UnsupportedOperation", "there are no clusters (TKE) here: leave ResourceEnv out")
    await services.lookups.run(services.namespaces.create, payload)
    return {}


async def update_namespace(ask: Ask) -> dict[str, Any]:
    parameters, services = ask.parameters, ask.services
    name = parameters.required("Namespace")
    described = {"description": parameters.text("Description")} if "Description" in parameters else {}
    await services.lookups.run(services.namespaces.update, name, described)
    return {}


async def delete_namespace(ask: Ask) -> dict[str, Any]:
    await ask.services.lookups.run(ask.services.namespaces.delete, ask.parameters.required("Namespace"))
    return {}


async def list_namespaces(ask: Ask) -> dict[str, Any]:
    parameters, own = ask.parameters, ask.credential.namespace
    offset, limit = page(parameters)
    by, backwards = parameters.text("Orderby") or "Name", descending(parameters, "ASC")
    if by not in _ORDERS:
        raise ScfError("InvalidParameterValue.OrderBy", f"Orderby is none of {', '.join(_ORDERS)}")
    searched = [(_searched(one.required("Key")), one.text("Value").lower()) for one in parameters.objects("SearchKey")]
    found = [
        namespace
        for namespace in await ask.services.lookups.run(ask.services.namespaces.list)
        if own in ("", namespace.name) and all(text in part(namespace).lower() for part, text in searched)
    ]
    found.sort(key=lambda namespace: (_ORDERS[by](namespace), namespace.name), reverse=backwards)
    return {"Namespaces": [_shown(namespace) for namespace in found[offset : offset + limit]], "TotalCount": len(found)}


def _searched(key: str) -> Callable[[Namespace], str]:
    if key not in _SEARCHED:
        raise ScfError("InvalidParameterValue.SearchKey", f"a SearchKey's Key is none of {', '.join(_SEARCHED)}")
    return _SEARCHED[key]


def _shown(namespace: Namespace) -> dict[str, Any]:
    """Model Namespace."""
    return {
        "Name": namespace.name,
        "Description": namespace.description,
        "AddTime": local_time(namespace.created_at),
        "ModTime": local_time(namespace.updated_at),
        "Type": "default",
    }


_CODES: Final[OwnCodes] = {"name": "InvalidParameterValue.NamespaceInvalid", LimitExceeded: "LimitExceeded.Namespace"}

ACTIONS: Final = {
    "CreateNamespace": Action(create_namespace, namespaces=(), errors=_CODES),
    "UpdateNamespace": Action(update_namespace),
    "DeleteNamespace": Action(delete_namespace, namespaces=()),
    "ListNamespaces": Action(list_namespaces, "read"),
}
