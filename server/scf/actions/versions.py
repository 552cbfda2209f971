"""Versions: published, listed, deleted. A version is whole when it is answered, so its Status is always Active."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from server.errors import LimitExceeded, QualifierNotFound
from server.functions.model import Function
from server.scf.actions.model import Action, Ask
from server.scf.configuration import STATUS
from server.scf.errors import ScfError
from server.scf.listing import descending, page
from server.scf.times import local_time

ORDERS: Final = ("AddTime", "ModTime")


async def publish_version(ask: Ask) -> dict[str, Any]:
    parameters, services = ask.parameters, ask.services
    described = {"description": parameters.text("Description")} if "Description" in parameters else {}
    name = parameters.required("FunctionName")
    version = await services.lookups.run(services.versions.publish, name, described, ask.namespace())
    return {
        "FunctionVersion": version.version,
        "CodeSize": version.code_size,
        "MemorySize": version.memory,
        "Description": version.description,
        "Handler": version.handler,
        "Timeout": version.timeout,
        "Runtime": version.runtime,
        "Namespace": version.namespace,
    }


async def list_version_by_function(ask: Ask) -> dict[str, Any]:
    """`$LATEST` is the first; the others are as old as their numbers say, whichever time one orders by."""
    parameters, services = ask.parameters, ask.services
    name = parameters.required("FunctionName")
    offset, limit = page(parameters)
    if (parameters.text("OrderBy") or ORDERS[0]) not in ORDERS:
        raise ScfError("InvalidParameterValue.OrderBy", f"OrderBy is none of {', '.join(ORDERS)}")
    order = "desc" if descending(parameters, "ASC") else "asc"
    listing = partial(services.versions.list, name, ask.namespace(), order=order, offset=offset, limit=limit)
    total, found = await services.lookups.run(listing)
    return {
        "FunctionVersion": [version.version for version in found],
        "Versions": [_shown(version) for version in found],
        "TotalCount": total,
    }


async def delete_function_version(ask: Ask) -> dict[str, Any]:
    parameters, services = ask.parameters, ask.services
    name, qualifier = parameters.required("FunctionName"), parameters.required("Qualifier")
    force = parameters.flag("ForceDelete")
    await services.change(partial(services.versions.delete, name, qualifier, ask.namespace(), force=force), deleted=True)
    return {}


def _shown(version: Function) -> dict[str, Any]:
    """Model FunctionVersion."""
    return {
        "Version": version.version,
        "Description": version.description,
        "AddTime": local_time(version.created_at),
        "ModTime": local_time(version.updated_at),
        "Status": STATUS,
    }


ACTIONS: Final = {
    "PublishVersion": Action(publish_version, errors={LimitExceeded: "LimitExceeded.FunctionVersions"}),
    "ListVersionByFunction": Action(list_version_by_function, "read"),
    "DeleteFunctionVersion": Action(delete_function_version, errors={QualifierNotFound: "ResourceNotFound.FunctionVersion"}),
}
