"""The one door for server/: calls, retirements and descriptions, over sandboxd's socket.

What a call is made of is in `sandbox.call`; here are the connection, its requests and their answers. The connection is made again by
itself; while it is away, requests raise Unavailable.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from sandbox.call import Call
from sandbox.channel import Channel
from sandbox.errors import BY_CODE, LaunchError, SandboxError, Unavailable
from sandbox.readers import Readers
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec, Reply

_log = logging.getLogger(__name__)

Message = dict[str, Any]
#: Takes an answer, or the error it is, and descriptors that are the taker's to close.
Taker = Callable[[Message | SandboxError, list[int]], None]

RECONNECT_FIRST_SECONDS = 0.05
RECONNECT_LONGEST_SECONDS = 1.0
SPECS_KEPT = 4096
#: The purpose of what users provision; others, as a timer's worker made warm ahead, have their own.
PROVISIONED = "provisioned"


class Client:
    """One connection to sandboxd. `on_change(function_id)` tells what to forget of what was cached; None: everything. `on_connection(…)`
    is told when it is there and when it is gone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._channel: Channel | None = None
        self._pending: dict[int, Taker] = {}
        self._parts: dict[int, list[dict[str, Any]]] = {}
        self._numbers = 0
        self._specs: dict[tuple[str, int, int, int], orjson.Fragment] = {}
        self._loop: asyncio.AbstractEventLoop
        self._readers: Readers
        self._connector: asyncio.Task[None] | None = None
        self._lost: asyncio.Event | None = None
        self.on_change: Callable[[str | None], None] = lambda _: None
        self.on_connection: Callable[[bool], None] = lambda _: None

    @property
    def connected(self) -> bool:
        return self._channel is not None and not self._channel.closed

    async def start(self) -> None:
        """Connect, and keep connecting in the background; returns after the first try."""
        self._loop = asyncio.get_running_loop()
        self._readers = Readers(self._loop)
        self._lost = asyncio.Event()
        self._connect()
        self._connector = self._loop.create_task(self._keep_connected())

    async def close(self) -> None:
        if self._connector is not None:
            self._connector.cancel()
            await asyncio.gather(self._connector, return_exceptions=True)
        if self._channel is not None:
            self._channel.close()
        self._readers.close()

    # -- calls ----------------------------------------------------------------------------------------------------------

    def begin(
        self, spec: FunctionSpec, event: bytes, *, request_id: str, ended: Callable[[Reply | SandboxError], None], hops: int = 0
    ) -> Call:
        """Run one call, which can be cancelled, and behind which `hops` others lie; `ended` is called once: with the Reply (the function's
        failure in it), or with a Refused leaf, LaunchError or ImageError when nothing ran. Nobody has to wait for it. Raises Unavailable,
        then nothing was begun."""
        call = Call(self, self._settings, self._loop, self._readers, spec=spec, event=event, request_id=request_id, ended=ended)
        call.begin({"op": "acquire", "spec": self._encoded(spec), "request_id": request_id, "hops": hops})
        return call

    async def invoke(self, spec: FunctionSpec, event: bytes, *, request_id: str) -> Reply:
        """`begin` and wait. Who is cancelled while waiting stops nothing: the call goes on to its end."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self.begin(spec, event, request_id=request_id, ended=partial(_settle, future))
        return await future

    async def retire(self, function_id: str, generation: int | None) -> None:
        """After a change is committed: workers older than `generation` (None: deleted) go. Raises Unavailable."""
        await self._ask({"op": "retire", "function_id": function_id, "generation": generation})

    async def announce(self, function_id: str) -> None:
        """After a change that leaves every worker as it is (an alias's): the other clients forget what they know. Raises Unavailable."""
        await self._ask({"op": "changed", "function_id": function_id})

    async def quota(self, namespace: str, epoch: int, family: str = "", *, is_reserved: bool = False) -> None:
        """After a change of a quota is committed: specifications of an older epoch are refused from now on. `family` is the function
        whose reservation was set (`is_reserved`) or taken back. Raises Unavailable."""
        await self._ask({"op": "quota", "namespace": namespace, "epoch": epoch, "family": family, "is_reserved": is_reserved})

    async def provision(
        self, spec: FunctionSpec, number: int, *, purpose: str = PROVISIONED, revision: int = 0, seconds: float | None = None
    ) -> None:
        """Have `number` workers of `spec` started, loaded and kept from now on (for so many seconds, where that is said); 0 releases.

        Demands of one function with different purposes stand beside each other, the largest counts. One with an older revision than the
        last is ignored. Returns before the workers are there; `provisions` tells. Raises StaleFunction, LaunchError, Unavailable.
        """
        message = {"op": "provision", "spec": self._encoded(spec), "number": number, "purpose": purpose}
        await self._ask({**message, "revision": revision, "seconds": seconds})

    async def unprovision(self, function_id: str, *, purpose: str = PROVISIONED, revision: int = 0) -> None:
        """The same as `provision` with 0, without a specification: for a function that is no more. Raises Unavailable."""
        await self._ask({"op": "unprovision", "function_id": function_id, "purpose": purpose, "revision": revision})

    async def provisions(self) -> list[dict[str, Any]]:
        """[{"function_id", "namespace", "function", "version", "purposes", "allocated", "available", "status": "done" | "in_progress" |
        "failed", "reason"}, …]. Raises Unavailable."""
        last = await self._ask({"op": "provisions"})
        parts = self._parts.pop(last["id"], [])
        return [row for part in (*parts, last["part"]) for row in part["provisions"]]

    async def resolve(self, runtime: str) -> dict[str, Any]:
        """{"image", "runtime"} that serve a function of this runtime now. Raises RuntimeNotFound, Unavailable."""
        answer = await self._ask({"op": "resolve", "runtime": runtime})
        return {"image": answer["image"], "runtime": answer["runtime"]}

    async def credential(self, secret_id: str) -> dict[str, Any] | None:
        """{"secret_key", "token", "namespace", "function", "family", "sandbox", "request_id", "hops"} of temporary credentials;
        "request_id" is the call that runs in their sandbox now, or "", "hops" the number of calls behind it or behind the last one. None
        where there are none of that id, or no more. Raises Unavailable."""
        found: dict[str, Any] | None = (await self._ask({"op": "credential", "secret_id": secret_id}))["credential"]
        return found

    async def endpoint(self, of: str) -> socket.socket | None:
        """A listening socket, the caller's to close, on which functions ask for SCF's interfaces ("scf") or the bucket service
        ("buckets"); None where they can't. Raises Unavailable."""
        future: asyncio.Future[socket.socket | None] = asyncio.get_running_loop().create_future()

        def take(came: Message | SandboxError, fds: list[int]) -> None:
            socks = [socket.socket(fileno=fd) for fd in fds]
            if future.done() or isinstance(came, SandboxError):
                for sock in socks:
                    sock.close()
                _settle(future, came)
            else:
                future.set_result(socks[0] if socks else None)

        self.request({"op": "endpoint", "of": of}, take)
        return await future

    async def describe(self) -> dict[str, Any]:
        """{"sandboxes": […], "images": […], "capacity": {…}, "counters": {…}, "zygotes": […]}. Raises Unavailable."""
        last = await self._ask({"op": "describe"})
        parts = self._parts.pop(last["id"], [])
        whole: dict[str, Any] = {"sandboxes": []}
        for part in (*parts, last["part"]):
            whole["sandboxes"] += part.pop("sandboxes")
            whole.update(part)
        return whole

    def _encoded(self, spec: FunctionSpec) -> orjson.Fragment:
        # a version's concurrency is its function's, and changes with it
        key = (spec.function_id, spec.generation, spec.concurrency, spec.quota_epoch)
        fragment = self._specs.get(key)
        if fragment is None:
            if len(self._specs) >= SPECS_KEPT:
                self._specs.clear()
            fragment = self._specs[key] = orjson.Fragment(orjson.dumps(spec.to_json()))
        return fragment

    # -- the connection -------------------------------------------------------------------------------------------------

    def request(self, message: Message, answer: Taker) -> None:
        """Send a request; `answer` is called once, from the loop, with the answer or an error and with descriptors that are its to
        close. Raises Unavailable, then it never is."""
        channel = self._channel
        if channel is None or channel.closed:
            raise Unavailable("sandboxd is away", hint="it is restarted; try again")
        self._numbers += 1
        message["id"] = self._numbers
        self._pending[self._numbers] = answer
        channel.send(message)

    def tell(self, message: Message) -> None:
        """Send what has no answer; lost where sandboxd is away."""
        if self._channel is not None:
            self._channel.send(message)

    async def _ask(self, message: Message) -> Message:
        """`request` for who waits: the answer. Raises what the answer says, Unavailable."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.request(message, lambda came, _: _settle(future, came))
        return await future

    def _message(self, message: Message, fds: list[int], pid: int) -> None:
        if message.get("op") == "changed":
            self.on_change(message["function_id"])
            return
        if message.get("more"):
            self._parts.setdefault(message["id"], []).append(message["part"])
            return
        answer = self._pending.pop(message["id"])
        answer(_error(message) if "error" in message else message, fds)

    def _connect(self) -> bool:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.connect(str(self._settings.socket_path))
        except OSError:
            sock.close()
            return False
        self._channel = Channel(sock, self._loop, self._message, self._disconnected, spares=True)  # running calls go on
        self.on_connection(True)
        return True

    def _disconnected(self) -> None:
        pending, self._pending = self._pending, {}
        self._parts.clear()
        for answer in pending.values():
            answer(Unavailable("sandboxd went away during the call", hint="it is restarted; try again"), [])
        self.on_change(None)
        self.on_connection(False)
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


def _settle(future: asyncio.Future[Any], came: object) -> None:
    if future.done():  # whoever waited was cancelled
        return
    if isinstance(came, SandboxError):
        future.set_exception(came)
    else:
        future.set_result(came)


def _error(message: dict[str, Any]) -> SandboxError:
    """An error from the wire; a code we don't know is a LaunchError."""
    kind = BY_CODE.get(message["error"], LaunchError)
    text, hint = str(message.get("message")), str(message.get("hint") or "")
    error: SandboxError = LaunchError("sandboxd", text, hint=hint) if kind is LaunchError else kind(text, hint=hint)
    error.message = text
    return error
