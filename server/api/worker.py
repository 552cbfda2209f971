"""gunicorn's ASGI worker, with an end that waits for work and not for idle connections.

gunicorn waits until every connection is closed; one idle keep-alive connection would hold a stop up for its whole keep-alive.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import NoReturn

from gunicorn.arbiter import Arbiter
from gunicorn.workers.gasgi import ASGIWorker

from sandbox.errors import ConfigError

POLL_SECONDS = 0.05


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

    def load_wsgi(self) -> None:
        try:
            super().load_wsgi()
        except ConfigError as error:
            hint = f" ({error.hint})" if error.hint else ""
            self.log.error("%s%s", error.message, hint)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)  # gunicorn ends with it: another worker would fare no better

    async def _shutdown(self) -> None:
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


def _leave(*_: object) -> NoReturn:
    sys.exit(0)
