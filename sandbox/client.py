"""The one door for server/: calls, retirements and descriptions, over sandboxd's socket.

A call is: acquire a lease → load when cold, event, result on the worker's own socket → release → reply. Every lease ends in a
release, whatever happens in between; the reply is built only from sandboxd's verdict. The connection is made again by itself; while
it is away, calls raise Unavailable.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import orjson

from sandbox import environment
from sandbox.channel import Channel
from sandbox.errors import (
    BY_CODE,
    InitTimeout,
    InvocationFailed,
    LaunchError,
    MemoryLimit,
    ProcessExit,
    ProtocolError,
    ReplyTooLarge,
    SandboxError,
    TimeLimit,
    Unavailable,
)
from sandbox.exchange import EndOfSandbox, Exchange
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec, Reply

_log = logging.getLogger(__name__)

Answer = tuple[dict[str, Any], list[int]]

RECONNECT_FIRST_SECONDS = 0.05
RECONNECT_LONGEST_SECONDS = 1.0
SPECS_KEPT = 4096


class Client:
    """One connection to sandboxd. `on_change(function_id)` tells what to forget of what was cached; None: everything."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._channel: Channel | None = None
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._parts: dict[int, list[dict[str, Any]]] = {}
        self._numbers = 0
        self._specs: dict[tuple[str, int], orjson.Fragment] = {}
        self._contexts: dict[tuple[str, int], dict[str, Any]] = {}
        self._connector: asyncio.Task[None] | None = None
        self._lost: asyncio.Event | None = None
        self.on_change: Callable[[str | None], None] = lambda _: None

    @property
    def connected(self) -> bool:
        return self._channel is not None and not self._channel.closed

    async def start(self) -> None:
        """Connect, and keep connecting in the background; returns after the first try."""
        self._lost = asyncio.Event()
        self._connect()
        self._connector = asyncio.get_running_loop().create_task(self._keep_connected())

    async def close(self) -> None:
        if self._connector is not None:
            self._connector.cancel()
            await asyncio.gather(self._connector, return_exceptions=True)
        if self._channel is not None:
            self._channel.close()

    # -- calls ----------------------------------------------------------------------------------------------------------

    async def invoke(self, spec: FunctionSpec, event: bytes, *, request_id: str) -> Reply:
        """Run one call. The function's failure is in `Reply.error`; raises Refused leaves, LaunchError, ImageError when nothing ran."""
        began, began_at = time.monotonic(), time.time()
        lease, fds = await self._acquire(spec)
        exchange = Exchange(*fds, reply_bytes=self._settings.limit_reply_bytes + 64, log_bytes=self._settings.log_limit_bytes)
        call = _Call(self, spec, lease, exchange, request_id)
        try:
            await call.run(event)
        finally:
            log = exchange.log()
            exchange.close()
            verdict = await self._release(call)
        ended = call.finished or time.monotonic()
        started = call.event_at or ended
        return Reply(
            request_id=request_id,
            start="cold" if lease["start"] == "cold" else "warm",
            why_cold=lease["why_cold"],
            body=call.body,
            error=call.judge(verdict),
            log=log,
            started_at=began_at + (started - began),
            ended_at=began_at + (ended - began),
            start_ms=(started - began) * 1000,
            run_ms=(ended - started) * 1000,
            memory_bytes=verdict["memory_bytes"],
            sandbox=lease["sandbox"],
            runtime=lease["runtime"],
            tree_dead=verdict["dead"],
        )

    async def _acquire(self, spec: FunctionSpec) -> Answer:
        asked = self._request({"op": "acquire", "spec": self._encoded(spec)})
        try:
            return await asked
        except asyncio.CancelledError:
            if asked.done() and not asked.cancelled() and asked.exception() is None:
                self._give_up(*asked.result())  # cancelled between the answer's arrival and our turn: nobody else knows of the lease
            raise

    def _give_up(self, answer: dict[str, Any], fds: list[int]) -> None:
        """Nobody waits for this answer any more: close its descriptors and give its lease back."""
        for fd in fds:
            os.close(fd)
        if "lease" in answer and self._channel is not None:
            self._numbers += 1
            message = {"op": "release", "id": self._numbers, "lease": answer["lease"], "outcome": "broken", "at": time.monotonic()}
            self._channel.send(message)

    async def _release(self, call: _Call) -> dict[str, Any]:
        message = {"op": "release", "lease": call.lease["lease"], "outcome": call.outcome, "at": call.finished or time.monotonic()}
        try:
            answer, _ = await self._request(message)
        except Unavailable as error:  # it had begun: not a refusal, and nobody knows what it did
            raise LaunchError("release", "sandboxd went away during the call", hint="see the log of sandboxd") from error
        return answer

    def running(self, lease: int, at: float) -> None:
        """Tell that the handler is loaded and the event handed over: the time limit counts from `at`."""
        if self._channel is not None:
            self._channel.send({"op": "running", "lease": lease, "at": at})

    async def retire(self, function_id: str, generation: int | None) -> None:
        """After a change is committed: workers older than `generation` (None: deleted) go. Raises Unavailable."""
        await self._request({"op": "retire", "function_id": function_id, "generation": generation})

    async def resolve(self, runtime: str) -> dict[str, Any]:
        """{"image", "runtime"} that serve a function of this runtime now. Raises RuntimeNotFound, Unavailable."""
        answer, _ = await self._request({"op": "resolve", "runtime": runtime})
        return {"image": answer["image"], "runtime": answer["runtime"]}

    async def describe(self) -> dict[str, Any]:
        """{"sandboxes": […], "images": […], "capacity": {…}, "counters": {…}, "zygotes": […]}. Raises Unavailable."""
        last, _ = await self._request({"op": "describe"})
        parts = self._parts.pop(last["id"], [])
        whole: dict[str, Any] = {"sandboxes": []}
        for part in (*parts, last["part"]):
            whole["sandboxes"] += part.pop("sandboxes")
            whole.update(part)
        return whole

    def _encoded(self, spec: FunctionSpec) -> orjson.Fragment:
        key = (spec.function_id, spec.generation)
        fragment = self._specs.get(key)
        if fragment is None:
            if len(self._specs) >= SPECS_KEPT:
                self._specs.clear()
            fragment = self._specs[key] = orjson.Fragment(orjson.dumps(spec.to_json()))
        return fragment

    def _context(self, spec: FunctionSpec) -> dict[str, Any]:
        """The handler's second argument but for the request id."""
        key = (spec.function_id, spec.generation)
        context = self._contexts.get(key)
        if context is None:
            if len(self._contexts) >= SPECS_KEPT:
                self._contexts.clear()
            context = self._contexts[key] = environment.context(spec, "", self._settings.region)
        return context

    # -- the connection -------------------------------------------------------------------------------------------------

    def _request(self, message: dict[str, Any]) -> asyncio.Future[Answer]:
        channel = self._channel
        if channel is None or channel.closed:
            raise Unavailable("sandboxd is away", hint="it is restarted; try again")
        self._numbers += 1
        message["id"] = self._numbers
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[self._numbers] = future
        channel.send(message)
        return future

    def _message(self, message: dict[str, Any], fds: list[int], pid: int) -> None:
        if message.get("op") == "changed":
            self.on_change(message["function_id"])
            return
        if message.get("more"):
            self._parts.setdefault(message["id"], []).append(message["part"])
            return
        future = self._pending.pop(message["id"], None)
        if future is None or future.done():  # the caller was cancelled while it waited
            self._give_up(message, fds)
        elif "error" in message:
            future.set_exception(_error(message))
        else:
            future.set_result((message, fds))

    def _connect(self) -> bool:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.connect(str(self._settings.socket_path))
        except OSError:
            sock.close()
            return False
        self._channel = Channel(sock, asyncio.get_running_loop(), self._message, self._disconnected)
        return True

    def _disconnected(self) -> None:
        pending, self._pending = self._pending, {}
        self._parts.clear()
        for future in pending.values():
            if not future.done():
                future.set_exception(Unavailable("sandboxd went away during the call", hint="it is restarted; try again"))
        self.on_change(None)
        if self._lost is not None:
            self._lost.set()

    async def _keep_connected(self) -> None:
        assert self._lost is not None
        pause = RECONNECT_FIRST_SECONDS
        while True:
            if self.connected:
                await self._lost.wait()
                self._lost.clear()
                pause = RECONNECT_FIRST_SECONDS
            elif self._connect():
                _log.info("connected to sandboxd")
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, RECONNECT_LONGEST_SECONDS)


