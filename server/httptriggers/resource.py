"""The URLs of HTTP triggers: /_/{url-id}/{path…} for every method. The one resource that is not in the API's table of paths.

Responses: the function's own; 202 with {"request_id"} where all its calls are asynchronous; or a problem document
    401 403    the trigger's authentication; it is disabled        404    no such URL, whatever the reason, always the same
    405        not one of the trigger's methods                    413 431    body or headers too large
    429 503    limits and shortages, with Retry-After              502 504    the function failed, ran out of time, or its response is none
"""

from __future__ import annotations

import logging
import re
from functools import partial
from typing import Any, Final

from sandbox.errors import InvocationFailed
from sandbox.log import pairs
from server.api.auth import Auth
from server.api.calls import SUCCESS, Call
from server.api.invocations import LOOK_AFTER_MS, refusal_of, reply_headers
from server.api.lookup import Known
from server.api.problems import dump
from server.api.request import Request
from server.api.response import Response
from server.api.services import Services
from server.errors import SCF_EVENT_TOO_LARGE, ApiError, NotFound, PayloadTooLarge, error_body, failure_of
from server.events.model import NewEvent
from server.functions.model import Function
from server.functions.routing import RoutingKey
from server.httptriggers import cors
from server.httptriggers.answers import MALFORMED, Answer, Malformed, answer_of
from server.httptriggers.events import Incoming, event_of
from server.httptriggers.gate import Gate, Signer
from server.records.ids import new_request_id
from server.scf.authentication import INLINE_BYTES
from server.scf.signatures import ALGORITHM
from server.triggers.http import ANY, METHODS, NONE, URL_PREFIX, HttpConfig, url_id
from server.triggers.model import Trigger

JSON: Final = "application/json"
#: Set by `hosts` for a request that came by a host's name: its path is all of it the function's.
BY_HOST: Final = "hearth.by_host"

_TARGET: Final = re.compile(re.escape(URL_PREFIX) + r"([^/]*)(/.*)?", re.DOTALL)

_log = logging.getLogger(__name__)


class RequestKey(dict[str, str]):
    """A request's headers as the routing key of an alias's rules; names in any case."""

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key.lower(), default)


