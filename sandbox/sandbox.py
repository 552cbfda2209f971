"""One sandbox as sandboxd sees it: its slot, PID 1's control socket, the worker's socket and log pipe. Three descriptors when idle.

Owned by the pool from creation to `closed`. What it learns, it learns from its control channel (ready, specialised, error, exited, end of
file) and from the kernel (cgroup, pidfd). Everything here runs on sandboxd's loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from sandbox import plan, states
from sandbox.channel import Channel
from sandbox.errors import LaunchError
from sandbox.kernel import process, sockets
from sandbox.slots import Slot
from sandbox.spec import Network

_log = logging.getLogger(__name__)

#: The worker writes log lines into a pipe; a bigger one means fewer stops for a chatty function.
DEATH_TIMEOUT_SECONDS = 15.0
#: A number: operations on the enumeration cost more than the call.
PEEK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


class Sandbox:
    """State machine of states.py. `on_end(sandbox)` is called once when PID 1 is gone without having been asked."""

    def __init__(
        self, slot: Slot, *, image: str, runtime: str, network: Network, shape: plan.Shape, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.slot = slot
        self.id = f"s{slot.index}"
        self.image = image
        self.runtime = runtime
        self.network: Network = network
        self.shape = shape
        self.state: str = states.CREATING
        self.on_end: Callable[[Sandbox], None] | None = None
        self.on_close: Callable[[Sandbox], None] | None = None  # at the beginning of `close`
        self.born = time.monotonic()
        self.idle_since = 0.0
        self.calls = 0
        self.is_loading = False  # ahead of any call
        self.key: tuple[str, int] = ("", 0)
        self.family = ""
        self.namespace = ""
        self.name = ""
        self.version = ""
        self.request_id = ""  # of the call that it runs now
        self.hops = 0  # calls behind that one; between two calls the last one's, or what goes on behind a reply would begin anew
        self.grant: dict[str, str] = {}  # its credential, of `credentials`, which alone writes it
        self.pid = 0
        self.exit_status: int | None = None
        self.tmp_bytes = 0
        self.memory_bytes = 0
        self.file_cache_bytes = 0
        self.own_peak_bytes = 0
        self.limit_raised_bytes = 0
        self._peak_fd = -1
        self._loop = loop
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._closed: asyncio.Task[bool] | None = None
        self._exit_seen = asyncio.Event()
        ours, self._control_theirs = sockets.seqpacket_pair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.worker, self._worker_theirs = sockets.stream_pair()
        self.worker.setblocking(False)  # a property of the open file: it holds for every lease holder
        self.log, self._log_theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self._log_theirs, True)
        os.fchown(self._log_theirs, slot.uid, slot.uid)  # or the function could not open /dev/stdout and /dev/stderr
        # Last: the loop keeps a channel for good, so none may be made of a sandbox for which descriptors run out on the way here.
        self._control = Channel(ours, loop, self._message, self._ended)

    # -- creation -----------------------------------------------------------------------------------------------------

    def child_descriptors(self) -> dict[str, int]:
        """What the new PID 1 gets; call `close_child_descriptors` once they are sent."""
        return {"@control": self._control_theirs.fileno(), "@worker": self._worker_theirs.fileno(), "@log": self._log_theirs}

    def close_child_descriptors(self) -> None:
        self._control_theirs.close()
        self._worker_theirs.close()
        if self._log_theirs >= 0:
            os.close(self._log_theirs)
            self._log_theirs = -1

    def to(self, state: str) -> None:
        if state not in states.FOLLOWS[self.state]:
            raise RuntimeError(f"sandbox {self.id}: {self.state} cannot become {state}")
        self.state = state

    async def ready(self, timeout_seconds: float) -> None:
        """Wait for PID 1's first message. Raises LaunchError with the step that failed."""
        await self._expect("ready", "init", timeout_seconds)

    async def specialise(self, attach: plan.Plan, fds: dict[str, int], timeout_seconds: float = 10.0) -> None:
        """Give it its function and take its last privilege. Raises LaunchError."""
        message = {
            "op": "specialise",
            "fds": list(fds),
            "attach": plan.to_json(attach),
            "drop": plan.to_json(plan.drop_plan(self.shape)),
        }
        self._control.send(message, list(fds.values()))
        await self._expect("specialised", "attach", timeout_seconds)

    async def _expect(self, op: str, stage: str, timeout_seconds: float) -> None:
        self._answer = self._answer or self._loop.create_future()
        try:
            async with asyncio.timeout(timeout_seconds):
                message = await self._answer
        except TimeoutError:
            raise LaunchError(stage, f"no {op!r} within {timeout_seconds} s") from None
        finally:
            self._answer = None
        if message["op"] == "error":
            where = (str(message.get("stage")), str(message.get("step")))
            raise LaunchError(*where, int(message.get("errno") or 0), str(message.get("path") or ""), hint=str(message.get("hint") or ""))
        if message["op"] != op:
            raise LaunchError(stage, f"the sandbox ended ({message['op']} {message.get('status', '')}) before {op!r}")

    def _message(self, message: dict[str, Any], fds: list[int], pid: int) -> None:
        for fd in fds:  # PID 1 has no business sending any
            os.close(fd)
        self.pid = self.pid or pid
        if message.get("op") == "exited":
            status = message.get("status")
            self.exit_status = status if isinstance(status, int) else None
            self._exit_seen.set()
        if self._answer is None:
            self._answer = self._loop.create_future()
        if not self._answer.done():
            self._answer.set_result(message)

    async def exit_told(self, within_seconds: float) -> None:
        """Wait a moment for PID 1 to tell how its worker ended; the worker may also live and only have closed its descriptor."""
        try:
            async with asyncio.timeout(within_seconds):
                await self._exit_seen.wait()
        except TimeoutError:
            return

    def _ended(self) -> None:
        self._exit_seen.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result({"op": "end of file"})
        elif self.state == states.CREATING:
            self._answer = self._loop.create_future()
            self._answer.set_result({"op": "end of file"})
        if self._closed is None and self.on_end is not None:
            self.on_end(self)

    @property
    def ended(self) -> bool:
        return self._control.closed

    # -- use ------------------------------------------------------------------------------------------------------------

    @property
    def silent(self) -> bool:
        """Whether an idle worker has sent nothing since its last reply and still listens. A second reply must not meet the next call."""
        try:
            self.worker.recv(1, PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def tmp_path(self) -> str:
        return f"/proc/{self.pid}/root/tmp"

    def measure(self) -> None:
        """Refresh `tmp_bytes` and `memory_bytes` (page cache left out) of an idle sandbox."""
        try:
            status = os.statvfs(self.tmp_path)
            self.tmp_bytes = (status.f_blocks - status.f_bfree) * status.f_frsize
            self.file_cache_bytes = self.slot.cgroup.file_cache()
            self.memory_bytes = max(0, self.slot.cgroup.memory_usage() - self.file_cache_bytes - self.tmp_bytes)
        except (FileNotFoundError, ProcessLookupError):
            return  # it is ending; whoever ends it settles the figures

    def watch_peak(self) -> None:
        """The mark of `peak` starts anew. Its descriptor is kept until the sandbox is frozen, which busy ones never are."""
        cgroup = self.slot.cgroup
        if self._peak_fd < 0:
            self._peak_fd = cgroup.open_peak()
        else:
            cgroup.reset_peak(self._peak_fd)

    @property
    def peak(self) -> int:
        """Highest use of memory since `watch_peak`, everything charged included, bytes; 0 where that is not known (any more)."""
        return self.slot.cgroup.read_peak(self._peak_fd) if self._peak_fd >= 0 else 0

    def _forget_peak(self) -> None:
        if self._peak_fd >= 0:
            os.close(self._peak_fd)
            self._peak_fd = -1

    def freeze(self) -> None:
        self._forget_peak()
        self.slot.cgroup.freeze()
        self.to(states.FROZEN)

    def thaw(self) -> None:
        if self.state == states.FROZEN:
            self.slot.cgroup.thaw()

    # -- the end --------------------------------------------------------------------------------------------------------

    def close(self) -> asyncio.Task[bool]:
        """Kill the whole tree and wait until it is gone; True if it is. Idempotent, everyone waits for the same end."""
        if self._closed is None:
            self.to(states.CLOSING)
            if self.on_close is not None:
                self.on_close(self)
            self._closed = self._loop.create_task(self._close())
        return self._closed

    async def _close(self) -> bool:
        self.close_child_descriptors()
        # Before the kill, which needs a descriptor: there is one then, even where there was none left.
        self.worker.close()
        os.close(self.log)
        pidfd = self._kill()
        self._control.close()  # a PID 1 that was not yet known reads end of file and goes
        deadline = self._loop.time() + DEATH_TIMEOUT_SECONDS
        try:
            await self._thaw_killed(deadline)
            dead = await self._wait_dead(pidfd, deadline)
        finally:
            if pidfd >= 0:
                os.close(pidfd)
        self._forget_peak()
        self.to(states.CLOSED)
        return dead

    def _kill(self) -> int:
        """SIGKILL to the tree; a pidfd of PID 1 to wait for, or -1 where there is none to wait for."""
        cgroup = self.slot.cgroup
        try:
            if cgroup.kill():
                return -1
            if not self.pid or self._control.closed:
                return -1
            pidfd = os.pidfd_open(self.pid)
            if _hung_up(self._control.sock):  # it ended before we opened: that pid may be someone else's by now
                os.close(pidfd)
                return -1
            process.kill_pidfd(pidfd)
            return pidfd
        except ProcessLookupError:
            return -1
        except OSError as error:  # out of descriptors: the end of file on its control socket makes PID 1 kill all
            _log.error("sandbox %s can't be killed at once: %s", self.id, error)
            return -1

    async def _thaw_killed(self, deadline: float) -> None:
        """v1: SIGKILL does nothing to a frozen task until it is thawed."""
        while True:
            try:
                self.slot.cgroup.thaw()
                return
            except OSError as error:
                if self._loop.time() > deadline:
                    _log.error("sandbox %s can't be thawed: %s", self.id, error)
                    return
            await asyncio.sleep(0.01)

    def _is_empty(self) -> bool:
        try:
            return self.slot.cgroup.empty()
        except OSError:
            return False  # out of descriptors: asked again until the deadline

    async def _wait_dead(self, pidfd: int, deadline: float) -> bool:
        if pidfd >= 0:
            # readable once the process is dead, and PID 1 is dead only when its whole namespace is, pid_namespaces(7)
            died: asyncio.Future[None] = self._loop.create_future()
            self._loop.add_reader(pidfd, _settle, died)
            try:
                async with asyncio.timeout_at(deadline):
                    await died
            except TimeoutError:
                _log.error("sandbox %s: PID 1 (%d) is still alive %.0f s after SIGKILL", self.id, self.pid, DEATH_TIMEOUT_SECONDS)
            finally:
                self._loop.remove_reader(pidfd)
        pause = 0.0003
        while not self._is_empty():
            if self._loop.time() > deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.02)
        return True


def _hung_up(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLHUP | select.POLLRDHUP)
    return bool(poll.poll(0))


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
