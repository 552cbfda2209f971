"""One zygote as sandboxd sees it: an interpreter inside an image, preloaded, that forks sandboxes on request.

Its channel is all sandboxd has of it: end of file means that it died, then the sandboxes it made live on (they are their own pid
namespaces) and the next request starts another.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

from sandbox.channel import Channel
from sandbox.errors import LaunchError
from sandbox.kernel import machine, sockets
from sandbox.launcherclient import LauncherClient
from sandbox.plan import CODE_DIR

_log = logging.getLogger(__name__)


class Zygote:
    """`start` it once; `fork` while `alive`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._loop = loop
        self._channel: Channel | None = None
        self._answer: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.pid = 0
        self.forks = 0
        self.python = ""
        self.skipped: dict[str, str] = {}

    @property
    def alive(self) -> bool:
        return self._channel is not None and not self._channel.closed

    async def start(
        self, launcher: LauncherClient, request: dict[str, Any], fds: dict[str, int], preloads: list[str], filters: dict[str, str]
    ) -> None:
        """Have the launcher start it and wait until it has preloaded and confined itself. Raises LaunchError."""
        try:
            await self._start(launcher, request, fds, preloads, filters)
        except OSError as error:
            self.close()  # what has been started of it ends by itself then
            raise LaunchError("zygote", "start", error.errno or 0, str(error.filename or "")) from error

    async def _start(
        self, launcher: LauncherClient, request: dict[str, Any], fds: dict[str, int], preloads: list[str], filters: dict[str, str]
    ) -> None:
        ours, theirs = sockets.seqpacket_pair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._channel = Channel(ours, self._loop, self._message, self._ended)
        with theirs:
            launcher.request({"op": "zygote", **request}, {"@channel": theirs.fileno(), **fds})
        self._channel.send({"op": "start", "preloads": preloads, "rehearsal": CODE_DIR, "filters": filters})
        try:
            async with asyncio.timeout(self._timeout_seconds):
                message = await self._answer
        except TimeoutError:
            self.close()
            raise LaunchError("zygote", f"not ready within {self._timeout_seconds:g} s") from None
        if message["op"] != "ready":
            self.close()
            where = (str(message.get("stage", "zygote")), str(message.get("step", "ended before it was ready")))
            raise LaunchError(*where, int(message.get("errno") or 0), str(message.get("path") or ""), hint=str(message.get("hint") or ""))
        self.python = str(message["python"])
        self.skipped = dict(message["skipped"])
        if (threads := machine.thread_count(self.pid)) != 1:
            self.close()
            raise LaunchError(
                "zygote", f"a preload started {threads - 1} threads", hint="fork needs one thread: take it out of the image's preloads"
            )

    def fork(self, request: dict[str, Any], fds: dict[str, int]) -> None:
        """Ask for one sandbox; it answers on its own control socket."""
        assert self._channel is not None
        self.forks += 1
        self._channel.send({"op": "fork", "fds": list(fds), **request}, list(fds.values()))

    def close(self) -> None:
        """It reads end of file and exits; the sandboxes it made stay."""
        if self._channel is not None:
            self._channel.close()

    def _message(self, message: dict[str, Any], fds: list[int], pid: int) -> None:
        self.pid = self.pid or pid
        if not self._answer.done():
            self._answer.set_result(message)

    def _ended(self) -> None:
        if not self._answer.done():
            self._answer.set_result({"op": "end of file"})
