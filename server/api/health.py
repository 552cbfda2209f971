"""How the service is, for machines that ask without a credential: /healthz, /readyz, /metrics, /openapi.json."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import falcon.asgi
from sqlalchemy.exc import SQLAlchemyError

from sandbox.errors import SandboxError
from sandbox.settings import Settings
from server.api.metrics import CONTENT_TYPE, SCRAPE_SECONDS, Backlog
from server.api.openapi import Answer, document, operation
from server.api.problems import dump
from server.api.request import Request
from server.api.services import Services
from server.store.engine import ping

TAG: Final = "health"
PING_SECONDS: Final = 2.0


class Health:
    """/healthz"""

    @operation("Whether this process lives", TAG, {200: Answer("It does", "Health")})
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        resp.data = b'{"status":"ok"}'


class Readiness:
    """/readyz"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation(
        "Whether calls can be served: database and runtime answer",
        TAG,
        {
            200: Answer("They can; `degraded` where events have to wait, and why stands in `reasons`", "Health"),
            503: Answer("They can't; why stands in `reasons`", "Health", headers={"Retry-After": "seconds"}),
        },
    )
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        reasons = await self._reasons()
        if reasons:
            resp.status = 503
            resp.set_header("Retry-After", "1")
            resp.data = dump({"status": "unavailable", "reasons": reasons})
        elif await self._services.lookups.run(self._services.events.has_dispatcher):
            resp.data = dump({"status": "ok"})
        else:
            # Calls are served and events are safe: nothing a load balancer should turn away from.
            resp.data = dump({"status": "degraded", "reasons": ["no dispatcher runs on this machine: events wait"]})

    async def _reasons(self) -> list[str]:
        services, reasons = self._services, []
        if services.stopping.is_set():
            reasons.append("this process is stopping")
        if not services.client.connected:
            reasons.append("the runtime is away")
        try:
            async with asyncio.timeout(PING_SECONDS):
                await services.lookups.run(ping, services.engine)
        except (SQLAlchemyError, TimeoutError):
            reasons.append("the database does not answer")
        return reasons


class MetricsPage:
    """/metrics"""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("Figures for Prometheus", TAG, {200: Answer("Text format", {"type": "string"}, "text/plain")})
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        services = self._services
        await asyncio.sleep(SCRAPE_SECONDS)  # whoever was answered before finds itself counted
        runtime: dict[str, Any] | None = None
        try:
            runtime = await services.describe()
        except SandboxError:
            runtime = None  # hearth_runtime_up says so
        backlog = await services.lookups.run(_backlog, services)
        resp.data = await services.lookups.run(services.metrics.render, runtime, services.recorder.dropped, backlog)
        resp.content_type = CONTENT_TYPE


def _backlog(services: Services) -> Backlog:
    return Backlog(services.queue.depths(), services.queue.outcomes(), services.letters.count(), services.events.has_dispatcher())


class OpenApi:
    """/openapi.json"""

    def __init__(self, routes: Mapping[str, object], settings: Settings) -> None:
        self._document = dump(document(routes, settings))

    @operation("This interface as an OpenAPI 3.1 document", TAG, {200: Answer("The document", {"type": "object"})})
    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        resp.data = self._document
