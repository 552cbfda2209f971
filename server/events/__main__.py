"""`python -m server.events`: a dispatcher, user `hearth`. As many as wanted may share one database."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Final

import uvloop

from sandbox.client import Client
from sandbox.errors import ConfigError
from sandbox.log import configure, pairs
from sandbox.settings import Settings, load
from server.api.calls import Calls
from server.api.lookup import FunctionCache
from server.api.metrics import Metrics
from server.api.threads import Threads
from server.events.configs import EventConfigs
from server.events.deadletters import DeadLetters
from server.events.dispatcher import Dispatcher
from server.events.queue import EventQueue
from server.events.wake import DISPATCHER, Mailbox
from server.functions.codestore import CodeStore
from server.functions.runnable import Runnables
from server.functions.service import Functions
from server.records.outcome import Outcome
from server.store.engine import open_database
from server.triggers.timers import Timers
from server.watching.index import WatchIndex
from server.watching.watcher import Watcher

THREADS: Final = 8
#: How long what runs may go on after SIGTERM, where nobody says.
GRACE_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class NoRecords:
    """`Calls` writes none here: an event's record comes with its settlement."""

    def put_outcome(self, outcome: Outcome) -> None:
        _log.error(pairs("a record outside a settlement", request_id=outcome.request_id))


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT."""
    engine = open_database(settings)
    threads, client = Threads("events", THREADS), Client(settings)
    try:
        functions = Functions(engine, settings, CodeStore(settings))
        cache = FunctionCache(Runnables(engine, settings).look, threads)
        queue = EventQueue(engine, settings)
        mailbox, index = Mailbox(settings.wake_dir, DISPATCHER), WatchIndex(engine, settings, queue)
        dispatcher = Dispatcher(
            settings,
            client,
            queue=queue,
            configs=EventConfigs(engine, settings, functions),
            letters=DeadLetters(engine, settings, queue),
            timers=Timers(engine, settings),
            calls=Calls(client, cache, NoRecords(), Metrics()),
            functions=cache,
            mailbox=mailbox,
            threads=threads,
            taken_over=index.release,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, dispatcher.stop)
        client.on_change = cache.forget
        await client.start()
        watcher = Watcher(settings, index, mailbox.name, dispatcher.look) if settings.watched_paths else None
        try:
            await _run(dispatcher, watcher)
            await dispatcher.drain(float(os.environ.get("HEARTH_STOP_GRACE", GRACE_SECONDS)))
        finally:
            await client.close()  # what still runs ends as lost, and sandboxd kills its sandboxes
            await dispatcher.close()
    finally:
        threads.close()
        engine.dispose()


async def _run(dispatcher: Dispatcher, watcher: Watcher | None) -> None:
    if watcher is None:
        await dispatcher.run(_announce)
        return

    def began() -> None:
        watcher.start()
        _announce()

    try:
        await dispatcher.run(began)
    finally:
        await asyncio.to_thread(watcher.close)


def _announce() -> None:
    if number := os.environ.get("HEARTH_READY_FD"):
        os.write(int(number), b"ready\n")
        os.close(int(number))
    _log.info("dispatching")


def main() -> None:
    try:
        settings = load()
        configure("events", settings.log_level)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        uvloop.run(serve(settings))
    except ConfigError as error:
        sys.exit(f"hearth: {error.message}" + (f"\n  hint: {error.hint}" if error.hint else ""))


if __name__ == "__main__":
    main()
