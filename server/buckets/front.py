"""From a request to its answer: who it is, what it wants, whether it may; every failure becomes the protocol's own error document."""

from __future__ import annotations

import errno
import logging
import secrets
import time
from typing import Any, Final

import falcon.asgi
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sandbox.errors import Unavailable
from sandbox.log import pairs
from server.api.request import ClientGone
from server.buckets import signing
from server.buckets.access import OPERATOR_ID, Identity
from server.buckets.address import Target
from server.buckets.answer import Answer, error_answer
from server.buckets.call import S3, Dialect
from server.buckets.errors import BucketError
from server.buckets.operations.ask import Ask, Services
from server.buckets.operations.table import Operation, select
from server.buckets.request import Request
from server.buckets.signing import Claim, Payload
from server.errors import QueueFull
from server.keys.model import is_secret_id

#: Names no bucket can have: how the service is, and what it has done.
HEALTH_PATH: Final = "/-/healthz"
METRICS_PATH: Final = "/-/metrics"
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_log = logging.getLogger(__name__)


class Front:
    """Falcon's sink for every path."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, req: Request, resp: falcon.asgi.Response | None, **_params: Any) -> None:
        assert resp is not None  # None is for WebSockets, which gunicorn's connection of ours never makes
        request_id, began = secrets.token_hex(12), time.perf_counter()
        operation, answer = await self._answer(req, request_id)
        if req.body_left:
            await req.drain()
        dialect = _dialect(req)
        common = {f"{dialect.prefix}request-id": request_id}
        if req.body_left:
            common["Connection"] = "close"
        answer.write_to(resp, common)
        self._services.metrics.count(operation, answer.status, time.perf_counter() - began)

    async def _answer(self, req: Request, request_id: str) -> tuple[str, Answer]:
        name = "refused"
        try:
            call = req.call
            if (
                call.method == "GET"
                and call.path in (HEALTH_PATH, METRICS_PATH)
                and not req.is_from_function
                and signing.read(call) is None
            ):
                return "own", await self._own(call.path)
            target = self._services.hosts.target(call)
            identity, payload = await self._identify(req, target)
            operation = select(call, target)
            name = operation.name
            identity.require(writes=operation.writes)
            ask = Ask(self._services, req, target, identity, payload, request_id)
            return name, await self._run(operation, ask)
        except Exception as error:
            return name, self._refusal(error, req, request_id)

    async def _run(self, operation: Operation, ask: Ask) -> Answer:
        """What writes comes to its end although its client may leave: its threads hold files that must not be closed under them."""
        if not operation.writes:
            return await operation.run(ask)
        return await self._services.tasks.finish(_awaited(operation, ask))

    async def _identify(self, req: Request, target: Target) -> tuple[Identity, Payload]:
        claim = signing.read(req.call)
        if claim is None:
            raise BucketError("AccessDenied", "every request must be signed")
        if req.is_from_function and claim.secret_id == OPERATOR_ID:
            # It is the bearer credential in other words, which from in there nobody may try either (`server.api.auth`).
            raise BucketError("AccessDenied", "the operator's key is not taken from functions")
        secret_key, identity = await self._find(claim)
        return identity, claim.check(secret_key, req.call, target.bucket if target.in_host else "", self._services.clock())

    async def _find(self, claim: Claim) -> tuple[str, Identity]:
        """As `server.keys.credentials` does: a pair of the table, else, with a token, a function's temporary one."""
        secret = await self._services.lookups.run(self._services.secrets.find, claim.secret_id)
        if secret is not None:
            return secret.secret_key, Identity(secret.secret_id, secret.scope, secret.namespace)
        if not claim.token or not is_secret_id(claim.secret_id):
            raise BucketError("InvalidAccessKeyId", AWSAccessKeyId=claim.secret_id[:128])
        found = await self._services.temporary.find(claim.secret_id, claim.token)
        if found is None:
            raise BucketError("AccessDenied", "The provided token is malformed, not ours or expired")
        return found.secret_key, Identity(found.secret_id, found.scope, found.namespace, found.caused_by, found.hops)

    async def _own(self, path: str) -> Answer:
        if path == HEALTH_PATH:
            return Answer(body=b"ok\n", headers={"Content-Type": "text/plain"})
        page = await self._services.lookups.run(self._services.metrics.render)
        return Answer(body=page, headers={"Content-Type": METRICS_TYPE})

    def _refusal(self, error: Exception, req: Request, request_id: str) -> Answer:
        refused = as_refusal(error)
        if refused.status >= 500 and refused.code != "NotImplemented":
            # No header and no query: they hold signatures.
            _log.error(
                pairs("request failed", request_id=request_id, method=req.method, error=repr(error)[:500]), exc_info=_cause(refused, error)
            )
        return error_answer(refused, _dialect(req), req.path, request_id)


async def _awaited(operation: Operation, ask: Ask) -> Answer:
    return await operation.run(ask)


def _cause(refused: BucketError, error: Exception) -> Exception | None:
    return error if refused.code == "InternalError" else None


def as_refusal(error: Exception) -> BucketError:
    """Every exception as what a client can be told of it."""
    if isinstance(error, BucketError):
        return error
    if isinstance(error, QueueFull):
        return BucketError("SlowDown", error.detail)
    if isinstance(error, ClientGone):
        return BucketError("IncompleteBody")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BucketError("InsufficientStorage")
    if isinstance(error, DBAPIError) and "disk is full" in str(error.orig).lower():
        return BucketError("InsufficientStorage")
    if isinstance(error, (DBAPIError, PoolTimeout, Unavailable)):
        return BucketError("ServiceUnavailable")
    return BucketError("InternalError")


def _dialect(req: Request) -> Dialect:
    try:
        return req.call.dialect
    except BucketError:
        return S3
