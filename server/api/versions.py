"""Published versions: /v1/functions/{name}/versions, /v1/functions/{name}/versions/{version}."""

from __future__ import annotations

from functools import partial
from typing import Final

import falcon.asgi

from server.api.functions import JSON_SPARE_BYTES, send
from server.api.openapi import NAMESPACE, Answer, Parameter, operation, problem
from server.api.parameters import FLAGS, flag, json_body, namespace, query
from server.api.request import Request
from server.api.schemas import listing
from server.api.services import Services

TAG: Final = "versions"
_BAD = problem("A field or parameter is wrong; `detail` names it")
_MISSING = problem("No such function or version")


class FunctionVersions:
    """/v1/functions/{name}/versions"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "List a function's versions",
        TAG,
        {200: Answer("$LATEST, then by number", listing("versions", "Function")), 400: _BAD, 404: _MISSING},
        parameters=(NAMESPACE,),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        _, found = await self._services.lookups.run(self._services.versions.list, name, namespace(req))
        send(resp, {"versions": [version.to_json() for version in found]})

    @operation(
        "Publish a version: a copy of code and configuration that never changes",
        TAG,
        {
            201: Answer("The version", "Function", headers={"Location": "its path"}),
            400: _BAD,
            404: _MISSING,
            409: problem("There are too many"),
            413: problem("The body is too large"),
        },
        parameters=(NAMESPACE,),
        bodies={"application/json": "VersionCreation"},
        body_required=False,
    )
    async def on_post(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        where = namespace(req)
        payload = await json_body(req, JSON_SPARE_BYTES, empty={})
        version = await self._services.lookups.run(self._services.versions.publish, name, payload, where)
        send(resp, version.to_json(), 201)
        resp.set_header("Location", f"/v1/functions/{name}/versions/{version.version}{query(namespace=where)}")


class FunctionVersion:
    """/v1/functions/{name}/versions/{version}"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("A version", TAG, {200: Answer("The version", "Function"), 400: _BAD, 404: _MISSING}, parameters=(NAMESPACE,))
    async def on_get(self, req: Request, resp: falcon.asgi.Response, name: str, version: str) -> None:
        send(resp, (await self._services.lookups.run(self._services.versions.get, name, version, namespace(req))).to_json())

    @operation(
        "Delete a version; running calls finish",
        TAG,
        {204: Answer("It is gone"), 400: _BAD, 404: _MISSING, 409: problem("An alias points to it, or it is $LATEST")},
        parameters=(
            NAMESPACE,
            Parameter(
                "force",
                "1: although aliases point to it; they go too, routings to it are dropped, $DEFAULT falls back to $LATEST",
                {"type": "string", "enum": list(FLAGS)},
            ),
        ),
    )
    async def on_delete(self, req: Request, resp: falcon.asgi.Response, name: str, version: str) -> None:
        where, force = namespace(req), flag(req, "force")
        await self._services.change(partial(self._services.versions.delete, name, version, where, force=force), deleted=True)
        resp.status = 204
