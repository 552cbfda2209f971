"""Aliases: names for versions, with SCF's RoutingConfig ("Addtion" is how SCF spells it)."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from server.errors import LimitExceeded, QualifierNotFound
from server.functions.aliases import Alias
from server.functions.routing import Routing
from server.scf.actions.model import Action, Ask
from server.scf.errors import OwnCodes
from server.scf.listing import page
from server.scf.parameters import Parameters
from server.scf.times import local_time


async def create_alias(ask: Ask) -> dict[str, Any]:
    services, name = ask.services, ask.parameters.required("FunctionName")
    payload = {"name": ask.parameters.required("Name"), **_payload(ask.parameters)}
    await services.change_alias(partial(services.aliases.create, name, payload, ask.namespace()))
    return {}


async def update_alias(ask: Ask) -> dict[str, Any]:
    """What is not given stays; a RoutingConfig is replaced whole."""
    services, name, alias = ask.services, ask.parameters.required("FunctionName"), ask.parameters.required("Name")
    payload = _payload(ask.parameters)
    await services.change_alias(partial(services.aliases.update, name, alias, payload, ask.namespace()))
    return {}


async def get_alias(ask: Ask) -> dict[str, Any]:
    name, alias = ask.parameters.required("FunctionName"), ask.parameters.required("Name")
    return _shown(await ask.services.lookups.run(ask.services.aliases.get, name, alias, ask.namespace()))


async def list_aliases(ask: Ask) -> dict[str, Any]:
    parameters, services = ask.parameters, ask.services
    name, version = parameters.required("FunctionName"), parameters.text("FunctionVersion")
    offset, limit = page(parameters)
    found = await services.lookups.run(partial(services.aliases.list, name, ask.namespace(), version=version))
    return {"Aliases": [_shown(alias) for alias in found[offset : offset + limit]], "TotalCount": len(found)}


async def delete_alias(ask: Ask) -> dict[str, Any]:
    services, name, alias = ask.services, ask.parameters.required("FunctionName"), ask.parameters.required("Name")
    await services.change_alias(partial(services.aliases.delete, name, alias, ask.namespace()))
    return {}


def _payload(parameters: Parameters) -> dict[str, Any]:
    """The service's fields of CreateAlias and UpdateAlias. Raises ScfError."""
    payload: dict[str, Any] = {"version": parameters.required("FunctionVersion")}
    if "Description" in parameters:
        payload["description"] = parameters.text("Description")
    if (given := parameters.object("RoutingConfig")) is not None:
        payload["routing"] = _routing(given)
    return payload


def _routing(given: Parameters) -> dict[str, Any]:
    weights, matches = given.objects("AdditionalVersionWeights"), given.objects("AddtionVersionMatchs")
    names = {"Version": "version", "Key": "key", "Method": "method", "Expression": "expression"}
    return {
        "weights": [{"version": weight.required("Version"), "weight": weight.number("Weight")} for weight in weights],
        "matches": [{ours: match.required(theirs) for theirs, ours in names.items()} for match in matches],
    }


def _shown(alias: Alias) -> dict[str, Any]:
    """Model Alias."""
    return {
        "Name": alias.name,
        "FunctionVersion": alias.version,
        "Description": alias.description,
        "RoutingConfig": _shown_routing(alias.routing),
        "AddTime": local_time(alias.created_at),
        "ModTime": local_time(alias.updated_at),
    }


def _shown_routing(routing: Routing) -> dict[str, Any]:
    """Model RoutingConfig."""
    rules = [match.to_json() for match in routing.matches]
    return {
        "AdditionalVersionWeights": [{"Version": version, "Weight": weight} for version, weight in routing.weights],
        "AddtionVersionMatchs": [{key.capitalize(): value for key, value in rule.items()} for rule in rules],
    }


_CODES: Final[OwnCodes] = {
    "version_not_found": "ResourceNotFound.FunctionVersion",
    QualifierNotFound: "ResourceNotFound.Alias",
    LimitExceeded: "LimitExceeded.Alias",
    "name": "InvalidParameterValue.Name",
    "version": "InvalidParameterValue.Qualifier",
}

ACTIONS: Final = {
    "CreateAlias": Action(create_alias, errors=_CODES),
    "UpdateAlias": Action(update_alias, errors=_CODES),
    "GetAlias": Action(get_alias, "read", errors=_CODES),
    "ListAliases": Action(list_aliases, "read"),
    "DeleteAlias": Action(delete_alias, errors=_CODES),
}
