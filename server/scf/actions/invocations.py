"""Invoke and InvokeFunction: one call through the same door as REST's, its outcome as a Result.

the function returned   InvokeResult 0, RetMsg its JSON
the function failed     InvokeResult 1, RetMsg SCF's error JSON (430, 433, 434 …); not an API error
queued                  InvokeResult 0, the id and nothing else: InvocationType Event, and every call of an AsyncRunEnable function
nothing ran             an API error: RequestLimitExceeded, ResourceInsufficient, ResourceNotFound.Function …
"""

from __future__ import annotations

from typing import Any, Final

from sandbox.spec import Reply
from server.api.calls import Call, billed_ms
from server.api.parameters import check_event
from server.api.problems import dump
from server.errors import ApiError, TooManyHops, error_body
from server.events.model import MAX_HOPS, NewEvent
from server.functions.model import DEFAULT_ALIAS, LATEST, Function
from server.functions.routing import RoutingKey, checked_routing_key
from server.scf.actions.model import Action, Ask
from server.scf.errors import ScfError
from server.scf.logs import call_log, tail

#: The rest of an asynchronous call's Result.
_NOTHING_YET: Final = {"RetMsg": "", "ErrMsg": "", "Log": "", "InvokeResult": 0, "Duration": 0, "BillDuration": 0, "MemUsage": 0}


async def invoke(ask: Ask) -> dict[str, Any]:
    kind = ask.parameters.text("InvocationType") or "RequestResponse"
    if kind not in ("RequestResponse", "Event"):
        raise ScfError("InvalidParameterValue.InvokeType", "InvocationType is neither RequestResponse nor Event")
    return await call_function(ask, "ClientContext", LATEST, asynchronous=kind == "Event")


async def invoke_function(ask: Ask) -> dict[str, Any]:
    return await call_function(ask, "Event", DEFAULT_ALIAS)


async def call_function(ask: Ask, event_name: str, default_qualifier: str, *, asynchronous: bool = False) -> dict[str, Any]:
    """Call the function named by the parameters; the event is the JSON text in `event_name`."""
    parameters, services = ask.parameters, ask.services
    name, event = parameters.required("FunctionName"), _event(ask, event_name)
    with_log = _log_type(ask) == "tail"
    qualifier, key = parameters.text("Qualifier") or default_qualifier, checked_routing_key(parameters.text("RoutingKey") or None)
    known = await services.cache.find(name, ask.namespace(), qualifier, key)
    if asynchronous or known.function.always_asynchronous:
        return await _queue(ask, known.function, event, qualifier, key)
    call = Call(ask.request_id, known, qualifier, key, caused_by=ask.credential.caused_by, hops=ask.credential.hops)
    if call.hops >= MAX_HOPS:
        call.refusal = TooManyHops(call.hops)
    else:
        await services.calls.perform(call, event)
    if call.reply is None:
        services.calls.finish(call)
        raise call.refusal or ApiError(500, "internal_error", "Internal error", "the call never ended")
    services.calls.finish_soon(call)
    return {"Result": result_of(ask.request_id, call.reply, call.known.function.memory, with_log=with_log)}


async def _queue(ask: Ask, function: Function, event: bytes, qualifier: str, key: RoutingKey) -> dict[str, Any]:
    """Acknowledged once it is on disk; it is or it isn't, also when the client leaves meanwhile."""
    new = NewEvent(
        namespace=function.namespace,
        function=function.name,
        qualifier=qualifier,
        payload=event,
        request_id=ask.request_id,
        routing_key=key,
        caused_by=ask.credential.caused_by or "",
        hops=ask.credential.hops,
    )
    accepted = await ask.services.changes.finish(ask.services.events.accept(new))
    return {"Result": {"FunctionRequestId": accepted, **_NOTHING_YET}}


def result_of(request_id: str, reply: Reply, memory_mb: int, *, with_log: bool) -> dict[str, Any]:
    """SCF's Result (model Result)."""
    error = reply.error
    ret_msg = (reply.body if error is None else dump(error_body(error, request_id))).decode("utf-8", "replace")
    log = ""
    if with_log:
        written = reply.log.decode("utf-8", "backslashreplace")
        figures = {"duration_ms": reply.run_ms, "memory_mb": memory_mb, "memory_bytes": reply.memory_bytes}
        log = tail(call_log(request_id, written, ret_msg=ret_msg, failed=error is not None, **figures))  # type: ignore[arg-type]
    return {
        "FunctionRequestId": request_id,
        "RetMsg": ret_msg,
        "ErrMsg": "" if error is None else error.stack_trace or error.message,
        "Log": log,
        "InvokeResult": 0 if error is None else 1,
        "Duration": round(reply.run_ms, 3),
        "BillDuration": billed_ms(reply),
        "MemUsage": reply.memory_bytes,
    }


def _event(ask: Ask, name: str) -> bytes:
    """The event as bytes; none is {}. Raises ScfError, BadRequest."""
    try:
        event = ask.parameters.text(name).encode()
    except UnicodeEncodeError as error:
        raise ScfError("InvalidParameterValue.Param", f"{name} has half a surrogate pair in it") from error
    if len(event) > (limit := ask.services.settings.limit_event_bytes):
        raise ScfError("InvalidParameter.RequestTooLarge", f"the event has {len(event)} bytes, limit {limit} (status 406)")
    if event:
        check_event(event)
    return event or b"{}"


def _log_type(ask: Ask) -> str:
    given = ask.parameters.text("LogType").lower() or "none"
    if given not in ("none", "tail"):
        raise ScfError("InvalidParameterValue", "LogType is neither None nor Tail")
    return given


ACTIONS: Final = {
    "Invoke": Action(invoke, "invoke"),
    "InvokeFunction": Action(invoke_function, "invoke"),
}