class HttpTriggers:
    """A Falcon sink: `on_request`."""

    def __init__(self, services: Services, auth: Auth) -> None:
        self._services, self._gate = services, Gate(services, auth)
        self._settings = services.settings
        self._trusted = services.settings.trusted_networks

    async def on_request(self, req: Request, resp: Response | None, **_: Any) -> None:
        assert resp is not None  # Falcon has none for a WebSocket alone, and there are no WebSockets here
        path, trigger, config = await self._find(req)
        req.request_id = new_request_id()
        origin = req.get_header("Origin")
        if config.cors is not None:
            if cors.is_preflight(req.method, origin, req.get_header("Access-Control-Request-Method")):
                await req.drain()
                resp.set_headers(cors.preflight_headers(config.cors, origin, req.get_header("Access-Control-Request-Headers")))
                resp.status = cors.PREFLIGHT_STATUS
                return
            resp.set_headers(cors.response_headers(config.cors, origin))
        if not trigger.enabled:
            raise ApiError(403, "trigger_disabled", "Disabled", "this URL is disabled")
        self._check_head(req, resp, config)
        await self._serve(req, resp, path, trigger, config)

    async def _find(self, req: Request) -> tuple[str, Trigger, HttpConfig]:
        """The path below the URL, and whose URL it is. Raises NotFound."""
        target = _TARGET.fullmatch(raw_path(req))
        found = None if target is None else await self._services.urls.find(target[1])
        if target is None or found is None:
            raise _missing()
        return target[2] or "/", *found

    def _check_head(self, req: Request, resp: Response, config: HttpConfig) -> None:
        """Raises ApiError."""
        allowed = METHODS if ANY in config.methods else config.methods
        if req.method not in allowed and not (req.method == "HEAD" and "GET" in allowed):
            resp.set_header("Allow", ", ".join(allowed))
            raise ApiError(405, "method_not_allowed", "Method not allowed", "this URL does not take that method")
        size = sum(len(name) + len(value) for name, value in req.scope["headers"])
        if size > (limit := self._settings.limit_http_header_bytes):
            raise ApiError(431, "head_too_large", "Request header fields too large", f"headers of {size} bytes, limit {limit}")

    async def _serve(self, req: Request, resp: Response, path: str, trigger: Trigger, config: HttpConfig) -> None:
        try:
            signer = await self._gate.admit(req, config.auth, trigger)
            body = await req.body(limit := self._settings.limit_event_bytes)
            if body is None:
                raise PayloadTooLarge(f"the body is over the limit of {limit} bytes", scf_status=SCF_EVENT_TOO_LARGE)
            if signer is not None:
                await self._gate.check(req, signer, path if BY_HOST in req.scope else raw_path(req), body)
        except ApiError as error:
            if error.status == 401:
                resp.set_header("WWW-Authenticate", ALGORITHM)  # where it is the bearer's, the problem document's own replaces it
            raise
        incoming = self._incoming(req, path, trigger, config, signer, body)
        known, key = await self._known(req, trigger)
        event = await self._work(len(body), partial(event_of, incoming, self._trusted))
        if known.function.always_asynchronous:
            await self._accept(req, resp, known.function, trigger, event)
            return
        call = Call(req.request_id, known, trigger.qualifier, key, trigger=trigger.name)
        await self._services.calls.perform(call, event)
        await self._answer(req, resp, call, config)

    def _incoming(self, req: Request, path: str, trigger: Trigger, config: HttpConfig, signer: Signer | None, body: bytes) -> Incoming:
        client = req.scope.get("client")
        return Incoming(
            method=req.method,
            path=path,
            query=req.scope["query_string"],
            headers=req.scope["headers"],
            body=body,
            peer=client[0] if client else "",
            request_id=req.request_id,
            service_id=url_id(trigger.trigger_id),
            secret_id=signer.credential.secret_id if signer is not None else "",
            authorized=config.auth != NONE,
        )

    async def _known(self, req: Request, trigger: Trigger) -> tuple[Known, RoutingKey]:
        """What is to be called. Raises NotFound."""
        key: RoutingKey = RequestKey((name.decode("latin-1"), value.decode("latin-1")) for name, value in req.scope["headers"])
        try:
            known = await self._services.cache.find(trigger.function, trigger.namespace, trigger.qualifier, key)
        except NotFound:
            raise _missing() from None
        if (known.function.family or known.function.function_id) != trigger.function_id:
            raise _missing()  # another function that has its name now
        return known, key

    async def _accept(self, req: Request, resp: Response, function: Function, trigger: Trigger, event: bytes) -> None:
        """202 once the event is on disk: SCF's AsyncRunEnable. The alias's rules are decided now, so that no header has to be kept."""
        new = NewEvent(
            namespace=function.namespace,
            function=function.name,
            qualifier=function.version,
            payload=event,
            source=trigger.type,
            trigger=trigger.name,
            request_id=req.request_id,
        )
        accepted = await self._services.changes.finish(self._services.events.accept(new))
        resp.status, resp.content_type, resp.data = 202, JSON, dump({"request_id": accepted})
        resp.set_header("X-Scf-Request-Id", accepted)
        resp.set_header("X-Scf-Status", "202")

    async def _answer(self, req: Request, resp: Response, call: Call, config: HttpConfig) -> None:
        calls, reply = self._services.calls, call.reply
        if reply is None:
            calls.finish(call)
            raise _outward(refusal_of(call))
        slow = reply.start_ms + reply.run_ms > LOOK_AFTER_MS
        calls.finish_soon(call, gone=slow and await req.has_left())
        if reply.error is not None:
            self._fail(resp, call, reply.error)
            status = failure_of(reply.error).scf
        else:
            status = SUCCESS
            await self._write(resp, call, reply.body or b"null", config)
        resp.set_headers(reply_headers(call, reply, status))

    async def _write(self, resp: Response, call: Call, returned: bytes, config: HttpConfig) -> None:
        try:
            answer: Answer = await self._work(len(returned), partial(answer_of, returned, self._settings.limit_http_header_bytes))
        except Malformed as error:
            _log.warning(
                pairs("a function's response is none", function=call.known.function.name, request_id=call.request_id, error=str(error))
            )
            resp.status, resp.content_type, resp.data = 502, JSON, MALFORMED
            return
        resp.status, resp.data = answer.status, answer.body
        ours = cors.PREFIX if config.cors is not None else None
        resp.raw_headers = [(name, value) for name, value in answer.headers if ours is None or not name.startswith(ours)]

    def _fail(self, resp: Response, call: Call, error: InvocationFailed) -> None:
        """Why it failed is its owner's business, who has the record; strangers are told what they need to know it by."""
        failure = failure_of(error)
        body = error_body(error, call.request_id)
        if not self._settings.http_error_details:
            body.pop("stackTrace", None)
            body["errorMessage"] = failure.title
        resp.status, resp.content_type, resp.data = failure.http, JSON, dump(body)

    async def _work(self, size: int, function: Any) -> Any:
        """What takes long is done in a thread."""
        return function() if size <= INLINE_BYTES else await self._services.uploads.run(function)


def raw_path(req: Request) -> str:
    """Percent-encoded, as it came."""
    raw: bytes = req.scope.get("raw_path") or b""
    return raw.decode("latin-1")


def _missing() -> NotFound:
    """Always the same: it says neither whether there was such a URL nor what of it is missing."""
    return NotFound("there is no such URL", code="url_not_found")


def _outward(refusal: ApiError) -> ApiError:
    """Without names and figures of the inside."""
    if refusal.status == 404:
        return _missing()
    status = refusal.status if refusal.status >= 429 else 502
    return ApiError(status, refusal.code, refusal.title, refusal.title.lower(), "", refusal.scf_status, refusal.retry_after)
