"""Calling a function, over HTTP: /v1/functions/{name}/invocations. The records' resources are in `records`."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import falcon.asgi

from sandbox.errors import SandboxError
from sandbox.spec import Reply
from server.api.calls import SUCCESS, Call, billed_ms
from server.api.openapi import NAMESPACE, QUALIFIER, Answer, Parameter, operation, problem
from server.api.parameters import as_seconds, check_event, namespace, seconds, text
from server.api.problems import answer, dump
from server.api.records import SEARCH, latest_records
from server.api.request import Request
from server.api.schemas import listing
from server.api.services import Services
from server.errors import SCF_EVENT_TOO_LARGE, ApiError, BadRequest, PayloadTooLarge, error_body, failure_of, from_runtime
from server.events.model import ACCEPTED, NewEvent
from server.functions.checks import shown
from server.functions.model import DEFAULT_NAMESPACE, LATEST, Function
from server.functions.routing import MAX_ROUTING_KEY_BYTES, RoutingKey, checked_routing_key, no_key
from server.records.ids import new_request_id

TAIL_BYTES: Final = 4096
#: Whether the client is still there is worth a look only when there was time to leave.
LOOK_AFTER_MS: Final = 50

MODES: Final = ("RequestResponse", "Event")

#: Option → the headers it may also come in.
OPTION_HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "invokeType": ("invoketype", "x-scf-invoke-type"),
    "logType": ("logtype", "x-scf-log-type"),
    "qualifier": ("qualifier", "x-scf-qualifier"),
}
ROUTING_KEY: Final = "x-scf-routing-key"
_EVENT_HEADERS: Final = ("idempotency-key", "x-scf-delay-seconds")
_HEADER_NAMES: Final = frozenset(
    header.encode() for headers in (*OPTION_HEADERS.values(), (ROUTING_KEY,), _EVENT_HEADERS) for header in headers
)

_CALL_HEADERS: Final = {
    "X-Scf-Request-Id": "the call's id",
    "X-Scf-Status": "SCF's status of the call",
    "X-Scf-Start": "cold or warm",
    "X-Scf-Duration-Ms": "how long it ran",
    "X-Scf-Billed-Ms": "the same in whole milliseconds",
    "X-Scf-Memory-Bytes": "its peak memory",
    "X-Scf-Log": "with logType=Tail: the last 4 KB of its log in base64",
}
_ACCEPTED_HEADERS: Final = {"X-Scf-Request-Id": "the event's id", "X-Scf-Status": "202", "Location": "its record"}
_KEY: Final = re.compile(r"[!-~]{1,200}", re.ASCII)
_REFUSED: Final = {"X_Scf_Request_Id": "the call's id", "X_Scf_Status": "SCF's status", "Retry_After": "seconds"}


@dataclass(frozen=True, slots=True)
class Options:
    tail: bool = False
    qualifier: str = LATEST
    namespace: str = DEFAULT_NAMESPACE
    routing_key: RoutingKey = field(default_factory=no_key)
    asynchronous: bool = False
    idempotency_key: str = ""
    delay_seconds: float = 0.0


_PLAIN: Final = Options()


class FunctionInvocations:
    """/v1/functions/{name}/invocations"""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._calls, self._cache = services.calls, services.cache
        self._limit_bytes = services.settings.limit_event_bytes
        self._events = services.events

    @operation(
        "Call a function",
        "invocations",
        {
            200: Answer("What it returned, verbatim", {}, headers=_CALL_HEADERS),
            202: Answer("The event is on disk and will run", "Accepted", headers=_ACCEPTED_HEADERS),
            400: problem("The event is not JSON (SCF 400), a parameter is wrong, or no image has the runtime"),
            404: problem("No such function or namespace (SCF 435) or qualifier (442)"),
            413: problem("The event is too large (SCF 406)"),
            429: problem("The function's concurrency limit is reached (SCF 432)", **_REFUSED),
            500: problem("A fault of the server's"),
            502: Answer("The function failed: SCF 430, 434, 437, 439, 443 or 407", "FunctionError", headers=_CALL_HEADERS),
            503: problem("No capacity or a full event queue (SCF 449), or the runtime is away (SCF 500)", **_REFUSED),
            504: Answer("Time limit (SCF 433) or loading limit (SCF 450)", "FunctionError", headers=_CALL_HEADERS),
        },
        parameters=(
            NAMESPACE,
            Parameter("invokeType", "Also as a header", {"type": "string", "enum": list(MODES), "default": MODES[0]}),
            Parameter("logType", "Also as a header", {"type": "string", "enum": ["None", "Tail"], "default": "None"}),
            QUALIFIER,
            Parameter(
                "delaySeconds",
                "Event only: not before so many seconds; also as X-Scf-Delay-Seconds",
                {"type": "number", "minimum": 0, "maximum": 604_800},
            ),
            Parameter(
                "Idempotency-Key",
                "Event only: the same key of the same function gives the first event's id and runs nothing",
                {"type": "string", "pattern": "^[!-~]{1,200}$"},
                place="header",
            ),
            Parameter(
                "X-Scf-Routing-Key",
                f"A JSON object of strings, at most {MAX_ROUTING_KEY_BYTES} bytes, for the rules of an alias",
                place="header",
            ),
        ),
        bodies={"application/json": {"description": "The event, any JSON; nothing is {}"}},
        body_required=False,
    )
    async def on_post(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        request_id = req.request_id = new_request_id()
        event = await req.body(self._limit_bytes)
        if event is None:
            raise PayloadTooLarge(f"the event is over the limit of {self._limit_bytes} bytes", scf_status=SCF_EVENT_TOO_LARGE)
        options = read_options(req, self._services.settings.limit_event_delay_seconds)
        if event:
            check_event(event)
        known = await self._cache.find(name, options.namespace, options.qualifier, options.routing_key)
        if options.asynchronous or known.function.always_asynchronous:
            await self._accept(req, resp, known.function, options, event or b"{}")
            return
        call = Call(request_id, known, options.qualifier, options.routing_key)
        await self._calls.perform(call, event or b"{}")
        reply = call.reply
        if reply is None:
            self._calls.finish(call)
            await answer(req, resp, refusal_of(call))
            return
        slow = reply.start_ms + reply.run_ms > LOOK_AFTER_MS
        self._calls.finish_soon(call, gone=slow and await req.has_left())
        _write(resp, call, reply)
        if options.tail:
            resp.set_header("X-Scf-Log", base64.b64encode(reply.log[-TAIL_BYTES:]).decode())

    async def _accept(self, req: Request, resp: falcon.asgi.Response, function: Function, options: Options, event: bytes) -> None:
        """202 once the event is on disk."""
        delay = options.delay_seconds
        new = NewEvent(
            namespace=function.namespace,
            function=function.name,
            qualifier=options.qualifier,
            payload=event,
            idempotency_key=options.idempotency_key,
            not_before=time.time() + delay if delay else 0.0,
            request_id=req.request_id,
            routing_key=options.routing_key,
        )
        # Acknowledged or not: it is one or the other, also when the client leaves meanwhile.
        accepted = await self._services.changes.finish(self._events.accept(new))
        resp.status, resp.data = 202, dump({"request_id": accepted})
        resp.set_headers((("X-Scf-Request-Id", accepted), ("X-Scf-Status", str(ACCEPTED)), ("Location", f"/v1/invocations/{accepted}")))

    @operation(
        "A function's latest calls",
        "invocations",
        {
            200: Answer("Newest first", listing("invocations", "Record")),
            400: problem("A parameter is wrong"),
            404: problem("No such function"),
        },
        parameters=(NAMESPACE, *SEARCH),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        resp.data = dump({"invocations": await latest_records(self._services, req, name)})


def read_options(req: Request, longest_delay_seconds: float) -> Options:
    """What a call is asked for, from the query or from headers. Raises BadRequest, also for what only an event would use."""
    if not req.query_string and not req.has_any_header(_HEADER_NAMES):
        return _PLAIN
    asynchronous = _word(req, "invokeType", MODES, MODES[0]) == "Event"
    tail = _word(req, "logType", ("None", "Tail"), "None") == "Tail"
    key = checked_routing_key(req.get_header(ROUTING_KEY))
    event = (_idempotency_key(req), _delay_seconds(req, longest_delay_seconds))
    return Options(tail, _option(req, "qualifier") or LATEST, namespace(req), key, asynchronous, *event)


def _idempotency_key(req: Request) -> str:
    key = req.get_header("Idempotency-Key")
    if key is not None and _KEY.fullmatch(key) is None:
        raise BadRequest(f"Idempotency-Key: {shown(key)} is not a key", field="Idempotency-Key", hint="1 to 200 visible ASCII characters")
    return key or ""


def _delay_seconds(req: Request, most: float) -> float:
    header = req.get_header("X-Scf-Delay-Seconds")
    if header is None or text(req, "delaySeconds") is not None:
        return seconds(req, "delaySeconds", high=most)
    return as_seconds("X-Scf-Delay-Seconds", header, high=most)


def _word(req: Request, name: str, words: Iterable[str], default: str) -> str:
    given = _option(req, name)
    if given is None:
        return default
    for word in words:
        if given.lower() == word.lower():
            return word
    raise BadRequest(f"{name}: {shown(given)} is not known", field=name, hint=f"one of {', '.join(words)}")


def _option(req: Request, name: str) -> str | None:
    value = req.get_param(name)
    if value is not None:
        return value
    found = (req.get_header(header) for header in OPTION_HEADERS[name])
    return next((value for value in found if value is not None), None)


def refusal_of(call: Call) -> ApiError:
    refusal = call.refusal
    if isinstance(refusal, SandboxError):
        return from_runtime(refusal)
    return refusal if refusal is not None else ApiError(500, "internal_error", "Internal error", "the call never ended")


def _write(resp: falcon.asgi.Response, call: Call, reply: Reply) -> None:
    error, status = reply.error, SUCCESS
    if error is None:
        resp.data = reply.body
    else:
        failure = failure_of(error)
        status = failure.scf
        resp.status = failure.http
        resp.data = dump(error_body(error, call.request_id))
    resp.set_headers(reply_headers(call, reply, status))


def reply_headers(call: Call, reply: Reply, status: int) -> tuple[tuple[str, str], ...]:
    """What a call that ran is told by; `status` is SCF's."""
    return (
        ("X-Scf-Request-Id", call.request_id),
        ("X-Scf-Status", str(status)),
        ("X-Scf-Start", reply.start),
        ("X-Scf-Duration-Ms", f"{reply.run_ms:.3f}"),
        ("X-Scf-Billed-Ms", str(billed_ms(reply))),
        ("X-Scf-Memory-Bytes", str(reply.memory_bytes)),
    )
