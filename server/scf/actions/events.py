"""Asynchronous calls: their settings, what becomes of them, and stopping them.

SCF's state     ours
RUNNING         queued (between two attempts too), running
FINISHED        succeeded
FAILED          failed, expired
ABORTED         cancelled
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from server.errors import Unsupported
from server.events.model import EventSettings
from server.functions.model import LATEST
from server.records.model import FINAL_STATES
from server.scf.actions.model import Action, Ask
from server.scf.errors import ScfError
from server.scf.listing import descending
from server.scf.parameters import Parameters
from server.scf.times import epoch_of
from server.store.times import epoch

MAX_ROWS: Final = 10_000
MAX_LIMIT: Final = 100
STATES: Final = {"succeeded": "FINISHED", "failed": "FAILED", "expired": "FAILED", "cancelled": "ABORTED"}
RUNNING: Final = "RUNNING"
#: What made it → SCF's InvokeType; whatever else by its own name in capitals.
_KINDS: Final = {"client": "INVOKE", "resend": "INVOKE", "dead-letter": "INVOKE"}

Record = dict[str, Any]


async def get_config(ask: Ask) -> dict[str, Any]:
    return {"AsyncTriggerConfig": _shown(await ask.services.lookups.run(ask.services.configs.get, await _function(ask), ask.namespace()))}


async def update_config(ask: Ask) -> dict[str, Any]:
    """What is not named stays. Settings belong to the function, whichever version of it is called."""
    given = ask.parameters.object("AsyncTriggerConfig")
    if given is None:
        raise ScfError("InvalidParameterValue.AsyncTriggerConfig", "AsyncTriggerConfig is missing")
    changes: dict[str, Any] = {}
    if retries := given.objects("RetryConfig"):
        if "RetryNum" not in retries[0]:
            raise ScfError("InvalidParameterValue.AsyncTriggerConfig", "RetryConfig[0].RetryNum is missing")
        changes["retries"] = retries[0].integer("RetryNum")
    if "MsgTTL" in given:
        changes["ttl"] = given.integer("MsgTTL")
    if not changes:
        raise ScfError("InvalidParameterValue.AsyncTriggerConfig", "AsyncTriggerConfig has neither RetryConfig nor MsgTTL")
    services = ask.services
    name = await _function(ask)
    await services.changes.finish(services.lookups.run(services.configs.change, name, changes, ask.namespace()))
    return {}


async def list_events(ask: Ask) -> dict[str, Any]:
    """The newest 10,000 calls of the function are looked through."""
    parameters, services = ask.parameters, ask.services
    name, (offset, limit) = parameters.required("FunctionName"), _page(parameters)
    by, backwards, wanted = parameters.text("Orderby") or "StartTime", descending(parameters, "DESC"), _filters(parameters)
    if by not in ("StartTime", "EndTime"):
        raise ScfError("InvalidParameterValue.OrderBy", "Orderby is neither StartTime nor EndTime")
    await services.lookups.run(services.functions.get, name, ask.namespace())
    rows: list[Record] = await services.lookups.run(
        services.events.outlines, name, ask.namespace(), since=0.0, until=time.time() + 86_400, limit=MAX_ROWS
    )
    found = [record for record in rows if record["type"] == "async" and all(check(record) for check in wanted)]
    moment = _began if by == "StartTime" else _ended
    # What began in one millisecond has an order too, or pages would overlap: that of the ids, which are UUIDs of version 7.
    found.sort(key=lambda record: (moment(record), record["request_id"]), reverse=backwards)
    return {"TotalCount": len(found), "EventList": [_row(record) for record in found[offset : offset + limit]]}


async def get_status(ask: Ask) -> dict[str, Any]:
    record = await _event(ask)
    return {"Result": {"Status": _state(record), "StatusCode": record["status"], "InvokeRequestId": record["request_id"]}}


async def terminate(ask: Ask) -> dict[str, Any]:
    """Kill the run and its sandbox. A signal that lets the function end by itself (GraceShutdown) is not to be had here."""
    name = ask.parameters.required("FunctionName")
    if ask.parameters.flag("GraceShutdown"):
        message = "a running call can't be sent SIGTERM here: without GraceShutdown it is stopped, and its sandbox destroyed"
        raise ScfError("UnsupportedOperation", message)
    await ask.services.lookups.run(ask.services.functions.get, name, ask.namespace())
    record = await _event(ask)
    if record["function"] != name:
        raise _missing(record["request_id"])
    if record["state"] in FINAL_STATES or await ask.services.events.cancel(record["request_id"]) is None:
        raise ScfError("FailedOperation.AsyncEventStatus", "the call is over")
    return {}


async def _function(ask: Ask) -> str:
    """The function's name, once it is known to have such a version or alias."""
    name, qualifier = ask.parameters.required("FunctionName"), ask.parameters.text("Qualifier") or LATEST
    await ask.services.lookups.run(ask.services.functions.get, name, ask.namespace(), qualifier)
    return name


