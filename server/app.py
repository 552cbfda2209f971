"""The composition root of the HTTP side: `create_app()` is what gunicorn serves. Only here are things constructed."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final

import falcon.asgi

from sandbox.client import Client
from sandbox.settings import Settings, load
from sandbox.spec import FunctionSpec
from server.api import problems
from server.api.auth import Auth, credential_digest
from server.api.calls import Calls
from server.api.deferred import Deferred, Receive
from server.api.lookup import FunctionCache
from server.api.metrics import Metrics
from server.api.request import Request
from server.api.response import Response
from server.api.routes import routes
from server.api.services import Runtime, Services
from server.api.threads import Tasks, Threads
from server.api.urls import UrlCache
from server.buckets.packages import Packages
from server.events.configs import EventConfigs
from server.events.deadletters import DeadLetters
from server.events.front import EventFront
from server.events.queue import EventQueue
from server.functions.aliases import Aliases
from server.functions.codestore import CodeStore
from server.functions.concurrency import Concurrency
from server.functions.layers import Layers
from server.functions.namespaces import Namespaces
from server.functions.provisions import Provisions, Target
from server.functions.reconciler import Reconciler
from server.functions.runnable import Runnables
from server.functions.service import Functions
from server.functions.versions import Versions
from server.httptriggers.hosts import Hosts
from server.httptriggers.resource import HttpTriggers
from server.keys.credentials import Credentials
from server.keys.nonces import Nonces
from server.keys.service import Keys
from server.keys.temporary import Temporary
from server.keys.vault import Vault, vault_key
from server.notifications.inbox import Inbox
from server.notifications.sources import Sources
from server.records.process import WriterProcess
from server.records.recorder import Recorder
from server.scf.routes import routes as scf_routes
from server.store.engine import open_database
from server.triggers.http import URL_PREFIX
from server.triggers.service import Triggers

LOOKUP_THREADS: Final = 8
#: Unpacking is mostly CPU: more at once only hurt the calls.
UPLOAD_THREADS: Final = 2
LAST_CALLS_SECONDS: Final = 3.0
GC_THRESHOLD: Final = (20_000, 20, 50)

Send = Callable[[Any], Awaitable[None]]


class App(falcon.asgi.App[Request, Response]):
    """Falcon's app; `services` is what it serves with, `busy` how many requests and calls have not ended."""

    def __init__(self, services: Services, auth: Auth) -> None:
        super().__init__(request_type=Request, response_type=Response, middleware=[auth, Lifespan(services)])
        self.services = services
        self._requests = 0
        problems.install(self)
        for path, resource in (routes(services) | scf_routes(services)).items():
            self.add_route(path, resource)
        self.add_sink(HttpTriggers(services, auth).on_request, URL_PREFIX)
        self._hosts = Hosts(services.settings.http_domain) if services.settings.http_domain else None

    @property
    def busy(self) -> int:
        # A call whose client has left has no request any more.
        return max(self._requests, len(self.services.calls.running)) + len(self.services.changes.running)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:  # type: ignore[override]
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        if self._hosts is not None:
            scope = self._hosts.resolved(scope)
        self._requests += 1
        try:
            await super().__call__(scope, Deferred(receive), send)
        finally:
            self._requests -= 1


class Lifespan:
    """Middleware for the beginning and the end of a worker process; it sees no request."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        services = self._services
        services.recorder.start()
        services.events.start()
        services.client.on_change = services.forget
        await services.client.start()
        services.reconciler.start()
        # What is there now stays: collections look only at what comes and goes with requests, which leave few cycles behind.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        services = self._services
        services.stopping.set()
        await services.reconciler.close()
        await services.client.close()  # calls that still run end as Unavailable, and sandboxd kills their sandboxes
        await services.calls.wait(LAST_CALLS_SECONDS)
        await services.changes.wait(LAST_CALLS_SECONDS)
        await services.events.close()
        await asyncio.to_thread(services.recorder.close)
        services.uploads.close()
        services.lookups.close()
        services.engine.dispose()


def create_app(
    settings: Settings | None = None,
    *,
    client: Runtime | None = None,
    environ: Mapping[str, str] | None = None,
    writer: Callable[[Settings], WriterProcess | None] = WriterProcess,
) -> App:
    """Open the database and the code store and put everything together. Raises ConfigError.

    Nothing runs before the lifespan's start. `client` replaces the connection to sandboxd, `writer` makes what writes the records
    (None: a thread of this process).
    """
    environ = os.environ if environ is None else environ
    settings = settings or load(environ)
    auth = Auth(credential_digest(settings, environ))
    with ExitStack() as stack:
        engine = open_database(settings)
        stack.callback(engine.dispose)
        codestore = CodeStore(settings)
        codestore.open()
        recorder = Recorder(engine, settings, writer(settings))
        vault = Vault(vault_key(settings, environ))
        app = App(_services(settings, client or Client(settings), engine, codestore, recorder, vault), auth)
        stack.pop_all()
        return app


def _services(settings: Settings, client: Runtime, engine: Any, codestore: CodeStore, recorder: Recorder, vault: Vault) -> Services:
    functions = Functions(engine, settings, codestore)
    triggers = functions.triggers = Triggers(engine, settings, functions.get)
    queue = EventQueue(engine, settings)
    configs = functions.events = EventConfigs(engine, settings, functions)
    metrics, lookups = Metrics(_later), Threads("lookup", LOOKUP_THREADS)
    keys = Keys(engine, vault)
    concurrency = Concurrency(engine, settings, functions.get)
    provisions = Provisions(engine, settings, functions.get)
    cache = FunctionCache(Runnables(engine, settings).look, lookups)

    def spec_of(target: Target) -> FunctionSpec:
        return concurrency.bounded(functions.get(target.function, target.namespace, target.version).spec())

    return Services(
        settings=settings,
        client=client,
        engine=engine,
        functions=functions,
        namespaces=Namespaces(engine, settings),
        versions=Versions(engine, settings),
        aliases=Aliases(engine, settings),
        layers=Layers(engine, settings, codestore),
        concurrency=concurrency,
        provisions=provisions,
        reconciler=Reconciler(provisions, client, spec_of, settings.state_dir / "provisioning.lock"),
        codestore=codestore,
        packages=Packages(engine, settings),
        keys=keys,
        credentials=Credentials(keys, lookups.run, Temporary(client).find),
        nonces=Nonces(engine),
        vault=vault,
        recorder=recorder,
        cache=cache,
        calls=Calls(client, cache, recorder, metrics),
        metrics=metrics,
        queue=queue,
        events=EventFront(settings, queue, configs, recorder, lookups),
        configs=configs,
        letters=DeadLetters(engine, settings, queue),
        triggers=triggers,
        sources=Sources(engine),
        inbox=Inbox(engine, settings, queue),
        urls=UrlCache(triggers.by_id, lookups),
        lookups=lookups,
        uploads=Threads("upload", UPLOAD_THREADS),
        changes=Tasks(),
        stopping=asyncio.Event(),
    )


def _later(seconds: float, callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, callback)
