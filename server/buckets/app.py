"""The composition root of the bucket service: `create_app()` is what gunicorn serves."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final

import falcon.asgi
from sqlalchemy import Engine

from sandbox.client import Client
from sandbox.errors import ConfigError
from sandbox.log import pairs
from sandbox.settings import Settings, load
from server.api.deferred import Deferred, Receive
from server.api.threads import Tasks, Threads
from server.buckets.access import OPERATOR_ENVIRONMENT, OPERATOR_ID, Known, Pair, Secrets
from server.buckets.address import Hosts
from server.buckets.answer import spelled
from server.buckets.files import Files
from server.buckets.front import Front
from server.buckets.metrics import BucketMetrics
from server.buckets.multipart import Multipart
from server.buckets.notices import TriggerNotices
from server.buckets.objects import Notices, Objects
from server.buckets.operations.ask import Services
from server.buckets.request import Request
from server.buckets.wiring import KeyTable, Queue, TriggerTable
from server.keys.model import Scope
from server.keys.service import Keys
from server.keys.temporary import Temporary
from server.keys.vault import Vault, vault_key
from server.store.engine import open_database

#: Setting `function_buckets` as the scope of functions' temporary credentials here: one for invoking does nothing in buckets.
RIGHTS: Final[dict[str, Scope]] = {"all": "all", "read": "read", "off": "invoke"}
LOOKUP_THREADS: Final = 4
#: They read, write, hash and fsync: more than there are processors, as they mostly wait for the disk.
IO_THREADS: Final = 16
LAST_WRITES_SECONDS: Final = 5.0

Send = Callable[[Any], Awaitable[None]]
_log = logging.getLogger(__name__)


class App(falcon.asgi.App[Request, falcon.asgi.Response]):
    """Falcon's app with one sink. gunicorn's worker reads `services` and `busy`."""

    def __init__(self, services: Services) -> None:
        # An empty answer has a type too: Falcon would say JSON.
        super().__init__("application/xml", request_type=Request, middleware=[Lifespan(services)])
        self.services = services
        self._requests = 0
        self.add_sink(Front(services), prefix="/")

    @property
    def busy(self) -> int:
        return max(self._requests, len(self.services.tasks.running))

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:  # type: ignore[override]
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return

        async def send_spelled(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [(spelled(bytes(name)), value) for name, value in message["headers"]]
            await send(message)

        self._requests += 1
        try:
            await super().__call__(scope, Deferred(receive), send_spelled)
        finally:
            self._requests -= 1


class Lifespan:
    """Middleware for the beginning and the end of a worker process; it sees no request."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._sweep: asyncio.Task[None] | None = None

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._services.client.start()
        self._sweep = asyncio.create_task(self._swept())
        gc.collect()
        gc.freeze()

    async def _swept(self) -> None:
        """Beside the first requests: it touches only what no row names and nobody writes."""
        services = self._services
        try:
            removed = await services.io.run(services.files.sweep, services.objects.named)
        except Exception as error:  # the next start sweeps again; the service does not depend on it
            _log.error(pairs("orphans could not be swept", error=repr(error)))
            return
        services.metrics.swept(removed)
        if removed:
            _log.info(pairs("swept the data files of unfinished writes", files=removed))

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        services = self._services
        services.stopping.set()
        if self._sweep is not None:
            self._sweep.cancel()
        await services.tasks.wait(LAST_WRITES_SECONDS)
        await services.client.close()
        services.io.close()
        services.lookups.close()
        services.engine.dispose()


def create_app(
    settings: Settings | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    secrets: Secrets | None = None,
    notices: Callable[[Settings], Notices] | None = None,
) -> App:
    """Open the database and the data directory and put everything together. Raises ConfigError.

    `secrets` replace the table of keys that is asked behind the operator's own; `notices` replaces who is told of changes.
    """
    environ = os.environ if environ is None else environ
    settings = settings or load(environ)
    files = Files(settings.buckets_dir, settings.disk_reserve_percent)
    try:
        files.prepare()
    except OSError as error:
        raise ConfigError(f"cannot use {settings.buckets_dir}: {error.strerror}") from error
    with ExitStack() as stack:
        engine = open_database(settings)
        stack.callback(engine.dispose)
        told = notices(settings) if notices else _notices(engine, settings)
        client = Client(settings)
        objects = Objects(engine, files, told, most_buckets=settings.limit_buckets)
        services = Services(
            settings=settings,
            engine=engine,
            hosts=Hosts(tuple(settings.bucket_domains.replace(",", " ").split()), settings.mapped_hosts),
            files=files,
            objects=objects,
            multipart=Multipart(engine, files, objects),
            secrets=Known(_operator(environ), secrets or KeyTable(Keys(engine, Vault(vault_key(settings, environ))))),
            temporary=Temporary(client, RIGHTS[settings.function_buckets]),
            client=client,
            lookups=Threads("lookup", LOOKUP_THREADS),
            io=Threads("data", IO_THREADS),
            tasks=Tasks(),
            stopping=asyncio.Event(),
            metrics=BucketMetrics(),
        )
        app = App(services)
        stack.pop_all()
        return app


def _notices(engine: Engine, settings: Settings) -> Notices:
    queue = Queue(engine, settings)
    return TriggerNotices(TriggerTable(), queue.put, region=settings.region)


def _operator(environ: Mapping[str, str]) -> list[Pair]:
    key = environ.get(OPERATOR_ENVIRONMENT, "")
    return [Pair(OPERATOR_ID, key)] if key else []
