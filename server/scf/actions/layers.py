"""Layers: published, listed, shown, deleted. SCF's requests name no namespace: the pair's own is meant, else `default` (a `Namespace` that
is given all the same counts)."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from server.scf.actions.model import Action, Ask
from server.scf.code import package_of
from server.scf.configuration import layer_info
from server.scf.download import code_url
from server.scf.errors import OwnCodes
from server.scf.listing import page


async def publish_layer_version(ask: Ask) -> dict[str, Any]:
    parameters, services = ask.parameters, ask.services
    name = parameters.required("LayerName")
    payload = {
        "runtimes": parameters.texts("CompatibleRuntimes"),
        "code": {"zip": await package_of(ask, "Content")},
        "description": parameters.text("Description"),
        "license": parameters.text("LicenseInfo"),
    }
    publish = partial(services.layers.publish, name, payload, ask.namespace())
    version = await services.changes.finish(services.uploads.run(publish))
    return {"LayerVersion": version.version}


async def list_layers(ask: Ask) -> dict[str, Any]:
    """Each by its latest version."""
    parameters, services = ask.parameters, ask.services
    offset, limit = page(parameters)
    runtime, search = parameters.text("CompatibleRuntime"), parameters.text("SearchKey")
    runtimes = (runtime,) if runtime else ()
    listing = partial(services.layers.list, ask.namespace(), runtimes=runtimes, search=search, offset=offset, limit=limit)
    total, found = await services.lookups.run(listing)
    return {"Layers": [layer_info(version) for version in found], "TotalCount": total}


async def list_layer_versions(ask: Ask) -> dict[str, Any]:
    """The latest first."""
    parameters, services = ask.parameters, ask.services
    name, runtimes = parameters.required("LayerName"), tuple(parameters.texts("CompatibleRuntime"))
    found = await services.lookups.run(partial(services.layers.versions, name, ask.namespace(), runtimes=runtimes))
    return {"LayerVersions": [layer_info(version) for version in found]}


async def get_layer_version(ask: Ask) -> dict[str, Any]:
    name, number = ask.parameters.required("LayerName"), ask.parameters.required_integer("LayerVersion")
    version = await ask.services.lookups.run(ask.services.layers.get, name, number, ask.namespace())
    location = code_url(ask.services.vault, ask.base_url, version.code)
    shown = {key: value for key, value in layer_info(version).items() if key not in ("Stamp", "Tags")}
    return {**shown, "CodeSha256": version.code, "Location": location}


async def delete_layer_version(ask: Ask) -> dict[str, Any]:
    """Functions that have it keep it."""
    services, name, number = ask.services, ask.parameters.required("LayerName"), ask.parameters.required_integer("LayerVersion")
    await services.changes.finish(services.uploads.run(services.layers.delete, name, number, ask.namespace()))
    return {}


_CODES: Final[OwnCodes] = {
    "name": "InvalidParameterValue.LayerName",
    "invalid_runtime": "InvalidParameterValue.CompatibleRuntimes",
    "invalid_code": "InvalidParameterValue.Content",
    "code_too_large": "InvalidParameterValue.Content",
}

ACTIONS: Final = {
    "PublishLayerVersion": Action(publish_layer_version, errors=_CODES),
    "ListLayers": Action(list_layers, "read", errors=_CODES),
    "ListLayerVersions": Action(list_layer_versions, "read", errors=_CODES),
    "GetLayerVersion": Action(get_layer_version, "read"),
    "DeleteLayerVersion": Action(delete_layer_version),
}
