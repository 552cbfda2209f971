"""Other stores that may send notifications: /v1/sources, /v1/sources/{source}, /v1/sources/{source}/secret."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import falcon.asgi

from server.api.functions import JSON_SPARE_BYTES, send
from server.api.openapi import Answer, operation, problem
from server.api.parameters import json_body
from server.api.request import Request
from server.api.schemas import listing
from server.api.services import Services
from server.notifications.sources import Source

TAG: Final = "sources"

_MISSING = problem("No such source")


class SourceList:
    """/v1/sources"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("Other stores whose notifications are taken", TAG, {200: Answer("By name", listing("sources", "Source"))})
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        found = await self._services.lookups.run(self._services.sources.list)
        send(resp, {"sources": [source.to_json() for source in found]})

    @operation(
        "Make a source; its secret is told only now",
        TAG,
        {
            201: Answer("It, with its `secret`", "NewSource", headers={"Location": "its path"}),
            400: problem("A field is wrong; `detail` names it"),
            409: problem("There is one of that name, or there are too many"),
            413: problem("The body is too large"),
        },
        bodies={"application/json": "SourceCreation"},
    )
    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        services, given = self._services, await json_body(req, JSON_SPARE_BYTES)
        source, secret = await services.changes.finish(services.lookups.run(partial(services.sources.create, given)))
        send(resp, _with_secret(source, secret), 201)
        resp.set_header("Location", f"/v1/sources/{source.name}")
        resp.set_header("Cache-Control", "no-store")


class SourceItem:
    """/v1/sources/{source}"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "Remove a source: nothing more is taken from it",
        TAG,
        {204: Answer("It is gone"), 404: _MISSING, 409: problem("Triggers take its events")},
    )
    async def on_delete(self, req: Request, resp: falcon.asgi.Response, source: str) -> None:
        await self._services.changes.finish(self._services.lookups.run(self._services.sources.delete, source))
        resp.status = 204


class SourceSecret:
    """/v1/sources/{source}/secret"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "Give a source another secret, told only now; the old one is good for nothing any more",
        TAG,
        {200: Answer("The source with its new `secret`", "NewSource"), 404: _MISSING},
    )
    async def on_post(self, req: Request, resp: falcon.asgi.Response, source: str) -> None:
        await req.drain()
        services = self._services
        renewed, secret = await services.changes.finish(services.lookups.run(services.sources.renew, source))
        send(resp, _with_secret(renewed, secret))
        resp.set_header("Cache-Control", "no-store")


def _with_secret(source: Source, secret: str) -> dict[str, Any]:
    return {**source.to_json(), "secret": secret}
