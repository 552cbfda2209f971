"""sandboxd's side of the launcher's channel."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

import orjson

from sandbox.channel import Channel
from sandbox.errors import LaunchError
from sandbox.protocol import MAX_MESSAGE_BYTES

_log = logging.getLogger(__name__)


class LauncherClient:
    """`request` is answered by the child itself, on the channel whose end was among the descriptors. `on_end` is called when the
    launcher is gone."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
        self._channel = Channel(socket.socket(fileno=fd), loop, self._message, on_end)
        self.reaped = 0

    def request(self, message: dict[str, Any], fds: dict[str, int]) -> None:
        """Raises LaunchError for one that is too long: the launcher would take the cut packet for a broken sandboxd, and end."""
        whole = {**message, "fds": list(fds)}
        if (size := len(orjson.dumps(whole))) > MAX_MESSAGE_BYTES:
            raise LaunchError("launcher", f"a request of {size} bytes, limit {MAX_MESSAGE_BYTES}", hint="a shorter environment")
        self._channel.send(whole, list(fds.values()))

    def close(self) -> None:
        self._channel.close()

    def _message(self, message: dict[str, Any], fds: list[int], pid: int) -> None:
        for fd in fds:
            os.close(fd)
        if message.get("op") == "exited":
            self.reaped += 1
        else:
            _log.error("launcher: %s", message)
