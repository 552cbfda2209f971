"""The second listener: functions on this machine that call others or use buckets, on the sockets that sandboxd keeps for them.

    function ─▶ address of its bridge ─▶ InsideConnection ─▶ the same app, which serves nothing here but what is signed
                  (`server.api.auth`, `server.buckets.front`)

Who connects is hostile code with a credential of its own. One sandbox has few connections, all together half of the worker's, so that
whatever they do the other half is there for everybody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sandbox.errors import Unavailable
from server.api.connection import Connection, Connections
from server.api.request import INSIDE

if TYPE_CHECKING:
    from server.api.worker import Worker

_log = logging.getLogger(__name__)

#: Of one sandbox to one HTTP worker. A connection carries one request at a time.
PEER_CONNECTIONS: Final = 16


class Peers:
    """How many connections each address has."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    def admit(self, peer: str) -> bool:
        """Count one in, where it may be."""
        if self._open[peer] >= PEER_CONNECTIONS or self._open.total() >= self._limit:
            if not self._open[peer]:
                del self._open[peer]
            return False
        self._open[peer] += 1
        return True

    def forget(self, peer: str) -> None:
        self._open[peer] -= 1
        if not self._open[peer]:
            del self._open[peer]


class InsideConnection(Connection):
    """A function's."""

    def __init__(self, worker: Worker, peers: Peers) -> None:
        super().__init__(worker)
        self._peers = peers
        self._peer = ""  # once it is counted

    def _admitted(self) -> bool:
        peer = str((self.transport.get_extra_info("peername") or ("?",))[0])
        if not self._peers.admit(peer):
            return False
        self._peer = peer
        return super()._admitted()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._peer:
            self._peers.forget(self._peer)
            self._peer = ""
        super().connection_lost(exc)

    def _build_http_scope(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        scope: dict[str, Any] = super()._build_http_scope(*args, **kwargs)
        scope[INSIDE] = True
        return scope


class InsideListener:
    """Accepts for as long as sandboxd, whose socket it is, lives; the next one's is another. `of`: which of its sockets."""

    def __init__(self, worker: Worker, connections: Connections, of: str) -> None:
        self._of = of
        self._worker, self._client = worker, worker.asgi.services.client
        self._peers = Peers(connections.limit // 2)
        self._server: asyncio.Server | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        self._client.on_connection = self._changed
        if self._client.connected:
            self._changed(True)

    def close(self) -> None:
        """No connection is accepted any more; those that are there stay."""
        self._closed = True
        self._changed(False)

    def _changed(self, connected: bool) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self._server is not None:
            self._server.close()
            self._server = None
        if connected and not self._closed:
            self._opening = self._worker.loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            sock = await self._client.endpoint(self._of)
            if sock is None:
                return
            try:
                factory = partial(InsideConnection, self._worker, self._peers)
                self._server = await self._worker.loop.create_server(factory, sock=sock, backlog=self._worker.cfg.backlog)
            except BaseException:
                sock.close()
                raise
            _log.info("listening for functions on %s:%d", *sock.getsockname())
        except Unavailable:
            return  # told again when it is back
        except OSError as error:
            _log.error("functions are not served: %s", error)
