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


def install(app: falcon.asgi.App[Request, falcon.asgi.Response]) -> None:
    """Make `app` answer every exception with a problem document."""
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(OSError, _of_system)
    app.add_error_handler(falcon.HTTPError, _of_falcon)
    app.add_error_handler(ClientGone, _gone)
    app.add_error_handler(DBAPIError, _database)
    app.add_error_handler(PoolTimeout, _database)
    app.add_error_handler(SandboxError, _of_runtime)
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


async def _of_runtime(req: Request, resp: falcon.asgi.Response, error: SandboxError, params: dict[str, Any]) -> None:
    await answer(req, resp, from_runtime(error))


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


async def _gone(req: Request, resp: falcon.asgi.Response, error: ClientGone, params: dict[str, Any]) -> None:
    # Nobody reads it, unless the body only stalled.
    await answer(req, resp, ApiError(408, "incomplete_body", "Incomplete request", "the body did not arrive whole"))


async def _database(req: Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]) -> None:
    _log.error("database failed: %s", str(error).splitlines()[0])
    if "database or disk is full" in str(error):  # sqlite3's SQLITE_FULL has no class of its own
        await answer(req, resp, storage_full())
        return
    await answer(req, resp, ApiError(503, "unavailable", "The database is away", "the database does not answer", "", 500, 1))


async def _of_system(req: Request, resp: falcon.asgi.Response, error: OSError, params: dict[str, Any]) -> None:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        await _unexpected(req, resp, error, params)
        return
    _log.error("%s %s: %s", req.method, req.uri_template, os.strerror(error.errno))
    await answer(req, resp, storage_full())


def storage_full() -> ApiError:
    """507, RFC 4918: nothing was stored."""
    return ApiError(507, "storage_full", "Storage is full", "the state directory's disk is full", "make room and try again", 500)


async def _unexpected(req: Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]) -> None:
    _log.error("%s %s failed", req.method, req.uri_template, exc_info=error)  # not the path, which may hold anything
    await answer(req, resp, ApiError(500, "internal_error", "Internal error", "something went wrong here", "see the server's log", 500))
