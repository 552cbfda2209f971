"""sandboxd's socket and the requests of its clients (the API's processes).

    {"op": "acquire", "id", "spec", "request_id", "hops"}  → {"id", "lease", "start", "why_cold", "runtime", "sandbox", "locale",
                                                              "deadline"[, "grant"]} + worker socket, log pipe
    {"op": "running", "lease", "at"}                         no answer
    {"op": "release", "id", "lease", "outcome", "at"}      → {"id", "verdict", "dead", "memory_bytes", "exit_status"}
    {"op": "retire", "id", "function_id", "generation"}    → {"id"}, and {"op": "changed", "function_id"} to every client
    {"op": "changed", "id", "function_id"}                 → {"id"}, and the same to every client: workers stay, what is cached goes
    {"op": "quota", "id", "namespace", "epoch", "family", "is_reserved"}                      → {"id"}   (Gate.learn)
    {"op": "provision", "id", "spec", "number", "purpose", "revision", "seconds"}             → {"id"}   (Provisioner.demand)
    {"op": "unprovision", "id", "function_id", "purpose", "revision"}                         → {"id"}   (Provisioner.release)
    {"op": "provisions", "id"}                             → {"id", "part", "more"} … in packets of some rows (Provisioner.describe)
    {"op": "resolve", "id", "runtime"}                     → {"id", "image", "runtime"}
    {"op": "describe", "id"}                               → {"id", "part", "more"} … in packets of some sandboxes
    {"op": "credential", "id", "secret_id"}                → {"id", "credential": {…} or null}           (Credential.to_json)
    {"op": "endpoint", "id", "of": "scf" | "buckets"}      → {"id"} + the socket on which functions are served that, where they are
An error is {"id", "error": code, "message", "hint"}. What comes is checked here again: the API is unprivileged and may be
anybody's by now. A client that goes away loses its leases, and every other is told to forget what it cached: it may have gone
between a commit and its `retire`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from sandbox import states
from sandbox.channel import Channel
from sandbox.daemon.checks import (
    CheckedSpecs,
    checked_demand,
    checked_hops,
    checked_id,
    checked_quota,
    checked_request_id,
    checked_retirement,
    checked_secret_id,
)
from sandbox.daemon.leases import Ending, Lease, Leases, error_message
from sandbox.daemon.provisioner import Provisioner
from sandbox.errors import LaunchError, SandboxError
from sandbox.kernel import sockets
from sandbox.pool import SandboxPool
from sandbox.sandbox import Sandbox
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec

_log = logging.getLogger(__name__)

ACCEPT_AGAIN_SECONDS = 0.1
PART = 100
#: Of all clients together: the API's processes have one each. A flood must leave us descriptors for sandboxes.
MAX_CONNECTIONS = 256
#: Of one client; a description of ten thousand sandboxes is about 3 MB.
MAX_UNREAD_BYTES = 16 * 1024 * 1024


def _not_made(error: OSError) -> LaunchError:
    return LaunchError("acquire", "make a sandbox", error.errno or 0, str(error.filename or ""))


def row(sandbox: Sandbox) -> dict[str, Any]:
    """One sandbox as `/v1/sandboxes` and `hearth ps` show it. Its memory is measured now, unless it is frozen: then nothing moved since."""
    now = time.monotonic()
    if sandbox.state in (states.IDLE, states.PREPARED, states.LEASED):
        sandbox.measure()
    return {
        "id": sandbox.id,
        "state": sandbox.state,
        "namespace": sandbox.namespace,
        "function": sandbox.name,
        "version": sandbox.version,
        "image": sandbox.image,
        "runtime": sandbox.runtime,
        "network": sandbox.network,
        "pid": sandbox.pid,
        "uid": sandbox.slot.uid,
        "memory_bytes": sandbox.memory_bytes,
        "tmp_bytes": sandbox.tmp_bytes,
        "calls": sandbox.calls,
        "age_seconds": round(now - sandbox.born, 3),
        "idle_seconds": round(now - sandbox.idle_since, 3) if sandbox.state in (states.IDLE, states.FROZEN) else 0.0,
    }


class Connection:
    """One client."""

    def __init__(self, sock: socket.socket, server: Listener) -> None:
        self._server = server
        self.channel = Channel(sock, server.loop, self._message, self._ended, queue_bytes=MAX_UNREAD_BYTES)

    def _message(self, message: dict[str, Any], fds: list[int], pid: int) -> None:
        for fd in fds:  # clients have none to send
            os.close(fd)
        op = message.get("op")
        if op == "running":
            lease, at = self._lease(message), message.get("at")
            if lease is not None and isinstance(at, (int, float)):
                self._server.leases.running(lease, at)
        elif op in ("acquire", "release"):
            self._begin(str(op), message)
        else:
            self._server.spawn(self._answer(op, message))

    def _lease(self, message: dict[str, Any]) -> Lease | None:
        """The lease a message names, if this client holds it."""
        number = message.get("lease")
        lease = self._server.leases.active.get(number) if isinstance(number, int) else None
        return lease if lease is not None and lease.owner is self else None

    def _begin(self, op: str, message: dict[str, Any]) -> None:
        """Answer at once what needs no waiting, which is every warm call; only the rest gets a task."""
        try:
            rest = (self._acquire if op == "acquire" else self._release)(message.get("id"), message)
        except Exception as error:
            self._refuse(op, message, error)
        else:
            if rest is not None:
                self._server.spawn(self._finish(op, message, rest))

    async def _answer(self, op: object, message: dict[str, Any]) -> None:
        handlers = {
            "retire": self._retire,
            "changed": self._changed,
            "quota": self._quota,
            "provision": self._provision,
            "unprovision": self._unprovision,
            "provisions": self._provisions,
            "describe": self._describe,
            "resolve": self._resolve,
            "credential": self._credential,
            "endpoint": self._endpoint,
        }
        handler = handlers.get(str(op), self._unknown)
        await self._finish(op, message, handler(message.get("id"), message))

    async def _finish(self, op: object, message: dict[str, Any], work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self._refuse(op, message, error)

    def _refuse(self, op: object, message: dict[str, Any], error: Exception) -> None:
        number = message.get("id")
        if isinstance(error, SandboxError):
            self.channel.send({"id": number, **error_message(error)})
        else:
            _log.error("request %s failed", op, exc_info=error)
            self.channel.send(
                {"id": number, "error": "launch_failed", "message": f"sandboxd: {type(error).__name__}", "hint": "see the log of sandboxd"}
            )

    async def _unknown(self, number: Any, message: dict[str, Any]) -> None:
        raise LaunchError("request", f"unknown operation {message.get('op')!r}")

    def _acquire(self, number: Any, message: dict[str, Any]) -> Coroutine[Any, Any, None] | None:
        """Answered when a worker is warm; otherwise what is left to do."""
        spec, request_id, hops = self._server.specs.checked(message.get("spec")), checked_request_id(message), checked_hops(message)
        try:
            lease = self._server.leases.acquire_warm(spec, self, request_id, hops)
        except OSError as error:
            raise _not_made(error) from error
        if lease is None:
            return self._acquire_cold(number, spec, request_id, hops)
        self._hand_over(number, lease)
        return None

    async def _acquire_cold(self, number: Any, spec: FunctionSpec, request_id: str, hops: int) -> None:
        leases = self._server.leases
        try:
            lease = await leases.acquire_cold(spec, self, request_id, hops)
        except OSError as error:
            raise _not_made(error) from error
        if self.channel.closed:
            await leases.release(lease, "broken", 0.0)
        else:
            self._hand_over(number, lease)

    def _hand_over(self, number: Any, lease: Lease) -> None:
        answer = {
            "id": number,
            "lease": lease.number,
            "start": lease.start,
            "why_cold": lease.why_cold,
            "runtime": lease.sandbox.runtime,
            "sandbox": lease.sandbox.id,
            "locale": self._server.pool.locale(lease.sandbox.image),
            "deadline": lease.deadline,
        }
        if lease.start == "cold":
            answer["grant"] = lease.sandbox.grant
        self.channel.send(answer, (lease.sandbox.worker.fileno(), lease.sandbox.log))

    def _release(self, number: Any, message: dict[str, Any]) -> Coroutine[Any, Any, None] | None:
        """Answered when the sandbox is kept; otherwise what is left to do."""
        lease, at = self._lease(message), message.get("at")
        if lease is None or lease.released:
            raise LaunchError("release", f"lease {message.get('lease')!r} is not yours")
        if not isinstance(at, (int, float)):
            raise LaunchError("release", f"{at!r} is not a time")
        ending = self._server.leases.end(lease, str(message.get("outcome")), at)
        answer = self._server.leases.kept(ending)
        if answer is None:
            return self._destroyed(number, ending)
        self.channel.send({"id": number, **answer})
        return None

    async def _destroyed(self, number: Any, ending: Ending) -> None:
        self.channel.send({"id": number, **await self._server.leases.destroyed(ending)})

    async def _retire(self, number: Any, message: dict[str, Any]) -> None:
        function_id, generation = checked_retirement(message)
        self._server.pool.retire(function_id, generation)
        self._server.provisioner.retired(function_id, generation)
        self._server.broadcast({"op": "changed", "function_id": function_id}, but=self)
        self.channel.send({"id": number})

    async def _changed(self, number: Any, message: dict[str, Any]) -> None:
        self._server.broadcast({"op": "changed", "function_id": checked_id(message)}, but=self)
        self.channel.send({"id": number})

    async def _quota(self, number: Any, message: dict[str, Any]) -> None:
        namespace, epoch, family, is_reserved = checked_quota(message)
        self._server.leases.gate.learn(namespace, epoch, family, is_reserved=is_reserved)
        self.channel.send({"id": number})

    async def _provision(self, number: Any, message: dict[str, Any]) -> None:
        spec = self._server.specs.checked(message.get("spec"))
        purpose, wanted, revision, seconds = checked_demand(message)
        self._server.provisioner.demand(spec, purpose, wanted, revision=revision, seconds=seconds)
        self.channel.send({"id": number})

    async def _unprovision(self, number: Any, message: dict[str, Any]) -> None:
        purpose, _, revision, _ = checked_demand({**message, "number": 0})
        self._server.provisioner.release(checked_id(message), purpose, revision=revision)
        self.channel.send({"id": number})

    async def _provisions(self, number: Any, message: dict[str, Any]) -> None:
        rows = self._server.provisioner.describe()
        for start in range(0, max(1, len(rows)), PART):
            part = {"provisions": rows[start : start + PART]}
            self.channel.send({"id": number, "part": part, "more": start + PART < len(rows)})

    async def _resolve(self, number: Any, message: dict[str, Any]) -> None:
        resolved = self._server.pool.resolve(str(message.get("runtime")))
        self.channel.send({"id": number, "image": resolved.image.name, "runtime": resolved.runtime})

    async def _credential(self, number: Any, message: dict[str, Any]) -> None:
        found = self._server.leases.credentials.find(checked_secret_id(message))
        self.channel.send({"id": number, "credential": None if found is None else found.to_json()})

    async def _endpoint(self, number: Any, message: dict[str, Any]) -> None:
        endpoint = self._server.endpoints.get(str(message.get("of", "scf")))
        self.channel.send({"id": number}, () if endpoint is None else (endpoint.fileno(),))

    async def _describe(self, number: Any, message: dict[str, Any]) -> None:
        sandboxes = list(self._server.pool.everything())
        for start in range(0, max(1, len(sandboxes)), PART):
            more = start + PART < len(sandboxes)
            rows = [row(sandbox) for sandbox in sandboxes[start : start + PART]]
            part = {"sandboxes": rows, **({} if more else self._server.describe())}
            self.channel.send({"id": number, "part": part, "more": more})
            await asyncio.sleep(0)

    def _ended(self) -> None:
        self._server.gone(self)


class Listener:
    """Accepts clients of root and of the API's user, nobody else (SO_PEERCRED)."""

    def __init__(
        self,
        settings: Settings,
        pool: SandboxPool,
        leases: Leases,
        provisioner: Provisioner,
        describe: Callable[[], dict[str, Any]],
        endpoints: Mapping[str, socket.socket] | None = None,
    ) -> None:
        self.settings = settings
        self.specs = CheckedSpecs(settings)
        self.pool = pool
        self.leases = leases
        self.provisioner = provisioner
        self.describe = describe
        self.endpoints = endpoints or {}
        self.loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._allowed = {0, pwd.getpwnam(settings.user).pw_uid}
        self._sock: socket.socket | None = None

    def start(self) -> None:
        """Bind and listen. The file may be opened by anyone; who connects is told by the kernel."""
        path = str(self.settings.socket_path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        if os.path.lexists(path):
            os.unlink(path)  # left by a former life: the instance's lock is ours
        sock.bind(path)
        os.chmod(path, 0o666)
        sock.listen(128)
        self._sock = sock
        self.loop.add_reader(sock.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._sock is not None
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # EMFILE: who waits stays in the queue and would wake us again at once, so we look again later.
            _log.error("cannot accept a client: %s", error)
            self.loop.remove_reader(self._sock.fileno())
            self.loop.call_later(ACCEPT_AGAIN_SECONDS, self._accept_again)
            return
        pid, uid, _ = sockets.peer_credentials(sock)
        if uid not in self._allowed:
            _log.warning("connection refused: pid=%d uid=%d", pid, uid)
            sock.close()
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            _log.warning("connection refused: pid=%d, %d are open", pid, len(self._connections))
            sock.close()
            return
        self._connections.add(Connection(sock, self))

    def _accept_again(self) -> None:
        if self._sock is not None and self._sock.fileno() >= 0:
            self.loop.add_reader(self._sock.fileno(), self._accept)

    def gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.leases.drop_owner(connection)
        self.broadcast({"op": "changed", "function_id": None})

    def broadcast(self, message: dict[str, Any], *, but: Connection | None = None) -> None:
        for connection in list(self._connections):
            if connection is not but:
                connection.channel.send(message)

    def spawn(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        if self._sock is not None:
            self.loop.remove_reader(self._sock.fileno())
            self._sock.close()
            self.settings.socket_path.unlink(missing_ok=True)
        for connection in list(self._connections):
            connection.channel.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
