"""Functions: created, changed, copied, shown, listed, deleted, and their code handed out again.

Every change is whole when it is answered, so a function's Status is always Active: who polls for that is done at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from sandbox.errors import RuntimeNotFound
from server.errors import LimitExceeded
from server.functions.model import ASYNC_RUN, LATEST, Function
from server.scf.actions.model import Action, Ask
from server.scf.actions.triggers import shown as shown_trigger
from server.scf.code import entry_file, has_code, package_of
from server.scf.configuration import DEFAULT_HANDLER, DEFAULT_RUNTIME, OTHERWISE_RUNTIME, function_id, read_configuration, shown
from server.scf.deadletters import FIELD, target_of
from server.scf.deadletters import shown as dead_letter_shown
from server.scf.download import code_url
from server.scf.errors import OwnCodes, ScfError
from server.scf.extras import read_extras
from server.scf.listing import select

NOTHING: Final[dict[str, Any]] = {}
_LIMIT: Final[OwnCodes] = {LimitExceeded: "LimitExceeded.Function"}
_VERSIONS: Final[OwnCodes] = {LimitExceeded: "LimitExceeded.FunctionVersions"}


async def create_function(ask: Ask) -> dict[str, Any]:
    parameters, services = ask.parameters, ask.services
    name = parameters.required("FunctionName")
    wanted = {"handler": DEFAULT_HANDLER, **read_configuration(parameters), "name": name}
    if "runtime" not in wanted:
        wanted["runtime"] = await _default_runtime(ask)
    if wanted["runtime"] == "CustomImage":
        raise ScfError("ResourceNotFound.ImageConfig", "functions from a container image are not supported: upload a zip as Code.ZipFile")
    extras, package = read_extras(parameters), await package_of(ask)
    create = partial(
        services.functions.create, {**wanted, "code": {"zip": package}}, ask.namespace(), scf=extras, dead_letter=target_of(extras)
    )
    await services.changes.finish(services.uploads.run(create))
    return NOTHING


async def update_function_code(ask: Ask) -> dict[str, Any]:
    handler = ask.parameters.text("Handler")
    return await _update(ask, {"handler": handler} if handler else {}, package=await package_of(ask))


async def update_function_configuration(ask: Ask) -> dict[str, Any]:
    return await _update(ask, await _changes(ask), extras=read_extras(ask.parameters))


async def update_function(ask: Ask) -> dict[str, Any]:
    """API 2.0's: code and configuration, or either."""
    changes = await _changes(ask)
    if not has_code(ask.parameters):
        if not changes:
            raise ScfError("MissingParameter", "the request changes nothing")
        return await _update(ask, changes)
    return await _update(ask, changes, package=await package_of(ask))


async def _changes(ask: Ask) -> dict[str, Any]:
    """The configuration that is given, without the runtime, which can't be changed but may be named."""
    changes = read_configuration(ask.parameters)
    if (runtime := changes.pop("runtime", "")) != "":
        current = await ask.services.lookups.run(ask.services.functions.get, ask.parameters.required("FunctionName"), ask.namespace())
        if runtime.lower() != current.runtime.lower():
            raise ScfError("InvalidParameterValue.Runtime", f"the runtime can't be changed: it is {current.runtime}")
    return changes


