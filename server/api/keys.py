"""Secret pairs of signing clients: /v1/keys, /v1/keys/{secret_id}."""

from __future__ import annotations

from typing import Final

import falcon.asgi

from server.api.functions import JSON_SPARE_BYTES, send
from server.api.openapi import Answer, operation, problem
from server.api.parameters import parsed, whole
from server.api.request import Request
from server.api.schemas import listing
from server.api.services import Services

TAG: Final = "keys"


class KeyList:
    """/v1/keys"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("List the secret pairs, without their secrets", TAG, {200: Answer("In the order they were made", listing("keys", "Key"))})
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        found = await self._services.lookups.run(self._services.keys.list)
        send(resp, {"keys": [pair.to_json() for pair in found]})

    @operation(
        "Make a secret pair; its secret is told only now",
        TAG,
        {
            201: Answer("The pair with its `secret_key`", "NewKey", headers={"Location": "its path"}),
            400: problem("A field is wrong; `detail` names it"),
            413: problem("The body is too large"),
        },
        bodies={"application/json": "KeyCreation"},
        body_required=False,
    )
    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        body = whole(await req.body(JSON_SPARE_BYTES), JSON_SPARE_BYTES, "the body")
        given = parsed(body) if body else {}
        pair, secret = await self._services.changes.finish(self._services.lookups.run(self._services.keys.create, given))
        send(resp, {**pair.to_json(), "secret_key": secret}, 201)
        resp.set_header("Location", f"/v1/keys/{pair.secret_id}")
        resp.set_header("Cache-Control", "no-store")


class KeyItem:
    """/v1/keys/{secret_id}"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("Revoke a secret pair, at once and for good", TAG, {204: Answer("It is gone"), 404: problem("No such pair")})
    async def on_delete(self, req: Request, resp: falcon.asgi.Response, secret_id: str) -> None:
        await self._services.changes.finish(self._services.lookups.run(self._services.keys.revoke, secret_id))
        resp.status = 204
