"""One call from a known function to its record, whoever asked for it: no HTTP in here, every front door uses it.

A call is driven by the loop to its own end: a client that leaves stops nothing, it only changes the record's status to 499.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from sandbox.errors import SandboxError, StaleFunction
from sandbox.spec import FunctionSpec, Reply
from server.api.lookup import FunctionCache, Known
from server.api.metrics import Metrics
from server.api.threads import Tasks
from server.errors import ApiError, failure_of
from server.functions.model import LATEST
from server.functions.routing import RoutingKey, no_key
from server.records.outcome import Outcome

#: How often a call whose function changed under it is looked up again.
STALE_RETRIES: Final = 3
#: SCF's RequestCanceled.
CLIENT_GONE: Final = 499
SUCCESS: Final = 200

_log = logging.getLogger(__name__)


class Running(Protocol):
    """What `Invoker.begin` gives back: a call that can be stopped."""

    def cancel(self) -> None: ...


class Invoker(Protocol):
    """What of `sandbox.client.Client` a call needs."""

    def begin(
        self, spec: FunctionSpec, event: bytes, *, request_id: str, ended: Callable[[Reply | SandboxError], None], hops: int = 0
    ) -> Running: ...


class RecordSink(Protocol):
    def put_outcome(self, outcome: Outcome) -> None: ...


@dataclass(slots=True, eq=False)
class Call:
    """A call and what it came to: afterwards either `reply` is there (it ran) or `refusal` (nothing ran)."""

    request_id: str
    known: Known
    qualifier: str = LATEST
    routing_key: RoutingKey = field(default_factory=no_key)
    #: The trigger's name; empty for a client's own.
    trigger: str = ""
    caused_by: str = ""  # the call that made it, by its request id
    hops: int = 0  # calls that led to each other before it
    created_at: float = field(default_factory=time.time)
    reply: Reply | None = None
    refusal: SandboxError | ApiError | None = None
    stale: int = 0
    waiter: asyncio.Future[None] | None = None
    running: Running | None = None
    cancelled: bool = False

    def cancel(self) -> None:
        """Stop it: it ends soon, as Cancelled if it ran until now."""
        self.cancelled = True
        if self.running is not None:
            self.running.cancel()

    @property
    def status(self) -> int:
        """SCF's status of how it ended."""
        if self.reply is not None:
            return SUCCESS if self.reply.error is None else failure_of(self.reply.error).scf
        if isinstance(self.refusal, ApiError):
            return self.refusal.scf_status or self.refusal.status
        return 500 if self.refusal is None else failure_of(self.refusal).scf


