"""Every error as an RFC 9457 document (application/problem+json); the only place that turns exceptions into responses."""

from __future__ import annotations

import errno
import json
import logging
import os
from typing import Any, Final

import falcon
import falcon.asgi
import orjson
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sandbox.errors import SandboxError
from server.api.request import ClientGone, Request
from server.api.response import Response
from server.errors import ApiError, BadRequest, NotFound, Unauthorized, from_runtime

PROBLEM_JSON: Final = "application/problem+json"
CODES: Final = {405: "method_not_allowed", 413: "payload_too_large", 415: "unsupported_media_type"}

_log = logging.getLogger(__name__)


def dump(value: Any) -> bytes:
    """JSON as bytes, whatever strings are in it: half a surrogate pair, which orjson refuses, is escaped."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def install(app: falcon.asgi.App[Request, Response]) -> None:
    """Make `app` answer every exception with a problem document."""
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(falcon.HTTPError, _of_falcon)
    app.add_error_handler(ApiError, answer)


async def answer(req: Request, resp: falcon.asgi.Response, error: ApiError, params: dict[str, Any] | None = None) -> None:
    """Write the document and the headers that go with it; what is left of the request's body is read first."""
    await req.drain()
    resp.text, resp.sse, resp.stream = None, None, None
    resp.status = error.status
    resp.content_type = PROBLEM_JSON
    resp.data = dump(error.problem(req.request_id))
    if req.request_id:
        resp.set_header("X-Scf-Request-Id", req.request_id)
    if req.request_id or error.scf_status:  # a bad credential is refused before there is an id
        resp.set_header("X-Scf-Status", str(error.scf_status or error.status))
    if error.retry_after is not None:
        resp.set_header("Retry-After", str(error.retry_after))
    if req.body_left:
        resp.set_header("Connection", "close")  # as the server then does
    if isinstance(error, Unauthorized):
        resp.set_header("WWW-Authenticate", 'Bearer realm="hearth"')


async def _of_falcon(req: Request, resp: falcon.asgi.Response, error: falcon.HTTPError, params: dict[str, Any]) -> None:
    await answer(req, resp, _translated(req, error))
    resp.set_headers(error.headers or {})


def _translated(req: Request, error: falcon.HTTPError) -> ApiError:
    status = error.status_code
    if status == 404:
        return NotFound(f"no such path {req.path!r}", hint="GET /openapi.json lists what there is")
    if status == 405:
        return ApiError(405, CODES[405], "Method not allowed", f"{req.path} does not take {req.method}")
    if status == 400:
        return BadRequest(error.description or error.title or "malformed request", code="invalid_request")
    return ApiError(status, CODES.get(status, "request_failed"), error.title or "Error", error.description or "the request failed")


async def _unexpected(req: Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]) -> None:
    await answer(req, resp, as_api_error(error, f"{req.method} {req.uri_template}"))  # not the path, which may hold anything


def as_api_error(error: Exception, asked: str = "a request") -> ApiError:
    """What any exception is to a client. What the log should know of it is written there, and is not in the answer."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, SandboxError):
        return from_runtime(error)
    if isinstance(error, ClientGone):
        return ApiError(408, "incomplete_body", "Incomplete request", "the body did not arrive whole")
    if isinstance(error, DBAPIError | PoolTimeout):
        _log.error("database failed: %s", str(error).splitlines()[0])
        if "database or disk is full" in str(error):  # sqlite3's SQLITE_FULL has no class of its own
            return storage_full()
        return ApiError(503, "unavailable", "The database is away", "the database does not answer", "", 500, 1)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        _log.error("%s: %s", asked, os.strerror(error.errno))
        return storage_full()
    _log.error("%s failed", asked, exc_info=error)
    return ApiError(500, "internal_error", "Internal error", "something went wrong here", "see the server's log", 500)


def storage_full() -> ApiError:
    """507, RFC 4918: nothing was stored."""
    return ApiError(507, "storage_full", "Storage is full", "the state directory's disk is full", "make room and try again", 500)
