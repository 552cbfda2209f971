"""Leases: exclusive use of one worker for one call, its deadline, and the verdict at its end.

sandboxd has the verdict. It kills at the deadline, looks at the kernel's out-of-memory counter and the governor, and answers
`release` only once a sandbox that must die is dead:

    verdict      ok · init_timeout · timeout · oom · exited · broken        (what the call came to)
    outcome      ok · failed · load_failed · timeout · exited · broken      (what the lease holder saw)

A frame that was complete before the deadline wins over a kill that came after.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass, field
from typing import Any

from sandbox import states
from sandbox.cgroup.governor import Governor, Watch
from sandbox.credentials import Credentials
from sandbox.errors import SandboxError
from sandbox.gate import MEGABYTE, Gate
from sandbox.layers import Layers
from sandbox.pool import SandboxPool
from sandbox.sandbox import Sandbox
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec

_log = logging.getLogger(__name__)

#: Close to its limit the kernel may have refused memory: only then is its out-of-memory counter read.
NEAR_LIMIT_BYTES = 8 * MEGABYTE
EXIT_TOLD_SECONDS = 0.2
KEPT_OUTCOMES = frozenset({"ok", "failed"})


@dataclass(slots=True, eq=False)
class Lease:
    number: int
    owner: object
    spec: FunctionSpec
    sandbox: Sandbox
    watch: Watch
    start: str
    why_cold: str
    deadline: float = 0.0
    phase: str = "init"
    timer: asyncio.TimerHandle | None = None
    killed: str = ""
    released: bool = False
    closing: asyncio.Task[bool] | None = field(default=None)


@dataclass(slots=True)
class Ending:
    """A lease that is being released."""

    lease: Lease
    outcome: str
    verdict: str
    memory_bytes: int
    oom: bool

    def answer(self, *, dead: bool) -> dict[str, Any]:
        exit_status = self.lease.sandbox.exit_status
        return {"verdict": self.verdict, "dead": dead, "memory_bytes": self.memory_bytes, "exit_status": exit_status}


class Leases:
    """All leases there are. The hot path is `acquire_warm`, `end` and `kept`: none of them awaits."""

    def __init__(
        self, settings: Settings, pool: SandboxPool, gate: Gate, governor: Governor, layers: Layers, credentials: Credentials
    ) -> None:
        self._settings = settings
        self._pool = pool
        self.gate = gate
        self._governor = governor
        self._layers = layers
        self.credentials = credentials
        self._loop = asyncio.get_running_loop()
        self._headroom = settings.memory_headroom_mb * MEGABYTE
        self._numbers = 0
        self.active: dict[int, Lease] = {}

    def acquire_warm(self, spec: FunctionSpec, owner: object, request_id: str = "", hops: int = 0) -> Lease | None:
        """Admit the call and lease it an idle worker; None if there is none, then it is admitted and `acquire_cold` must follow.

        Raises StaleFunction, Throttled, NoCapacity; then nothing is held. No await: a warm call costs sandboxd no task.
        """
        self._pool.check_generation(spec)
        self.gate.tmp_bytes = self._pool.tmp_total_bytes
        self.gate.aside_bytes = self._pool.aside_bytes(spec) if self._pool.kept else 0
        self.gate.enter(spec)
        try:
            sandbox = self._pool.take_warm(spec)
            return None if sandbox is None else self._lease(spec, owner, sandbox, "warm", "", request_id, hops)
        except BaseException:
            self.gate.leave(spec)
            raise

    async def acquire_cold(self, spec: FunctionSpec, owner: object, request_id: str = "", hops: int = 0) -> Lease:
        """A new worker for a call that `acquire_warm` has admitted. Raises LaunchError, ImageError; then nothing is held."""
        why = self._why_cold(spec)
        try:
            sandbox = await self._cold(spec)
            return self._lease(spec, owner, sandbox, "cold", why, request_id, hops)
        except BaseException:
            self.gate.leave(spec)
            raise

    async def acquire_ahead(self, spec: FunctionSpec, owner: object) -> Lease:
        """A new worker for nobody yet, to be loaded and released: no call, so no function's limit counts it; its memory is in what the
        pool sets aside. Raises StaleFunction, NoCapacity, LaunchError, ImageError; then nothing is held."""
        self._pool.check_generation(spec)
        self.gate.tmp_bytes, self.gate.aside_bytes = self._pool.tmp_total_bytes, self._pool.aside_bytes()
        self.gate.check_room(0)  # the worker is in the figures already
        sandbox = await self._cold(spec)
        sandbox.is_loading = True
        lease = self._lease(spec, owner, sandbox, "cold", "")
        sandbox.calls -= 1
        return lease

    async def _cold(self, spec: FunctionSpec) -> Sandbox:
        layers = self._layers.mount(spec.layers)
        try:
            sandbox = await self._pool.make_cold(spec, layers)
            self.credentials.give(sandbox)
            return sandbox
        finally:
            if layers is not None:
                os.close(layers)

    def _why_cold(self, spec: FunctionSpec) -> str:
        if spec.needs_exec:
            return "its environment needs a fresh interpreter"
        busy = sum(1 for sandbox in self._pool.busy if sandbox.key == (spec.function_id, spec.generation))
        if busy:
            return f"all {busy} workers were busy"
        if any(sandbox.key[0] == spec.function_id for sandbox in self._pool.busy):
            return "the function was changed"
        return "no worker was warm"

    def _lease(
        self, spec: FunctionSpec, owner: object, sandbox: Sandbox, start: str, why: str, request_id: str = "", hops: int = 0
    ) -> Lease:
        self._numbers += 1
        sandbox.request_id, sandbox.hops = request_id, hops
        sandbox.calls += 1
        own_limit = spec.memory_mb * MEGABYTE
        watch = Watch(
            cgroup=sandbox.slot.cgroup,
            own_limit=own_limit,
            headroom=self._headroom,
            tmp_path=sandbox.tmp_path,
            over=self._over_limit,
            kernel_limit=own_limit + self._headroom + sandbox.limit_raised_bytes,
            tmp_bytes=sandbox.tmp_bytes,
            file_cache=sandbox.file_cache_bytes,
        )
        try:
            sandbox.watch_peak()
        except OSError:
            self._pool.destroy(sandbox)
            raise
        lease = Lease(self._numbers, owner, spec, sandbox, watch, start, why)
        self.active[lease.number] = lease
        self._governor.watch(watch)
        if start == "warm":
            self._set_deadline(lease, "run", time.monotonic() + spec.timeout_seconds)
        else:
            self._set_deadline(lease, "init", time.monotonic() + spec.init_timeout_seconds)
        return lease

    def running(self, lease: Lease, at: float) -> None:
        """The handler is loaded and got its event at `at` (monotonic): from now on the function's time limit counts. Once."""
        if lease.phase == "init":
            self._set_deadline(lease, "run", min(at, time.monotonic()) + lease.spec.timeout_seconds)

    def _set_deadline(self, lease: Lease, phase: str, deadline: float) -> None:
        if lease.timer is not None:
            lease.timer.cancel()
        lease.phase, lease.deadline = phase, deadline
        lease.timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._deadline, lease)

    def _deadline(self, lease: Lease) -> None:
        self._kill(lease, "timeout" if lease.phase == "run" else "init_timeout")

    def _over_limit(self, watch: Watch) -> None:  # in the governor's thread
        self._loop.call_soon_threadsafe(self._kill_watched, watch)

    def _kill_watched(self, watch: Watch) -> None:
        for lease in self.active.values():
            if lease.watch is watch:
                self._kill(lease, "oom")
                return

    def _kill(self, lease: Lease, why: str) -> None:
        if not lease.killed and not lease.released:
            lease.killed = why
            lease.closing = self._pool.destroy(lease.sandbox)

    def drop_owner(self, owner: object) -> None:
        """The lease holder is gone: what it was running is killed, nobody could take the result."""
        for lease in [lease for lease in self.active.values() if lease.owner is owner]:
            task = self._loop.create_task(self.release(lease, "broken", time.monotonic()))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def release(self, lease: Lease, outcome: str, finished_at: float) -> dict[str, Any]:
        """End the lease; the answer to the lease holder. The sandbox is idle or dead when this returns."""
        ending = self.end(lease, outcome, finished_at)
        return self.kept(ending) or await self.destroyed(ending)

    def end(self, lease: Lease, outcome: str, finished_at: float) -> Ending:
        """Stop its clock and find the verdict; `kept` must follow, and `destroyed` where that says None."""
        lease.released = True
        if lease.timer is not None:
            lease.timer.cancel()
        self._governor.unwatch(lease.watch)
        try:
            peak = lease.sandbox.peak
            memory = self._memory(lease, peak)
            oom = self._oom_killed(lease, peak)
        except OSError as error:
            # Out of descriptors: the place under the limit must be given back all the same. A sandbox that can't be looked at goes.
            _log.error("sandbox %s can't be measured: %s", lease.sandbox.id, error)
            return Ending(lease, outcome, self._verdict(lease, outcome, finished_at, oom=False), lease.watch.own_peak, oom=True)
        return Ending(lease, outcome, self._verdict(lease, outcome, finished_at, oom=oom), memory, oom)

    def kept(self, ending: Ending) -> dict[str, Any] | None:
        """The answer where the sandbox is sound, which is idle now; None where it has to go."""
        lease = ending.lease
        if ending.verdict != "ok" or ending.outcome not in KEPT_OUTCOMES or lease.killed or ending.oom:
            return None
        self._keep(lease)
        self._finish(lease)
        return ending.answer(dead=False)

    async def destroyed(self, ending: Ending) -> dict[str, Any]:
        """The answer once the sandbox is dead."""
        lease = ending.lease
        if ending.verdict == "exited" and not lease.killed:
            await lease.sandbox.exit_told(EXIT_TOLD_SECONDS)
            if not ending.oom and self._oom_killed(lease, lease.sandbox.peak):
                # the killer's count may come a moment after the end of file; once the sandbox is closed, its cgroup is another's
                ending.verdict = "oom"
        dead = await (lease.closing or self._pool.destroy(lease.sandbox))
        self._finish(lease)
        return ending.answer(dead=dead)

    def _finish(self, lease: Lease) -> None:
        del self.active[lease.number]
        lease.sandbox.request_id = ""
        if lease.sandbox.is_loading:
            lease.sandbox.is_loading = False
        else:
            self.gate.leave(lease.spec)

    def _keep(self, lease: Lease) -> None:
        sandbox, watch = lease.sandbox, lease.watch
        if watch.looks:
            sandbox.tmp_bytes = watch.tmp_bytes
            sandbox.file_cache_bytes = watch.file_cache
            sandbox.limit_raised_bytes = watch.kernel_limit - watch.own_limit - watch.headroom
        self._pool.give_back(sandbox)

    def _verdict(self, lease: Lease, outcome: str, finished_at: float, *, oom: bool) -> str:
        in_time = outcome in ("ok", "failed", "load_failed") and finished_at <= lease.deadline
        if oom or (lease.killed == "oom" and not in_time):
            return "oom"
        if lease.killed in ("timeout", "init_timeout") and not in_time:
            return lease.killed
        if outcome == "timeout":
            return "timeout" if lease.phase == "run" else "init_timeout"
        return "ok" if outcome in ("ok", "failed", "load_failed") else outcome

    def _memory(self, lease: Lease, peak: int) -> int:
        """Peak of anonymous, kernel and shared memory outside /tmp during the lease, bytes; `peak` is of everything charged."""
        watch = lease.watch
        if lease.sandbox.state == states.CLOSED:
            return watch.own_peak
        known = lease.sandbox.own_peak_bytes
        own = peak - watch.file_cache - watch.tmp_peak
        if own > known + MEGABYTE and not lease.killed:  # the figures for page cache and /tmp may be old: worth a look
            watch.settle()
            lease.sandbox.file_cache_bytes = watch.file_cache
            own = peak - watch.file_cache - watch.tmp_peak
        lease.sandbox.own_peak_bytes = max(known, own)
        if watch.tmp_peak > MEGABYTE:  # the mark mixes moments; what the governor saw does not
            own = min(own, watch.own_peak) if watch.own_peak else own
        return max(own, watch.own_peak, 0)

    def _oom_killed(self, lease: Lease, peak: int) -> bool:
        slot = lease.sandbox.slot
        if peak and slot.cgroup.knows_peak and not lease.killed and lease.watch.kernel_limit - peak > NEAR_LIMIT_BYTES:
            return False  # else the counter is asked: v2 before 6.12 keeps no peak of a single call
        if lease.sandbox.state == states.CLOSED:
            return False
        count = slot.cgroup.oom_kills()
        risen = count > slot.oom_kills
        slot.oom_kills = count
        return risen


def error_message(error: SandboxError) -> dict[str, Any]:
    """An error as it travels to the API."""
    return {"error": error.code, "message": error.message, "hint": error.hint}