class Calls:
    """Runs calls and keeps their records and figures."""

    def __init__(self, client: Invoker, functions: FunctionCache, recorder: RecordSink, metrics: Metrics) -> None:
        self._client, self._functions, self._recorder, self._metrics = client, functions, recorder, metrics
        self._lookups = Tasks()
        self._drained: asyncio.Future[None] | None = None
        self.running: set[Call] = set()

    async def perform(self, call: Call, event: bytes) -> None:
        """Run it, whatever becomes of the caller. Who returns from here says `finish`; for a cancelled one it is said at its end."""
        waiter = call.waiter = asyncio.get_running_loop().create_future()
        self._begin(call, event)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # it ended in the same moment
                self.finish(call, gone=True)
            raise

    def _begin(self, call: Call, event: bytes) -> None:
        self.running.add(call)
        try:
            ended = partial(self._ended, call, event)
            call.running = self._client.begin(call.known.spec, event, request_id=call.request_id, ended=ended, hops=call.hops)
            if call.cancelled:  # before it was begun, or begun anew
                call.running.cancel()
        except SandboxError as error:
            self._ended(call, event, error)
        except Exception as error:
            self._fail(call, error)

    def _ended(self, call: Call, event: bytes, came: Reply | SandboxError) -> None:
        if isinstance(came, Reply):
            call.reply = came
        elif isinstance(came, StaleFunction) and call.stale < STALE_RETRIES:
            call.stale += 1
            self._lookups.start(self._begin_anew(call, event))
            return
        else:
            call.refusal = came
        self._settle(call)

    async def _begin_anew(self, call: Call, event: bytes) -> None:
        """Its function has changed under it: look it up again."""
        function = call.known.function
        try:
            self._functions.forget(function.function_id)
            call.known = await self._functions.find(function.name, function.namespace, call.qualifier, call.routing_key)
        except (SandboxError, ApiError) as error:
            call.refusal = error
        except Exception as error:
            self._fail(call, error)
            return
        else:
            self._begin(call, event)
            return
        self._settle(call)

    def _fail(self, call: Call, error: Exception) -> None:
        """A fault of ours."""
        _log.error("call %s failed", call.request_id, exc_info=error, extra={"request_id": call.request_id})
        call.refusal = ApiError(500, "internal_error", "Internal error", "something went wrong here", "see the server's log", 500)
        call.refusal.__cause__ = error
        self._settle(call)

    def _settle(self, call: Call) -> None:
        self.running.discard(call)
        assert call.waiter is not None
        if call.waiter.cancelled():  # the client has left, and its handler with it
            self.finish(call, gone=True)
        else:
            call.waiter.set_result(None)
        if self._drained is not None and not self.running and not self._drained.done():
            self._drained.set_result(None)

    async def wait(self, timeout_seconds: float) -> None:
        """Until no call runs any more, at most so long."""
        self._drained = asyncio.get_running_loop().create_future()
        if self.running:
            await asyncio.wait([self._drained], timeout=timeout_seconds)

    def finish_soon(self, call: Call, *, gone: bool = False) -> None:
        """`finish` once the reply has been handed to the socket: nobody waits for a function's first figures to be laid out."""
        asyncio.get_running_loop().call_soon(lambda: self.finish(call, gone=gone))

    def finish(self, call: Call, *, gone: bool = False) -> None:
        """Count the call and write its record, behind the reply."""
        if isinstance(call.refusal, ApiError) and call.refusal.status == 404:
            return  # deleted in the same moment: there is no function whose record it could be
        function, reply, status = call.known.function, call.reply, call.status
        self._metrics.count(
            function,
            status,
            run_seconds=reply.run_ms / 1000 if reply else None,
            cold_start_seconds=reply.start_ms / 1000 if reply and reply.start == "cold" else None,
        )
        outcome = outcome_of(call, status, CLIENT_GONE if gone else status)
        self._recorder.put_outcome(outcome._replace(trigger=call.trigger) if call.trigger else outcome)


def billed_ms(reply: Reply) -> int:
    """Whole milliseconds, begun ones count, at least one."""
    return max(1, math.ceil(reply.run_ms))


def outcome_of(call: Call, status: int, shown_status: int) -> Outcome:
    """What becomes its record (DESIGN section 8), `runtime` with it: the interpreter that really served it."""
    function, reply = call.known.function, call.reply
    asked = (call.request_id, function.name, function.namespace, call.qualifier, function.version, function.memory, call.caused_by)
    if reply is None:
        return Outcome(*asked, shown_status, status, call.created_at, time.time(), _refusal(call.refusal))
    return Outcome(
        *asked,
        shown_status,
        status,
        call.created_at,
        reply.ended_at,
        None if reply.error is None else _failure(reply),
        reply.body if reply.error is None else None,
        reply.start,
        reply.why_cold or None,
        reply.started_at,
        reply.start_ms,
        reply.run_ms,
        billed_ms(reply),
        reply.memory_bytes,
        reply.sandbox,
        reply.runtime,
        reply.log,
    )


def _failure(reply: Reply) -> dict[str, str]:
    assert reply.error is not None
    return {"code": reply.error.code, "message": reply.error.message, "stack_trace": reply.error.stack_trace}


def _refusal(error: SandboxError | ApiError | None) -> dict[str, str]:
    if isinstance(error, SandboxError):
        return {"code": error.code, "message": error.message}
    return {"code": error.code, "message": error.detail} if error is not None else {"code": "internal_error", "message": "it never ended"}
