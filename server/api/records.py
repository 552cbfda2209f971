"""What calls came to: /v1/invocations/{request_id}, /v1/functions/{name}/logs, and a function's latest calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final, NamedTuple, get_args

import falcon.asgi
from falcon.asgi import SSEvent

from server.api.openapi import NAMESPACE, Answer, Parameter, operation, problem
from server.api.parameters import FLAGS, choice, flag, function_name, integer, moment, namespace, seconds, text
from server.api.problems import dump
from server.api.request import Request
from server.api.schemas import NAME, listing
from server.api.services import Services
from server.errors import BadRequest, Conflict, NotFound
from server.records.model import FINAL_STATES, Filter, LogEntry, State

#: Records are written behind the reply, by any of several processes, within 100 ms.
PATIENCE_SECONDS: Final = 0.3
#: Whoever asks for an id that nobody knows need not wait long: only a call that has ended gets its record this late.
UNKNOWN_SECONDS: Final = 1.0
ASK_AGAIN_SECONDS: Final = 0.03
LONGEST_WAIT_SECONDS: Final = 60.0
#: How long a cancellation waits for the end of a running call.
CANCEL_SECONDS: Final = 5.0
MAX_ROWS: Final = 1000
FOLLOW_SECONDS: Final = 0.25
KEEP_ALIVE_SECONDS: Final = 15.0


TYPES: Final = ("sync", "async")
#: The parameters of every list of records.
SEARCH: Final = (
    Parameter("limit", "How many", {"type": "integer", "minimum": 1, "maximum": MAX_ROWS, "default": 20}),
    Parameter("state", "Only those", {"type": "string", "enum": list(get_args(State))}),
    Parameter("type", "Only those", {"type": "string", "enum": list(TYPES)}),
    Parameter("since", "Made at this time or later", {"type": "string", "format": "date-time"}),
    Parameter("until", "Made before this time", {"type": "string", "format": "date-time"}),
)


class Of(NamedTuple):
    """Whose records."""

    name: str
    namespace: str


class Invocation:
    """/v1/invocations/{request_id}"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "The record of one call",
        "invocations",
        {200: Answer("The record", "Record"), 400: problem("A parameter is wrong"), 404: problem("No such call")},
        parameters=(
            NAMESPACE,
            Parameter("wait", "Seconds to wait for its end", {"type": "number", "minimum": 0, "maximum": LONGEST_WAIT_SECONDS}),
        ),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response, request_id: str) -> None:
        where, wait = namespace(req), seconds(req, "wait", high=LONGEST_WAIT_SECONDS)
        record = await self._find(request_id, wait)
        if record is None or record["namespace"] != where:
            raise _no_call(request_id)
        resp.data = dump(record)

    async def _find(self, request_id: str, wait_seconds: float) -> dict[str, Any] | None:
        services, began = self._services, time.monotonic()
        # A call that has just ended may have no record yet; whoever asks for an id that nobody knows need not wait long.
        patience = min(max(wait_seconds, PATIENCE_SECONDS), UNKNOWN_SECONDS)
        while (record := await services.events.record(request_id)) is None:
            if time.monotonic() - began >= patience or services.stopping.is_set():
                return None
            await asyncio.sleep(ASK_AGAIN_SECONDS)
        if not wait_seconds or record["state"] in FINAL_STATES:
            return record
        left = began + wait_seconds - time.monotonic()
        return await services.events.ended(request_id, left, lambda: not services.stopping.is_set())

    @operation(
        "Cancel an asynchronous call",
        "invocations",
        {
            200: Answer("Its record; one that ran was stopped and its sandbox destroyed", "Record"),
            202: Answer("It still runs, its dispatcher has been asked to stop it", "Record"),
            404: problem("No such call"),
            409: problem("It is over, or it is synchronous"),
        },
    )
    async def on_delete(self, req: Request, resp: falcon.asgi.Response, request_id: str) -> None:
        services = self._services
        event = await services.changes.finish(services.events.cancel(request_id))
        record = await services.events.ended(request_id, CANCEL_SECONDS if event else 0.0, lambda: not services.stopping.is_set())
        if record is None:
            raise _no_call(request_id)
        if event is None:
            raise Conflict(f"the call is {record['state']}, there is nothing to cancel", code="not_cancellable")
        resp.status = 200 if record["state"] in FINAL_STATES else 202
        resp.data = dump(record)