async def _event(ask: Ask) -> Record:
    request_id = ask.parameters.required("InvokeRequestId")
    record = await ask.services.events.record(request_id)
    if record is None or record["type"] != "async" or record["namespace"] != ask.namespace():
        raise _missing(request_id)
    return record


def _missing(request_id: str) -> ScfError:
    return ScfError("ResourceNotFound.AsyncEvent", f"there is no asynchronous call {request_id[:80]!a}")


def _shown(settings: EventSettings) -> dict[str, Any]:
    return {"RetryConfig": [{"RetryNum": settings.retries}], "MsgTTL": settings.ttl}


def _page(parameters: Parameters) -> tuple[int, int]:
    offset, limit = parameters.integer("Offset"), parameters.integer("Limit", 20)
    if offset < 0:
        raise ScfError("InvalidParameterValue.Offset", f"Offset: {offset} is negative")
    if not 0 <= limit <= MAX_LIMIT:
        raise ScfError("InvalidParameterValue.Limit", f"Limit: {limit} is not 0 to {MAX_LIMIT}")
    return offset, limit


def _filters(parameters: Parameters) -> list[Callable[[Record], bool]]:
    checks: list[Callable[[Record], bool]] = []
    request_id, qualifier = parameters.text("InvokeRequestId"), parameters.text("Qualifier")
    kinds, states = set(parameters.texts("InvokeType")), set(parameters.texts("Status"))
    if request_id:
        checks.append(lambda record: record["request_id"] == request_id)
    if qualifier:
        checks.append(lambda record: record["qualifier"] == qualifier)
    if kinds:
        checks.append(lambda record: _kind(record) in kinds)
    if states:
        checks.append(lambda record: _state(record) in states)
    for name, moment in (("StartTimeInterval", _began), ("EndTimeInterval", _ended)):
        if (given := parameters.object(name)) is not None:
            checks.append(_within(given, moment))
    return checks


def _within(interval: Parameters, moment: Callable[[Record], float]) -> Callable[[Record], bool]:
    """Its start belongs to it, its end does not."""
    start, end = interval.text("Start"), interval.text("End")
    since = epoch_of(start, "InvalidParameterValue.StartTimeOrEndTime") if start else float("-inf")
    until = epoch_of(end, "InvalidParameterValue.StartTimeOrEndTime") if end else float("inf")
    return lambda record: since <= moment(record) < until


def _kind(record: Record) -> str:
    source = str(record["source"])
    return _KINDS.get(source, source.upper())


def _state(record: Record) -> str:
    return STATES.get(record["state"], RUNNING)


def _began(record: Record) -> float:
    return epoch(record["started_at"] or record["created_at"])


def _ended(record: Record) -> float:
    """What has not ended ends last."""
    return epoch(record["ended_at"]) if record["ended_at"] else float("inf")


def _row(record: Record) -> dict[str, Any]:
    """Model AsyncEvent."""
    return {
        "InvokeRequestId": record["request_id"],
        "InvokeType": _kind(record),
        "Qualifier": record["qualifier"],
        "Status": _state(record),
        "StartTime": _fine(_began(record)),
        "EndTime": _fine(_ended(record)) if record["ended_at"] else "",
    }


def _fine(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S.%f")


ACTIONS: Final = {
    "GetFunctionEventInvokeConfig": Action(get_config, "read"),
    "UpdateFunctionEventInvokeConfig": Action(update_config, errors={Unsupported: "UnsupportedOperation.UpdateFunctionEventInvokeConfig"}),
    "ListAsyncEvents": Action(list_events, "read"),
    "GetAsyncEventStatus": Action(get_status, "read"),
    "TerminateAsyncEvent": Action(terminate),
}
