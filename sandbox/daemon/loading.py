"""Loading a worker ahead of its first call: sandboxd itself is the lease holder, from hello to loaded, and no event is handed over.

The function's module runs here for the first time, so it is held like a call: by the loading time limit, by the memory governor, and by
the verdict at the lease's end. What comes from the worker is hostile: two frames without a body are all that is taken.
"""

from __future__ import annotations

import asyncio
import os
import time

from sandbox.call import failure, is_hello, judged, load_frame
from sandbox.daemon.leases import Lease, Leases
from sandbox.errors import InvocationFailed, ProtocolError
from sandbox.exchange import Answer, EndOfSandbox, Exchange
from sandbox.pool import SandboxPool
from sandbox.readers import Readers
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec

#: What a module prints while it loads ahead is nobody's log: it is read, so that the pipe does not fill, and dropped.
LOG_BYTES = 4096


class Loader:
    """Owns the readers of the workers that are being loaded."""

    def __init__(self, settings: Settings, pool: SandboxPool, leases: Leases) -> None:
        self._settings, self._pool, self._leases = settings, pool, leases
        self._loop = asyncio.get_running_loop()
        self._readers = Readers(self._loop)

    def close(self) -> None:
        self._readers.close()

    async def load(self, spec: FunctionSpec) -> None:
        """One more worker of `spec`, idle when this returns. Raises a Refused leaf, LaunchError, ImageError, OSError where none could be
        made, InvocationFailed where it did not load; then it is dead."""
        lease = await self._leases.acquire_ahead(spec, self)
        outcome, error = "broken", None
        try:
            outcome, error = await self._greet_and_load(lease)
        finally:
            verdict = await self._leases.release(lease, outcome, time.monotonic())
        if failed := judged(verdict, spec, error, is_loading=True):
            raise failed

    async def _greet_and_load(self, lease: Lease) -> tuple[str, InvocationFailed | None]:
        """(outcome for the release, what it failed of)."""
        exchange = self._exchange(lease)
        try:
            answer = await _answered(exchange)
            if isinstance(answer, tuple):
                if not is_hello(answer[0]):
                    return "broken", ProtocolError("the worker did not say hello in our protocol")
                locale = self._pool.locale(lease.sandbox.image)
                answer = await _answered(exchange, load_frame(lease.spec, self._settings, locale, lease.sandbox.grant))
            if isinstance(answer, EndOfSandbox):
                return "exited", None
            if not isinstance(answer, tuple):
                return "broken", answer
            if answer[0].get("op") == "loaded":
                return "ok", None
            error = failure(answer[0], "load_failed")
            return "broken" if isinstance(error, ProtocolError) else "load_failed", error
        finally:
            exchange.log()
            exchange.close()

    def _exchange(self, lease: Lease) -> Exchange:
        """On descriptors of its own: the sandbox keeps its two for the lease holders to come."""
        worker = os.dup(lease.sandbox.worker.fileno())
        try:
            log = os.dup(lease.sandbox.log)
        except OSError:
            os.close(worker)
            raise
        return Exchange(self._loop, self._readers, worker, log, reply_bytes=0, log_bytes=LOG_BYTES)


async def _answered(exchange: Exchange, frame: bytes | None = None) -> Answer:
    """Send a frame, or only wait for one."""
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def settle(answer: Answer) -> None:
        if not future.done():
            future.set_result(answer)

    if frame is None:
        exchange.expect(settle)
    else:
        exchange.ask(frame, settle)
    return await future