class _Call:
    """What happens between acquire and release."""

    __slots__ = ("_client", "body", "error", "event_at", "exchange", "finished", "lease", "outcome", "request_id", "spec")

    def __init__(self, client: Client, spec: FunctionSpec, lease: dict[str, Any], exchange: Exchange, request_id: str) -> None:
        self._client = client
        self.spec = spec
        self.lease = lease
        self.exchange = exchange
        self.request_id = request_id
        self.body = b""
        self.error: InvocationFailed | None = None
        self.outcome = "broken"
        self.event_at = 0.0
        self.finished = 0.0

    async def run(self, event: bytes) -> None:
        """Never raises but for cancellation: what happened is in `outcome`, `error` and `body`."""
        spec, settings = self.spec, self._client._settings
        try:
            if self.lease["start"] == "cold":
                await self.exchange.hello()
                await self.exchange.load(
                    {
                        "handler": spec.handler,
                        "environment": environment.for_function(spec, settings.region, self.lease["locale"]),
                        "limits": {"reply_bytes": settings.limit_reply_bytes},
                        "code_root": "/var/user",
                    }
                )
                self.event_at = time.monotonic()
                self._client.running(self.lease["lease"], self.event_at)
            else:
                self.event_at = time.monotonic()
            context = {**self._client._context(spec), "request_id": self.request_id}
            self.body, self.finished = await self.exchange.invoke(self.request_id, context, event)
            _checked_json(self.body)
            self.outcome = "ok"
        except EndOfSandbox:
            self.outcome = "exited"
        except ReplyTooLarge as error:
            self.error, self.outcome = error, "failed" if error.stack_trace or not self._out_of_step() else "broken"
        except ProtocolError as error:
            self.error, self.outcome = error, "broken"
        except InvocationFailed as error:
            self.error = error
            self.outcome = "failed" if error.fate == "keep" else "load_failed"
        self.finished = self.finished or time.monotonic()

    def _out_of_step(self) -> bool:
        return self.exchange._ended is not None

    def judge(self, verdict: dict[str, Any]) -> InvocationFailed | None:
        """The call's error by sandboxd's verdict; None is success."""
        spec = self.spec
        kind = verdict["verdict"]
        if kind == "timeout":
            return TimeLimit(f"Invoking task timed out after {spec.timeout_seconds:g} seconds")
        if kind == "init_timeout":
            return InitTimeout(f"Initialising the function timed out after {spec.init_timeout_seconds:g} seconds")
        if kind == "oom":
            return MemoryLimit(f"Task memory exceeded {spec.memory_mb} MB")
        if kind == "exited":
            return ProcessExit(_how_it_ended(verdict["exit_status"]))
        return self.error


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "the process closed its control channel"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"the process exited with code {code} while running"
    return f"the process was killed by signal {-code} ({signal.Signals(-code).name}) while running"


def _checked_json(body: bytes) -> None:
    """Raises ProtocolError where a worker sent what is no JSON: it is passed on verbatim, so it must be sound."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProtocolError("the reply is not JSON") from error


def _error(message: dict[str, Any]) -> SandboxError:
    """An error from the wire; a code we don't know is a LaunchError."""
    kind = BY_CODE.get(message["error"], LaunchError)
    text, hint = str(message.get("message")), str(message.get("hint") or "")
    error: SandboxError = LaunchError("sandboxd", text, hint=hint) if kind is LaunchError else kind(text, hint=hint)
    error.message = text
    return error
