"""Aliases: /v1/functions/{name}/aliases, /v1/functions/{name}/aliases/{alias}."""

from __future__ import annotations

from functools import partial
from typing import Final

import falcon.asgi

from server.api.functions import JSON_SPARE_BYTES, send
from server.api.openapi import NAMESPACE, Answer, operation, problem
from server.api.parameters import json_body, namespace, query
from server.api.request import Request
from server.api.schemas import listing
from server.api.services import Services

TAG: Final = "aliases"
_BAD = problem("A field or parameter is wrong; `detail` names it")
_MISSING = problem("No such function, version or alias")
_BIG = problem("The body is too large")


class FunctionAliases:
    """/v1/functions/{name}/aliases"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "List a function's aliases",
        TAG,
        {200: Answer("By name", listing("aliases", "Alias")), 400: _BAD, 404: _MISSING},
        parameters=(NAMESPACE,),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        found = await self._services.lookups.run(self._services.aliases.list, name, namespace(req))
        send(resp, {"aliases": [alias.to_json() for alias in found]})

    @operation(
        "Create an alias",
        TAG,
        {
            201: Answer("The alias", "Alias", headers={"Location": "its path"}),
            400: _BAD,
            404: _MISSING,
            409: problem("It exists already, or there are too many"),
            413: _BIG,
        },
        parameters=(NAMESPACE,),
        bodies={"application/json": "AliasCreation"},
    )
    async def on_post(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        where = namespace(req)
        payload = await json_body(req, JSON_SPARE_BYTES)
        alias = await self._services.change_alias(partial(self._services.aliases.create, name, payload, where))
        send(resp, alias.to_json(), 201)
        resp.set_header("Location", f"/v1/functions/{name}/aliases/{alias.name}{query(namespace=where)}")


class FunctionAlias:
    """/v1/functions/{name}/aliases/{alias}"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("An alias", TAG, {200: Answer("The alias", "Alias"), 400: _BAD, 404: _MISSING}, parameters=(NAMESPACE,))
    async def on_get(self, req: Request, resp: falcon.asgi.Response, name: str, alias: str) -> None:
        send(resp, (await self._services.lookups.run(self._services.aliases.get, name, alias, namespace(req))).to_json())

    @operation(
        "Change an alias; a routing is replaced whole. The next call follows it, no worker goes",
        TAG,
        {200: Answer("The alias", "Alias"), 400: _BAD, 404: _MISSING, 413: _BIG},
        parameters=(NAMESPACE,),
        bodies={"application/json": "AliasChange"},
    )
    async def on_patch(self, req: Request, resp: falcon.asgi.Response, name: str, alias: str) -> None:
        where = namespace(req)
        payload = await json_body(req, JSON_SPARE_BYTES)
        changed = await self._services.change_alias(partial(self._services.aliases.update, name, alias, payload, where))
        send(resp, changed.to_json())

    @operation(
        "Delete an alias",
        TAG,
        {204: Answer("It is gone"), 400: _BAD, 404: _MISSING, 409: problem("`$DEFAULT` stays")},
        parameters=(NAMESPACE,),
    )
    async def on_delete(self, req: Request, resp: falcon.asgi.Response, name: str, alias: str) -> None:
        await self._services.change_alias(partial(self._services.aliases.delete, name, alias, namespace(req)))
        resp.status = 204
