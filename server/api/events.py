"""Event settings and dead letters: /v1/functions/{name}/event-config, /v1/dead-letters."""

from __future__ import annotations

from functools import partial
from typing import Final

import falcon.asgi

from server.api.functions import JSON_SPARE_BYTES, send
from server.api.openapi import NAMESPACE, Answer, Parameter, operation, problem
from server.api.parameters import function_name, integer, namespace, parsed, whole
from server.api.request import Request
from server.api.schemas import NAME, listing
from server.api.services import Services
from server.events import wake
from server.events.configs import to_json
from server.events.model import lane_of

TAG: Final = "events"
MAX_LETTERS: Final = 1000

_NO_FUNCTION = problem("No such function")
_NO_LETTER = problem("No such dead letter")
_BAD = problem("A field or parameter is wrong; `detail` names it")
_FUNCTION = Parameter("function", "Only this one's", NAME)


class EventConfig:
    """/v1/functions/{name}/event-config"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "A function's event settings",
        TAG,
        {200: Answer("They, or the defaults", "EventConfig"), 404: _NO_FUNCTION},
        parameters=(NAMESPACE,),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        send(resp, to_json(await self._services.lookups.run(self._services.configs.get, name, namespace(req))))

    @operation(
        "Change a function's event settings: what is named; null is the default again",
        TAG,
        {200: Answer("All of them", "EventConfig"), 400: _BAD, 404: _NO_FUNCTION, 413: problem("The body is too large")},
        parameters=(NAMESPACE,),
        bodies={"application/json": "EventConfigChange"},
    )
    async def on_put(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        changes = parsed(whole(await req.body(JSON_SPARE_BYTES), JSON_SPARE_BYTES, "the body"))
        send(resp, to_json(await self._services.lookups.run(self._services.configs.change, name, changes, namespace(req))))

    @operation(
        "A function's event settings are the defaults again", TAG, {204: Answer("They are"), 404: _NO_FUNCTION}, parameters=(NAMESPACE,)
    )
    async def on_delete(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        await self._services.lookups.run(self._services.configs.reset, name, namespace(req))
        resp.status = 204


class DeadLetterList:
    """/v1/dead-letters"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "Events that ended badly",
        TAG,
        {200: Answer("Newest first, without the events themselves", listing("dead_letters", "DeadLetter")), 400: _BAD},
        parameters=(
            NAMESPACE,
            _FUNCTION,
            Parameter("limit", "How many", {"type": "integer", "minimum": 1, "maximum": MAX_LETTERS, "default": 100}),
        ),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        limit = integer(req, "limit", 100, low=1, high=MAX_LETTERS)
        lane, of = _lane(req), namespace(req)
        found = await self._services.lookups.run(partial(self._services.letters.search, lane, limit, namespace=of))
        send(resp, {"dead_letters": [letter.to_json(payload=False) for letter in found]})

    @operation(
        "Purge them, of one function or of the namespace",
        TAG,
        {200: Answer("How many went", {"type": "object", "properties": {"purged": {"type": "integer"}}}), 400: _BAD},
        parameters=(NAMESPACE, _FUNCTION),
    )
    async def on_delete(self, req: Request, resp: falcon.asgi.Response) -> None:
        lane, of = _lane(req), namespace(req)
        send(resp, {"purged": await self._services.lookups.run(partial(self._services.letters.purge_all, lane, namespace=of))})


class DeadLetterItem:
    """/v1/dead-letters/{request_id}"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("One dead letter with its event", TAG, {200: Answer("It", "DeadLetter"), 404: _NO_LETTER})
    async def on_get(self, req: Request, resp: falcon.asgi.Response, request_id: str) -> None:
        letter = await self._services.lookups.run(self._services.letters.get, request_id)
        send(resp, letter.to_json(payload=True))

    @operation("Purge one dead letter", TAG, {204: Answer("It is gone"), 404: _NO_LETTER})
    async def on_delete(self, req: Request, resp: falcon.asgi.Response, request_id: str) -> None:
        await self._services.lookups.run(self._services.letters.purge, request_id)
        resp.status = 204


class DeadLetterResend:
    """/v1/dead-letters/{request_id}/resend"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "Send a dead letter's event again; the letter goes in the same commit",
        TAG,
        {
            202: Answer("The new event is on disk and will run", "Accepted", headers={"Location": "its record"}),
            404: _NO_LETTER,
            503: problem("The event queue is full", Retry_After="seconds"),
        },
    )
    async def on_post(self, req: Request, resp: falcon.asgi.Response, request_id: str) -> None:
        services = self._services
        new_id = await services.changes.finish(services.lookups.run(services.letters.resend, request_id))
        await services.lookups.run(services.events.tell_dispatchers, wake.WORK)
        send(resp, {"request_id": new_id}, 202)
        resp.set_header("Location", f"/v1/invocations/{new_id}")


def _lane(req: Request) -> str | None:
    name = function_name(req)
    return None if name is None else lane_of(namespace(req), name)
