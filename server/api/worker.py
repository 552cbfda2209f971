"""gunicorn's ASGI worker, with connections of our own and an end that waits for work and not for idle ones.

gunicorn waits until every connection is closed; one idle keep-alive connection would hold a stop up for its whole keep-alive.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import time
from typing import Final, NoReturn

from gunicorn.arbiter import Arbiter
from gunicorn.asgi.lifespan import LifespanManager
from gunicorn.workers.gasgi import ASGIWorker

from sandbox.errors import ConfigError
from sandbox.settings import Settings

POLL_SECONDS: Final = 0.05
BEAT_SECONDS: Final = 1.0
#: gunicorn ends when one worker can't start, and in a traceback when the next can't at the same moment: that one waits to be told.
FIRST_ENDS_SECONDS: Final = 5.0
#: An idle connection is some 10 KB here and as much in the kernel.
MOST_CONNECTIONS: Final = 16_384


class Worker(ASGIWorker):  # type: ignore[misc]
    """`asgi` is `server.app.App`: it counts its requests and knows that it is stopping."""

    def init_signals(self) -> None:
        super().init_signals()
        # The loop forgets what comes before it runs. Until then there is nothing to finish: a worker told to stop just goes.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, _leave)

    def run(self) -> None:
        super().init_signals()
        super().run()

    async def _serve(self) -> None:
        """gunicorn's, but for whose connections they are and for the backlog, which would fall to asyncio's 100."""
        # Not above: gunicorn's master loads this module too, and needs nothing of that.
        from server.api.connection import Connection, Connections

        settings: Settings = self.asgi.services.settings
        self.connections = Connections(connection_limit(settings), settings.http_stall_seconds)
        self.lifespan = LifespanManager(self.asgi, self.log, self.state)
        try:
            await self.lifespan.startup()
        except Exception as error:
            self.log.error("start failed: %s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        for listener in self.sockets:
            server = await self.loop.create_server(lambda: Connection(self), sock=listener.sock, backlog=self.cfg.backlog)
            self.servers.append(server)
            self.log.info("listening on %s", listener)
        self.opened()
        while self.alive and self.ppid == os.getppid():
            self.notify()
            await asyncio.sleep(BEAT_SECONDS)
        await self._shutdown()

    def load_wsgi(self) -> None:
        try:
            super().load_wsgi()
        except ConfigError as error:
            hint = f" ({error.hint})" if error.hint else ""
            self.log.error("%s%s", error.message, hint)
            if self.age > 1:
                time.sleep(FIRST_ENDS_SECONDS)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)  # gunicorn ends with it: another worker would fare no better

    def opened(self) -> None:
        """Every listener of ours is open."""

    def closing(self) -> None:
        """Before they are closed."""

    async def _shutdown(self) -> None:
        self.closing()
        for server in self.servers:
            server.close()
        self.asgi.services.stopping.set()
        deadline = self.loop.time() + self.cfg.graceful_timeout
        while self.asgi.busy and not self._quick_shutdown and self.loop.time() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        if self.asgi.busy:
            self.log.warning("stopping with %d requests unanswered", self.asgi.busy)
        self.nr_conns = 0  # what is left is idle, or too late
        await super()._shutdown()


class ApiWorker(Worker):
    """The API's, which functions reach too, by a listener of sandboxd's."""

    #: Which of sandboxd's.
    endpoint = "scf"

    def opened(self) -> None:
        from server.api.inside import InsideListener  # not above, as in `_serve`

        self.inside = InsideListener(self, self.connections, self.endpoint)
        self.inside.start()

    def closing(self) -> None:
        self.inside.close()


class BucketWorker(ApiWorker):
    """The bucket service's."""

    endpoint = "buckets"


def _leave(*_: object) -> NoReturn:
    sys.exit(0)


def connection_limit(settings: Settings) -> int:
    """Three quarters of the descriptors at most: a call takes two more, and the database and the log want theirs."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(descriptors * 3 // 4, MOST_CONNECTIONS)
    return min(settings.http_connections or most, most)
