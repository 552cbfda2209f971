"""Concurrency: /v1/functions/{name}/concurrency, /v1/functions/{name}/versions/{version}/provisioned, /v1/account."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Final

import falcon.asgi

from server.api.functions import JSON_SPARE_BYTES, send
from server.api.openapi import NAMESPACE, Answer, operation, problem
from server.api.parameters import namespace, parsed, whole
from server.api.request import Request
from server.api.services import Services
from server.errors import BadRequest
from server.functions.checks import shown
from server.functions.model import DEFAULT_NAMESPACE
from server.functions.provisions import Target

TAG: Final = "concurrency"

_BAD = problem("A field is wrong; `detail` names it")
_MISSING = problem("No such function or version")
_BIG = problem("The body is too large")
_AWAY = problem("The runtime is away", Retry_After="seconds")
_NOTHING: Final = {"allocated": 0, "available": 0, "status": "done", "reason": ""}


class FunctionConcurrency:
    """/v1/functions/{name}/concurrency"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("A function's reserved concurrency", TAG, {200: Answer("Its share", "Concurrency"), 404: _MISSING}, parameters=(NAMESPACE,))
    async def on_get(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        send(resp, await self._services.lookups.run(self._services.concurrency.reservation, name, namespace(req)))

    @operation(
        "Reserve concurrency for a function, over all its versions; 0 shuts it off at once",
        TAG,
        {
            200: Answer("Its share", "Concurrency"),
            400: _BAD,
            404: _MISSING,
            409: problem("More than the total, or too little would stay unreserved"),
            413: _BIG,
        },
        parameters=(NAMESPACE,),
        bodies={"application/json": "Reservation"},
    )
    async def on_put(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        services, where = self._services, namespace(req)
        given = await body(req, "reserved_mb")
        await services.change_quota(partial(services.concurrency.reserve, name, given.get("reserved_mb"), where))
        send(resp, await services.lookups.run(services.concurrency.reservation, name, where))

    @operation("Back to the shared part", TAG, {204: Answer("It has no reservation"), 404: _MISSING}, parameters=(NAMESPACE,))
    async def on_delete(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        services = self._services
        await services.change_quota(partial(services.concurrency.release, name, namespace(req)))
        resp.status = 204


class VersionProvisioned:
    """/v1/functions/{name}/versions/{version}/provisioned"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "A version's provisioned workers",
        TAG,
        {200: Answer("How many there should be and are", "Provisioned"), 404: _MISSING, 503: _AWAY},
        parameters=(NAMESPACE,),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response, name: str, version: str) -> None:
        services = self._services
        function, target = await services.lookups.run(services.provisions.find, name, version, namespace(req))
        if target is not None:
            send(resp, await self._shown(target))
            return
        identity = {"function": function.name, "namespace": function.namespace, "version": function.version}
        send(resp, {**identity, "number": 0, "schedule": [], **_NOTHING, "updated_at": None})

    @operation(
        "Have workers of a version started, loaded and kept; a schedule changes how many",
        TAG,
        {
            200: Answer("It has begun", "Provisioned"),
            400: _BAD,
            404: _MISSING,
            409: problem("$LATEST, more than the function or the namespace may run at once, or over a limit"),
            413: _BIG,
            503: _AWAY,
        },
        parameters=(NAMESPACE,),
        bodies={"application/json": "Provisioning"},
    )
    async def on_put(self, req: Request, resp: falcon.asgi.Response, name: str, version: str) -> None:
        services, where = self._services, namespace(req)
        given = await body(req, "number", "schedule")
        target = await services.provision(partial(services.provisions.put, name, version, given, where))
        send(resp, await self._shown(target))

    @operation(
        "Release a version's provisioned workers", TAG, {204: Answer("They go as others do"), 404: _MISSING}, parameters=(NAMESPACE,)
    )
    async def on_delete(self, req: Request, resp: falcon.asgi.Response, name: str, version: str) -> None:
        services = self._services
        await services.unprovision(partial(services.provisions.delete, name, version, namespace(req)))
        resp.status = 204

    async def _shown(self, target: Target) -> dict[str, Any]:
        row, now = (await self._services.provisioned()).get(target.function_id), time.time()
        return {**target.to_json(), **target.state(row, now)}


class Account:
    """/v1/account"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("What each namespace uses and may use, and the limits", TAG, {200: Answer("Usage and limits", "Account")})
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        send(resp, await self._services.account())

    @operation(
        "Set the total concurrency of a namespace",
        TAG,
        {
            200: Answer("Usage and limits", "Account"),
            400: _BAD,
            404: problem("No such namespace"),
            409: problem("Reservations need more, or it is over the largest"),
            413: _BIG,
        },
        bodies={"application/json": "Total"},
    )
    async def on_put(self, req: Request, resp: falcon.asgi.Response) -> None:
        services = self._services
        given = await body(req, "namespace", "total_mb")
        where = given.get("namespace", DEFAULT_NAMESPACE)
        await services.change_quota(partial(services.concurrency.set_total, where, given.get("total_mb")))
        send(resp, await services.account())


async def body(req: Request, *fields: str) -> dict[str, Any]:
    """A JSON object with no other fields than these. Raises BadRequest, PayloadTooLarge."""
    given = parsed(whole(await req.body(JSON_SPARE_BYTES), JSON_SPARE_BYTES, "the body"))
    if not isinstance(given, dict):
        raise BadRequest("the body is not a JSON object", hint=f"known are {', '.join(fields)}")
    if unknown := sorted(given.keys() - set(fields)):
        raise BadRequest(f"unknown field {shown(unknown[0])}", field=unknown[0], hint=f"known are {', '.join(fields)}")
    return given
