"""Layers: /v1/layers, /v1/layers/{layer}/versions, …/versions/{layer_version}, …/versions/{layer_version}/content."""

from __future__ import annotations

from typing import Final

import falcon.asgi

from server.api.functions import code_body_limit, send
from server.api.openapi import NAMESPACE, Answer, Parameter, operation, problem
from server.api.parameters import integer, namespace, parsed, query, text, whole
from server.api.request import Request
from server.api.schemas import INTEGER, LAYER_RUNTIME, listing
from server.api.services import Services
from server.errors import LayerVersionNotFound
from server.functions.checks import shown

TAG: Final = "layers"
ZIP: Final = "application/zip"
DEFAULT_PAGE: Final = 20
MAX_PAGE: Final = 1000
MAX_OFFSET: Final = 1_000_000

_BAD = problem("A field is wrong; `detail` names it")
_MISSING = problem("No such layer or version")
_RUNTIME = Parameter("runtime", "Only what is for this runtime", LAYER_RUNTIME)
_PAGING = (
    Parameter("search", "Part of the name"),
    Parameter("offset", "How many to leave out", {**INTEGER, "minimum": 0, "maximum": MAX_OFFSET}),
    Parameter("limit", "At most that many", {**INTEGER, "minimum": 0, "maximum": MAX_PAGE, "default": DEFAULT_PAGE}),
)
_PAGE = listing("layers", "LayerVersion")
_PAGE = {**_PAGE, "properties": {**_PAGE["properties"], "total": INTEGER}}


class LayerList:
    """/v1/layers"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "List the layers, each by its latest version",
        TAG,
        {200: Answer("By name; `total` counts what there is beyond this page, too", _PAGE), 400: _BAD},
        parameters=(_RUNTIME, *_PAGING, NAMESPACE),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        total, found = await self._services.lookups.run(
            self._services.layers.list,
            namespace(req),
            runtimes=_runtimes(req),
            search=text(req, "search") or "",
            offset=integer(req, "offset", 0, low=0, high=MAX_OFFSET),
            limit=integer(req, "limit", DEFAULT_PAGE, low=0, high=MAX_PAGE),
        )
        send(resp, {"layers": [version.to_json() for version in found], "total": total})


class LayerVersionList:
    """/v1/layers/{layer}/versions"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "List a layer's versions",
        TAG,
        {200: Answer("The latest first", listing("versions", "LayerVersion")), 400: _BAD, 404: problem("No such layer")},
        parameters=(_RUNTIME, NAMESPACE),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response, layer: str) -> None:
        found = await self._services.lookups.run(self._services.layers.versions, layer, namespace(req), runtimes=_runtimes(req))
        send(resp, {"versions": [version.to_json() for version in found]})

    @operation(
        "Publish a layer's next version",
        TAG,
        {
            201: Answer("The version", "LayerVersion", headers={"Location": "its path"}),
            400: problem("A field is wrong, or the package is refused; `detail` names the member"),
            404: problem("No such namespace"),
            409: problem("There are too many layers, or too many versions of this one"),
            413: problem("The package or the body is too large"),
            507: problem("The state directory's disk is full"),
        },
        parameters=(NAMESPACE,),
        bodies={"application/json": "LayerPublication"},
    )
    async def on_post(self, req: Request, resp: falcon.asgi.Response, layer: str) -> None:
        services, where, limit = self._services, namespace(req), code_body_limit(self._services)
        data = whole(await req.body(limit), limit, "the body")
        version = await services.changes.finish(services.uploads.run(lambda: services.layers.publish(layer, parsed(data), where)))
        send(resp, version.to_json(), 201)
        resp.set_header("Location", f"/v1/layers/{layer}/versions/{version.version}{query(namespace=where)}")


class LayerVersionItem:
    """/v1/layers/{layer}/versions/{layer_version}"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("A layer's version", TAG, {200: Answer("The version", "LayerVersion"), 400: _BAD, 404: _MISSING}, parameters=(NAMESPACE,))
    async def on_get(self, req: Request, resp: falcon.asgi.Response, layer: str, layer_version: str) -> None:
        number = _number(layer, layer_version)
        send(resp, (await self._services.lookups.run(self._services.layers.get, layer, number, namespace(req))).to_json())

    @operation(
        "Delete a layer's version; functions that have it keep it",
        TAG,
        {204: Answer("It is gone"), 400: _BAD, 404: _MISSING},
        parameters=(NAMESPACE,),
    )
    async def on_delete(self, req: Request, resp: falcon.asgi.Response, layer: str, layer_version: str) -> None:
        services, where, number = self._services, namespace(req), _number(layer, layer_version)
        await services.changes.finish(services.uploads.run(services.layers.delete, layer, number, where))
        resp.status = 204


class LayerContent:
    """/v1/layers/{layer}/versions/{layer_version}/content"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "A layer's version as a zip",
        TAG,
        {200: Answer("The zip as it was published", {"type": "string", "format": "binary"}, ZIP), 400: _BAD, 404: _MISSING},
        parameters=(NAMESPACE,),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response, layer: str, layer_version: str) -> None:
        number = _number(layer, layer_version)
        resp.data = await self._services.uploads.run(self._services.layers.content, layer, number, namespace(req))
        resp.content_type = ZIP
        resp.downloadable_as = f"{layer}-{number}.zip"


def _runtimes(req: Request) -> tuple[str, ...]:
    runtime = text(req, "runtime")
    return () if runtime is None else (runtime,)


def _number(layer: str, value: str) -> int:
    """A version's number out of a path. Raises LayerVersionNotFound."""
    # ASCII digits only: int() also takes signs, underscores and other scripts' digits.
    if value.isascii() and value.isdecimal() and len(value) <= 18:
        return int(value)
    raise LayerVersionNotFound(f"layer {shown(layer)} has no version {shown(value)}", hint="versions are whole numbers from 1")
