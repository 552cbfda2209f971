"""Triggers: SCF's TriggerDesc and states over `server.triggers`; types are whatever that knows.

A name is unique among a function's triggers but for those on buckets, which TriggerDesc tells apart; Type and, where it is given,
Qualifier must be that trigger's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from server.errors import LimitExceeded
from server.functions.model import LATEST
from server.scf.actions.model import Action, Ask
from server.scf.errors import OwnCodes, ScfError
from server.scf.listing import descending, page
from server.scf.times import local_time
from server.triggers.descriptions import changed_config, config_of, has_rule, text_of, told_name
from server.triggers.kinds import OBJECT
from server.triggers.model import Trigger

#: Types that SCF knows and that can't be here, and why.
NEVER: Final = {
    "ckafka": "there is no message queue (CKafka) here",
    "cmq": "there are no message topics (CMQ) here: call the function asynchronously",
    "tdmq": "there is no message queue (TDMQ) here",
    "apigw": "there is no API gateway here: a function's URL is a trigger of the type http",
    "cls": "there is no log service (CLS) here",
    "clb": "there is no load balancer (CLB) here",
    "mps": "there is no media processing (MPS) here",
    "cm": "there is no monitoring service (CM) here",
    "vod": "there is no video on demand (VOD) here",
    "eb": "there is no event bus (EB) here",
}
SWITCH: Final = {"OPEN": True, "CLOSE": False}
_ORDERS: Final[dict[str, Callable[[Trigger], float]]] = {
    "add_time": lambda trigger: trigger.created_at,
    "mod_time": lambda trigger: trigger.updated_at,
}
_FILTERS: Final[dict[str, Callable[[Trigger], str]]] = {
    "Qualifier": lambda trigger: trigger.qualifier,
    "TriggerName": lambda trigger: told_name(trigger),
    "Description": lambda trigger: trigger.description,
}
_ERRORS: Final[OwnCodes] = {LimitExceeded: "LimitExceeded.Trigger"}


async def create(ask: Ask) -> dict[str, Any]:
    services, payload = ask.services, _payload(ask)
    name = ask.parameters.required("FunctionName")
    return {"TriggerInfo": shown(await _changed(ask, partial(services.triggers.create, name, payload, ask.namespace(), shares_name=True)))}


async def update(ask: Ask) -> dict[str, Any]:
    await _change(ask)
    return {}


async def update_status(ask: Ask) -> dict[str, Any]:
    enabled = _enabled(ask)
    if enabled is None:
        raise ScfError("MissingParameter", "the request is missing the required parameter `Enable`")
    if (await _found(ask)).enabled == enabled:
        raise ScfError("FailedOperation.UpdateTriggerStatus", "the trigger has that state already")
    await _change(ask, only_status=True)
    return {}


async def delete(ask: Ask) -> dict[str, Any]:
    trigger = await _found(ask)
    await _changed(ask, partial(ask.services.triggers.delete, trigger.function, trigger.name, trigger.namespace))
    return {}


async def list_triggers(ask: Ask) -> dict[str, Any]:
    parameters = ask.parameters
    name, (offset, limit) = parameters.required("FunctionName"), page(parameters)
    by, backwards = parameters.text("OrderBy") or "mod_time", descending(parameters, "DESC")
    if by not in _ORDERS:
        raise ScfError("InvalidParameterValue.OrderBy", f"OrderBy is none of {', '.join(_ORDERS)}")
    wanted = [(one.required("Name"), one.texts("Values")) for one in parameters.objects("Filters")]
    if unknown := [filtered for filtered, _ in wanted if filtered not in _FILTERS]:
        raise ScfError("InvalidParameterValue.Filters", f"there is no filter {unknown[0][:60]!a}")
    found = await ask.services.lookups.run(ask.services.triggers.list, name, ask.namespace())
    found = [trigger for trigger in found if all(_FILTERS[filtered](trigger) in values for filtered, values in wanted)]
    found.sort(key=lambda trigger: (_ORDERS[by](trigger), trigger.name), reverse=backwards)
    rows = [shown(trigger) | {"BoundResources": ""} for trigger in found[offset : offset + limit]]
    return {"TotalCount": len(found), "Triggers": rows}


async def set_trigger(ask: Ask) -> dict[str, Any]:
    """API 2.0's SetTrigger: make it, or give the one of that name another description, and perhaps another name."""
    services, parameters = ask.services, ask.parameters
    payload, name = _payload(ask), parameters.required("FunctionName")
    await _changed(ask, partial(services.triggers.put, name, payload, ask.namespace(), new_name=parameters.text("NewTriggerName")))
    return {}


