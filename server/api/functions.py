"""Functions and their code: /v1/functions, /v1/functions/{name}, /v1/functions/{name}/code."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import falcon.asgi

from server.api.openapi import NAMESPACE, QUALIFIER, Answer, operation, problem
from server.api.parameters import namespace, parsed, query, text, whole
from server.api.problems import dump
from server.api.request import Request
from server.api.schemas import listing
from server.api.services import Services
from server.errors import ApiError, BadRequest
from server.functions.model import LATEST, Function

TAG: Final = "functions"
#: What a JSON body may take besides the zip's base64.
JSON_SPARE_BYTES: Final = 64 * 1024
#: What a JSON body may have beside the code that it replaces.
BESIDE_CODE: Final = ("handler", "configuration")
ZIP_TYPES: Final = frozenset({"application/zip", "application/x-zip-compressed", "application/octet-stream"})

_BAD = problem("A field is wrong; `detail` names it")
_MISSING = problem("No such function")
_BIG = problem("The package or the body is too large")
_FULL = problem("The state directory's disk is full")


def send(resp: falcon.asgi.Response, value: Any, status: int = 200) -> None:
    """Answer with JSON."""
    resp.status, resp.data = status, dump(value)


def code_body_limit(services: Services) -> int:
    """Bytes of a JSON body that carries the largest package in base64."""
    return (services.settings.limit_code_bytes + 2) // 3 * 4 + JSON_SPARE_BYTES


class FunctionList:
    """/v1/functions"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "List a namespace's functions",
        TAG,
        {200: Answer("By name", listing("functions", "Function")), 400: problem("A parameter is wrong"), 404: problem("No such namespace")},
        parameters=(NAMESPACE,),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        _, found = await self._services.lookups.run(self._services.functions.list, namespace(req))
        send(resp, {"functions": [function.to_json() for function in found]})

    @operation(
        "Create a function",
        TAG,
        {
            201: Answer("The function", "Function", headers={"Location": "its path"}),
            400: _BAD,
            404: problem("No such namespace"),
            409: problem("It exists already, or there are too many"),
            413: _BIG,
            507: _FULL,
        },
        parameters=(NAMESPACE,),
        bodies={"application/json": "FunctionCreation"},
    )
    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        services, where = self._services, namespace(req)
        limit = code_body_limit(services)
        data = whole(await req.body(limit), limit, "the body")
        # Parsed in the thread: it may be megabytes. Nobody knows the new id yet, so there is nobody to tell.
        function = await services.changes.finish(services.uploads.run(lambda: services.functions.create(parsed(data), where)))
        send(resp, function.to_json(), 201)
        resp.set_header("Location", f"/v1/functions/{function.name}{query(namespace=where)}")


class FunctionItem:
    """/v1/functions/{name}"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "A function's configuration",
        TAG,
        {200: Answer("The function", "Function"), 404: problem("No such function or qualifier")},
        parameters=(NAMESPACE, QUALIFIER),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        qualifier = text(req, "qualifier") or LATEST
        function = await self._services.lookups.run(self._services.functions.get, name, namespace(req), qualifier)
        send(resp, {**function.to_json(), "served_by": await self._services.served_by(function.runtime)})

    @operation(
        "Change a function's configuration",
        TAG,
        {
            200: Answer("The function", "Function"),
            400: _BAD,
            404: _MISSING,
            409: problem("Changed by others at once"),
            413: _BIG,
            507: _FULL,
        },
        parameters=(NAMESPACE,),
        bodies={"application/json": "FunctionChange"},
    )
    async def on_patch(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        where = namespace(req)
        changes = parsed(whole(await req.body(JSON_SPARE_BYTES), JSON_SPARE_BYTES, "the body"))
        function = await self._services.change(partial(self._services.functions.update, name, changes, where))
        send(resp, function.to_json())

    @operation("Delete a function; running calls finish", TAG, {204: Answer("It is gone"), 404: _MISSING}, parameters=(NAMESPACE,))
    async def on_delete(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        await self._services.change(partial(self._services.functions.delete, name, namespace(req)), deleted=True)
        resp.status = 204


class FunctionCode:
    """/v1/functions/{name}/code"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "Replace a function's code, and with it what of its configuration is given: one change",
        TAG,
        {
            200: Answer("The function", "Function"),
            400: problem("The package is refused; `detail` names the member"),
            404: _MISSING,
            409: problem("Changed by others at once"),
            413: _BIG,
            507: _FULL,
            415: problem("Neither a zip nor JSON"),
        },
        parameters=(NAMESPACE,),
        bodies={"application/zip": {"type": "string", "format": "binary"}, "application/json": "CodeUpdate"},
    )
    async def on_put(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        services, where = self._services, namespace(req)
        media = (req.content_type or "application/zip").partition(";")[0].strip().lower()
        if media == "application/json":
            limit = code_body_limit(services)
            data = whole(await req.body(limit), limit, "the body")
            function = await services.change(lambda: self._update_from_json(name, data, where))
        elif media in ZIP_TYPES:
            limit = services.settings.limit_code_bytes
            data = whole(await req.body(limit), limit, "the code package")
            function = await services.change(lambda: services.functions.update_code(name, data, namespace=where))
        else:
            detail = f"content type {media!r} is neither application/zip nor application/json"
            raise ApiError(415, "unsupported_media_type", "Unsupported media type", detail)
        send(resp, function.to_json())

    def _update_from_json(self, name: str, data: bytes, where: str) -> Function:
        given = parsed(data)
        if not isinstance(given, dict):
            raise BadRequest("the body is not a JSON object", hint='{"zip": base64}')
        beside = {key: given.get(key) for key in BESIDE_CODE}
        code = given["code"] if "code" in given else {key: value for key, value in given.items() if key not in BESIDE_CODE}
        if unknown := sorted(given.keys() - {"code", *BESIDE_CODE}) if "code" in given else []:
            raise BadRequest(f"unknown field {unknown[0]!r}", field=unknown[0], hint=f"known are code, {', '.join(BESIDE_CODE)}")
        functions = self._services.functions
        return functions.update(name, _changes(**beside), where, zip_bytes=functions.decode_code(code))


def _changes(handler: Any, configuration: Any) -> dict[str, Any]:
    """The configuration that changes with the code; the handler may be in it or beside it."""
    if handler is not None and not isinstance(handler, str):
        raise BadRequest("handler is not a string", field="handler")
    if configuration is not None and not isinstance(configuration, dict):
        raise BadRequest("configuration is not a JSON object", field="configuration")
    changes = dict(configuration or {})
    if handler is not None and changes.setdefault("handler", handler) != handler:
        raise BadRequest("handler and configuration.handler are two", field="handler", hint="give one of them")
    return changes
