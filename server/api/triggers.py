"""What makes a function's events by itself: /v1/functions/{name}/triggers."""

from __future__ import annotations

from functools import partial
from typing import Final

import falcon.asgi

from server.api.functions import JSON_SPARE_BYTES, send
from server.api.openapi import NAMESPACE, Answer, operation, problem
from server.api.parameters import namespace, parsed, whole
from server.api.request import Request
from server.api.schemas import listing
from server.api.services import Services

TAG: Final = "triggers"

_BAD = problem("A field is wrong; `detail` names it")
_MISSING = problem("No such function or trigger")
_BIG = problem("The body is too large")


class FunctionTriggers:
    """/v1/functions/{name}/triggers"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "A function's triggers",
        TAG,
        {200: Answer("By name", listing("triggers", "Trigger")), 404: problem("No such function")},
        parameters=(NAMESPACE,),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        found = await self._services.lookups.run(self._services.triggers.list, name, namespace(req))
        send(resp, {"triggers": [trigger.to_json() for trigger in found]})

    @operation(
        "Give a function a trigger",
        TAG,
        {
            201: Answer("It", "Trigger", headers={"Location": "its path"}),
            400: _BAD,
            404: problem("No such function"),
            409: problem("There is one of that name, too many of that type, or an HTTP one of that qualifier"),
            413: _BIG,
        },
        parameters=(NAMESPACE,),
        bodies={"application/json": "TriggerCreation"},
    )
    async def on_post(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        services = self._services
        given = parsed(whole(await req.body(JSON_SPARE_BYTES), JSON_SPARE_BYTES, "the body"))
        trigger = await services.change_trigger(partial(services.triggers.create, name, given, namespace(req)))
        send(resp, trigger.to_json(), 201)
        resp.set_header("Location", f"/v1/functions/{name}/triggers/{trigger.name}")


class FunctionTrigger:
    """/v1/functions/{name}/triggers/{trigger}"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("One trigger", TAG, {200: Answer("It", "Trigger"), 404: _MISSING}, parameters=(NAMESPACE,))
    async def on_get(self, req: Request, resp: falcon.asgi.Response, name: str, trigger: str) -> None:
        found = await self._services.lookups.run(self._services.triggers.get, name, trigger, namespace(req))
        send(resp, found.to_json())

    @operation(
        "Change a trigger: what is named of config (whole), qualifier, enabled, description",
        TAG,
        {
            200: Answer("It", "Trigger"),
            400: _BAD,
            404: _MISSING,
            409: problem("There is an HTTP trigger of that qualifier"),
            413: _BIG,
        },
        parameters=(NAMESPACE,),
        bodies={"application/json": "TriggerChange"},
    )
    async def on_patch(self, req: Request, resp: falcon.asgi.Response, name: str, trigger: str) -> None:
        services = self._services
        changes = parsed(whole(await req.body(JSON_SPARE_BYTES), JSON_SPARE_BYTES, "the body"))
        changed = await services.change_trigger(partial(services.triggers.change, name, trigger, changes, namespace(req)))
        send(resp, changed.to_json())

    @operation("Remove a trigger; events it has made still run", TAG, {204: Answer("It is gone"), 404: _MISSING}, parameters=(NAMESPACE,))
    async def on_delete(self, req: Request, resp: falcon.asgi.Response, name: str, trigger: str) -> None:
        await self._services.change_trigger(partial(self._services.triggers.delete, name, trigger, namespace(req)))
        resp.status = 204
