"""What this machine has and has done: /v1/sandboxes, /v1/images, /v1/usage."""

from __future__ import annotations

from typing import Final

import falcon.asgi

from server.api.openapi import NAMESPACE, Answer, Parameter, operation, problem
from server.api.parameters import day, namespace
from server.api.problems import dump
from server.api.request import Request
from server.api.schemas import listing
from server.api.services import Services
from server.errors import BadRequest

TAG: Final = "host"
_AWAY = problem("The runtime is away", Retry_After="seconds")
_DAY: Final = {"type": "string", "format": "date", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}


class Sandboxes:
    """/v1/sandboxes"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("The sandboxes there are now", TAG, {200: Answer("All of them", listing("sandboxes", "Sandbox")), 503: _AWAY})
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        described = await self._services.describe()
        shown = {key: described[key] for key in ("sandboxes", "capacity", "counters", "nat") if key in described}
        resp.data = dump(shown)


class Images:
    """/v1/images"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("The images and their runtimes", TAG, {200: Answer("Their manifests", listing("images", "Image")), 503: _AWAY})
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        resp.data = dump({"images": (await self._services.describe()).get("images", [])})


class Usage:
    """/v1/usage"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "Calls and GB-seconds by function and day",
        TAG,
        {200: Answer("By day and function", listing("usage", "Usage")), 400: problem("A parameter is wrong")},
        parameters=(NAMESPACE, Parameter("from", "First day, UTC", _DAY), Parameter("to", "Last day, UTC", _DAY)),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        first, last, where = day(req, "from"), day(req, "to"), namespace(req)
        if first and last and first > last:
            raise BadRequest(f"from: {first} is after to: {last}", field="from")
        resp.data = dump({"usage": await self._services.lookups.run(self._services.recorder.usage, first, last, where)})