class Invocations:
    """/v1/invocations"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "The latest calls of all functions",
        "invocations",
        {200: Answer("Newest first", listing("invocations", "Record")), 400: problem("A parameter is wrong")},
        parameters=(NAMESPACE, Parameter("function", "Only this one's", NAME), *SEARCH),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        resp.data = dump({"invocations": await find_records(self._services, req, function_name(req))})


class FunctionLogs:
    """/v1/functions/{name}/logs"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "What a function's calls wrote",
        "invocations",
        {
            200: Answer(
                "Oldest first; with follow=1 a stream of server-sent events, one LogEntry each",
                listing("logs", "LogEntry"),
                also={"text/event-stream": {"description": "Events: `id` is a cursor, `data` a LogEntry as JSON"}},
            ),
            400: problem("A parameter is wrong"),
            404: problem("No such function"),
        },
        parameters=(
            NAMESPACE,
            Parameter("follow", "1: stay and send what comes, as server-sent events", {"type": "string", "enum": list(FLAGS)}),
            Parameter(
                "limit", "The newest so many (100; following begins with none)", {"type": "integer", "minimum": 1, "maximum": MAX_ROWS}
            ),
            Parameter("after", "Only those behind this cursor", {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}),
            Parameter(
                "Last-Event-ID",
                "As `after`, from a client that comes back",
                {"type": "string", "pattern": "^[0-9]{1,18}$"},
                place="header",
            ),
        ),
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response, name: str) -> None:
        of = Of(name, namespace(req))
        following = flag(req, "follow")
        limit = integer(req, "limit", 0, low=1, high=MAX_ROWS)
        after = _cursor(req)
        if following and req.method == "HEAD":
            await self._check_exists(of)
            resp.content_type, resp.stream = "text/event-stream", _nothing()  # or Falcon would say Content-Length: 0
            return
        if following:
            await self._check_exists(of)
            first, cursor = await self._beginning(of, after, limit)
            resp.sse = self._follow(of, first, cursor)
            resp.set_header("Cache-Control", "no-store")
            return
        entries = await self._entries(of, after, limit or 100)
        if not entries:
            await self._check_exists(of)
        resp.data = dump({"logs": entries})

    async def _entries(self, of: Of, after: int | None, limit: int) -> list[LogEntry]:
        return await self._services.lookups.run(self._services.recorder.logs, *of, after=after, limit=limit)

    async def _check_exists(self, of: Of) -> None:
        await self._services.lookups.run(self._services.functions.get, *of)

    async def _beginning(self, of: Of, after: int | None, limit: int) -> tuple[list[LogEntry], int]:
        """What is shown at once, and the cursor that following goes on from."""
        if after is not None:
            return [], after
        end = await self._services.lookups.run(self._services.recorder.last_cursor)
        first = await self._entries(of, None, limit) if limit else []
        return first, max([end, *(entry["cursor"] for entry in first)])

    async def _follow(self, of: Of, first: list[LogEntry], cursor: int) -> AsyncIterator[SSEvent | None]:
        """Ends when the service does; Falcon ends it when the client leaves, which the keep-alives find out."""
        stopping = self._services.stopping
        yield None  # the headers go out at once
        entries, quiet_since = first, time.monotonic()
        while not stopping.is_set():
            for entry in entries:
                cursor = max(cursor, entry["cursor"])
                yield SSEvent(data=dump(entry), event_id=str(entry["cursor"]))
            if entries:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= KEEP_ALIVE_SECONDS:
                quiet_since = time.monotonic()
                yield None
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), FOLLOW_SECONDS)
            entries = await self._entries(of, cursor, MAX_ROWS)


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


def _cursor(req: Request) -> int | None:
    """Where to go on from. A client that comes back repeats its `after`: its Last-Event-ID is the newer one."""
    asked = _as_cursor("after", text(req, "after"))
    last = _as_cursor("Last-Event-ID", req.get_header("Last-Event-ID"))
    return asked if last is None else last


def _as_cursor(name: str, value: str | None) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= 18):
        raise BadRequest(f"{name}: {value[:80]!a} is not a cursor", field=name)
    return int(value)


async def latest_records(services: Services, req: Request, name: str) -> list[dict[str, Any]]:
    """A function's newest records by the parameters of SEARCH. Raises FunctionNotFound where there is nothing at all."""
    where = namespace(req)
    rows = await find_records(services, req, name)
    if not rows:
        await services.lookups.run(services.functions.get, name, where)
    return rows


async def find_records(services: Services, req: Request, function: str | None) -> list[dict[str, Any]]:
    """The newest records by the parameters of SEARCH: of events that wait or run, and of what is over."""
    limit = integer(req, "limit", 20, low=1, high=MAX_ROWS)
    wanted = Filter(
        namespace=namespace(req),
        function=function,
        state=choice(req, "state", get_args(State)),
        type=choice(req, "type", TYPES),
        since=moment(req, "since"),
        until=moment(req, "until"),
    )
    return await services.lookups.run(services.events.search, wanted, limit)


def _no_call(request_id: str) -> NotFound:
    return NotFound(f"no call {request_id!r}", code="invocation_not_found", hint="old records are dropped, see keep_records_days")