async def _update(ask: Ask, changes: dict[str, Any], *, package: str | bytes = "", extras: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """One change of what is given: configuration, code (base64 or bytes) and, with Publish, a version of both."""
    functions, name, publish = ask.services.functions, ask.parameters.required("FunctionName"), ask.parameters.flag("Publish")
    kept = {key: value for key, value in extras.items() if key != ASYNC_RUN}  # said at creation, once and for all

    def change() -> Function:
        code = functions.decode_code({"zip": package}) if package else None
        return functions.update(name, changes, ask.namespace(), zip_bytes=code, scf=kept, dead_letter=target_of(kept), publish=publish)

    await ask.services.change(change)
    return NOTHING


async def get_function(ask: Ask) -> dict[str, Any]:
    function = await _found(ask)
    code_info = ""
    if ask.parameters.flag("ShowCode"):
        code_info = await ask.services.lookups.run(entry_file, ask.services.codestore, function)
    qualifier = ask.parameters.text("Qualifier")
    layers = await ask.services.lookups.run(ask.services.layers.of_function, function)
    triggers = await ask.services.lookups.run(ask.services.triggers.list, function.name, function.namespace)
    # Of a qualifier that is asked for only its own.
    rows = [shown_trigger(trigger) for trigger in triggers if qualifier in ("", trigger.qualifier)]
    events = await ask.services.lookups.run(ask.services.configs.get, function.name, function.namespace)
    found = shown(function, qualifier=qualifier or LATEST, code_info=code_info, layers=layers)
    return {**found, "Triggers": rows, FIELD: dead_letter_shown(found[FIELD], events)}


async def list_functions(ask: Ask) -> dict[str, Any]:
    functions = await _all(ask)
    shares = await ask.services.lookups.run(ask.services.concurrency.shares, ask.namespace())
    return select(functions, shares, ask.parameters)


async def delete_function(ask: Ask) -> dict[str, Any]:
    """All of it, or with Qualifier that version alone; `$LATEST` goes with the whole function only."""
    name, namespace = ask.parameters.required("FunctionName"), ask.namespace()
    if qualifier := ask.parameters.text("Qualifier"):
        await ask.services.change(partial(ask.services.versions.delete, name, qualifier, namespace), deleted=True)
    else:
        await ask.services.change(partial(ask.services.functions.delete, name, namespace), deleted=True)
    return NOTHING


async def copy(ask: Ask) -> dict[str, Any]:
    parameters, services = ask.parameters, ask.services
    name, new_name = parameters.required("FunctionName"), parameters.required("NewFunctionName")
    target, region = ask.namespace("TargetNamespace"), parameters.text("TargetRegion")
    if region and region not in (ask.region, services.settings.region):
        raise ScfError("UnsupportedOperation.Region", f"there is one region here, {services.settings.region}: nothing is copied to another")
    await services.copy(
        name,
        new_name,
        ask.namespace(),
        target_namespace=target,
        override=parameters.flag("Override"),
        copy_configuration=parameters.flag("CopyConfiguration", default=True),
        description=parameters.text("Description") if "Description" in parameters else None,
    )
    return NOTHING


async def get_function_address(ask: Ask) -> dict[str, Any]:
    function = await _found(ask)
    return {"Url": code_url(ask.services.vault, ask.base_url, function.code), "CodeSha256": function.code}


async def _default_runtime(ask: Ask) -> str:
    """SCF's own default, or where no image has it the one that every installation has."""
    try:
        await ask.services.client.resolve(DEFAULT_RUNTIME)
    except RuntimeNotFound:
        return OTHERWISE_RUNTIME
    return DEFAULT_RUNTIME


async def _found(ask: Ask) -> Function:
    """By FunctionName, or by ResourceId as the console has it."""
    name, resource = ask.parameters.text("FunctionName"), ask.parameters.text("ResourceId")
    if not name and resource:
        name = next((function.name for function in await _all(ask) if function_id(function) == resource), resource)
    if not name:
        raise ScfError("InvalidParameter.FunctionNameOrResourceIdRequired", "the request names neither FunctionName nor ResourceId")
    qualifier = ask.parameters.text("Qualifier") or LATEST
    return await ask.services.lookups.run(ask.services.functions.get, name, ask.namespace(), qualifier)


async def _all(ask: Ask) -> list[Function]:
    _, found = await ask.services.lookups.run(ask.services.functions.list, ask.namespace())
    return found


ACTIONS: Final = {
    "CreateFunction": Action(create_function, errors=_LIMIT),
    "UpdateFunctionCode": Action(update_function_code, errors=_VERSIONS),
    "UpdateFunctionConfiguration": Action(update_function_configuration, errors=_VERSIONS),
    "GetFunction": Action(get_function, "read"),
    "ListFunctions": Action(list_functions, "read"),
    "DeleteFunction": Action(delete_function),
    "CopyFunction": Action(copy, namespaces=("Namespace", "TargetNamespace"), errors=_LIMIT),
    "GetFunctionAddress": Action(get_function_address, "read"),
}
#: What only API 2.0 has.
OLD_ACTIONS: Final = {"UpdateFunction": Action(update_function)}