def shown(trigger: Trigger) -> dict[str, Any]:
    """Model Trigger."""
    return {
        "TriggerName": told_name(trigger),
        "Type": trigger.type,
        "TriggerDesc": text_of(trigger.type, trigger.config),
        "Qualifier": trigger.qualifier,
        "Enable": int(trigger.enabled),
        "CustomArgument": trigger.config.get("argument", ""),
        "Description": trigger.description,
        "AddTime": local_time(trigger.created_at),
        "ModTime": local_time(trigger.updated_at),
        "AvailableStatus": "Available",
        "ResourceId": trigger.trigger_id,
        "BindStatus": "on",
        "TriggerAttribute": "single",
    }


def _payload(ask: Ask) -> dict[str, Any]:
    """The service's creation body."""
    parameters = ask.parameters
    name, kind = parameters.required("TriggerName"), _kind(ask)
    argument = parameters.text("CustomArgument") if "CustomArgument" in parameters else None
    return {
        "name": name,
        "type": kind,
        "config": config_of(kind, name, parameters.text("TriggerDesc"), argument),
        "qualifier": parameters.text("Qualifier") or LATEST,
        "enabled": _enabled(ask),
        "description": parameters.text("Description"),
    }


def _kind(ask: Ask) -> str:
    kind = ask.parameters.required("Type").lower()
    if kind in NEVER:
        raise ScfError("UnsupportedOperation.Trigger", NEVER[kind])
    return kind


def _enabled(ask: Ask) -> bool | None:
    word = ask.parameters.text("Enable")
    if word and word.upper() not in SWITCH:
        raise ScfError("InvalidParameterValue.Enable", "Enable is neither OPEN nor CLOSE")
    return SWITCH[word.upper()] if word else None


async def _found(ask: Ask, *, is_change: bool = False) -> Trigger:
    """The trigger that is meant. With `is_change` TriggerDesc is a new one, as long as the name alone tells which."""
    parameters, kind, text = ask.parameters, _kind(ask), ask.parameters.text("TriggerDesc")
    function, name, qualifier = parameters.required("FunctionName"), parameters.required("TriggerName"), parameters.text("Qualifier")
    listed = await ask.services.lookups.run(ask.services.triggers.list, function, ask.namespace())
    named = [trigger for trigger in listed if told_name(trigger) == name]
    found = [trigger for trigger in named if trigger.type == kind and qualifier in ("", trigger.qualifier)]
    if kind == OBJECT and (len(found) > 1 or (text and not is_change)):
        found = _of_description(found, name, text)
    if not found:
        what = "is of another type, qualifier or description" if named else "does not exist"
        raise ScfError("ResourceNotFound.Trigger", f"the trigger {name[:100]!a} {what}")
    return found[0]


def _of_description(found: list[Trigger], name: str, text: str) -> list[Trigger]:
    """Of a bucket's triggers the one that has this TriggerDesc."""
    if not text:
        raise ScfError("MissingParameter", f"{len(found)} triggers are called {name[:100]!a}: TriggerDesc says which is meant")
    wanted = config_of(OBJECT, name, text)
    return [trigger for trigger in found if has_rule(trigger, wanted)]


async def _change(ask: Ask, *, only_status: bool = False) -> None:
    parameters, trigger = ask.parameters, await _found(ask, is_change=not only_status)
    changes: dict[str, Any] = {} if (enabled := _enabled(ask)) is None else {"enabled": enabled}
    if not only_status:
        text, argument = (parameters.text(name) if name in parameters else None for name in ("TriggerDesc", "CustomArgument"))
        if text or argument is not None:
            changes["config"] = changed_config(trigger, text or None, argument)
        if "Description" in parameters:
            changes["description"] = parameters.text("Description")
    await _changed(ask, partial(ask.services.triggers.change, trigger.function, trigger.name, changes, trigger.namespace))


async def _changed(ask: Ask, blocking: Callable[[], Trigger]) -> Trigger:
    """Whatever becomes of the client; URLs and dispatchers are told."""
    return await ask.services.change_trigger(blocking)


ACTIONS: Final = {
    "CreateTrigger": Action(create, errors=_ERRORS),
    "UpdateTrigger": Action(update, errors=_ERRORS),
    "UpdateTriggerStatus": Action(update_status, errors=_ERRORS),
    "DeleteTrigger": Action(delete, errors=_ERRORS),
    "ListTriggers": Action(list_triggers, "read", errors=_ERRORS),
}
#: What only API 2.0 has.
OLD_ACTIONS: Final = {"SetTrigger": Action(set_trigger, errors=_ERRORS)}
