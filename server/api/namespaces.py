"""Namespaces: /v1/namespaces, /v1/namespaces/{namespace}."""

from __future__ import annotations

from typing import Final

import falcon.asgi

from server.api.functions import JSON_SPARE_BYTES, send
from server.api.openapi import Answer, operation, problem
from server.api.parameters import json_body
from server.api.request import Request
from server.api.schemas import listing
from server.api.services import Services

TAG: Final = "namespaces"
_BAD = problem("A field is wrong; `detail` names it")
_MISSING = problem("No such namespace")
_BIG = problem("The body is too large")


class NamespaceList:
    """/v1/namespaces"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("List the namespaces", TAG, {200: Answer("By name", listing("namespaces", "Namespace"))})
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        found = await self._services.lookups.run(self._services.namespaces.list)
        send(resp, {"namespaces": [namespace.to_json() for namespace in found]})

    @operation(
        "Create a namespace",
        TAG,
        {
            201: Answer("The namespace", "Namespace", headers={"Location": "its path"}),
            400: _BAD,
            409: problem("It exists already, or there are too many"),
            413: _BIG,
        },
        bodies={"application/json": "NamespaceCreation"},
    )
    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        payload = await json_body(req, JSON_SPARE_BYTES)
        namespace = await self._services.lookups.run(self._services.namespaces.create, payload)
        send(resp, namespace.to_json(), 201)
        resp.set_header("Location", f"/v1/namespaces/{namespace.name}")


class NamespaceItem:
    """/v1/namespaces/{namespace}"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("A namespace", TAG, {200: Answer("The namespace", "Namespace"), 404: _MISSING})
    async def on_get(self, req: Request, resp: falcon.asgi.Response, namespace: str) -> None:
        send(resp, (await self._services.lookups.run(self._services.namespaces.get, namespace)).to_json())

    @operation(
        "Change a namespace's description",
        TAG,
        {200: Answer("The namespace", "Namespace"), 400: _BAD, 404: _MISSING, 413: _BIG},
        bodies={"application/json": "NamespaceChange"},
    )
    async def on_patch(self, req: Request, resp: falcon.asgi.Response, namespace: str) -> None:
        payload = await json_body(req, JSON_SPARE_BYTES)
        send(resp, (await self._services.lookups.run(self._services.namespaces.update, namespace, payload)).to_json())

    @operation(
        "Delete a namespace that has no function",
        TAG,
        {204: Answer("It is gone"), 404: _MISSING, 409: problem("It has functions, or is `default`")},
    )
    async def on_delete(self, req: Request, resp: falcon.asgi.Response, namespace: str) -> None:
        await self._services.lookups.run(self._services.namespaces.delete, namespace)
        resp.status = 204
