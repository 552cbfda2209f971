"""Provisioned workers: started and loaded ahead of need, kept, replaced when they die or are used up.

    demand       "so many workers of this specification, for this purpose": a client's, until it is changed, released or runs out
    provision    all demands of one function (or version); the largest number counts
    done         as many workers wait for a call or run one · in_progress   some are still to be started · failed   the last try failed

Starting is bounded: a few at a time, few a second, one at a time for a function that has failed, and after each failure the function waits
twice as long. A worker that dies before it has served a call counts as a failure, so a module that kills its process can't keep us busy.
A demand's revision grows with every change: an older one that comes late (of a client that read its database before) says nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from sandbox.errors import LaunchError, NoCapacity, SandboxError, StaleFunction
from sandbox.gate import MEGABYTE
from sandbox.kernel import machine
from sandbox.log import pairs
from sandbox.pool import Kept, SandboxPool
from sandbox.sandbox import Sandbox
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec

_log = logging.getLogger(__name__)

PASS_SECONDS = 0.05
#: Of all functions, of one, and of one whose last try failed.
AT_ONCE, AT_ONCE_EACH, AT_ONCE_FAILED = 8, 2, 1
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 300.0
MAX_PROVISIONS = 1000
REVISIONS_KEPT = 4096
MAX_REASON = 300


@dataclass(slots=True)
class Demand:
    number: int
    until: float  # monotonic


@dataclass(slots=True, eq=False)
class Provision:
    spec: FunctionSpec
    demands: dict[str, Demand] = field(default_factory=dict)
    loading: int = 0
    failures: int = 0
    retry_at: float = 0.0
    reason: str = ""

    @property
    def key(self) -> tuple[str, int]:
        return self.spec.function_id, self.spec.generation

    def wanted(self, now: float) -> int:
        """What is demanded now; demands that ran out go."""
        self.demands = {purpose: demand for purpose, demand in self.demands.items() if demand.until > now}
        return max((demand.number for demand in self.demands.values()), default=0)

    @property
    def at_once(self) -> int:
        return AT_ONCE_FAILED if self.failures else AT_ONCE_EACH

    def failed(self, reason: str, now: float) -> None:
        self.retry_at = now + min(FIRST_PAUSE_SECONDS * 2.0 ** min(self.failures, 20), LONGEST_PAUSE_SECONDS)
        self.failures += 1
        self.reason = "".join(char if char.isprintable() else " " for char in reason)[:MAX_REASON]

    def succeeded(self) -> None:
        self.failures, self.retry_at, self.reason = 0, 0.0, ""


class Provisioner:
    """`load(spec)` makes one idle, loaded worker (`loading.Loader.load`)."""

    def __init__(
        self,
        settings: Settings,
        pool: SandboxPool,
        load: Callable[[FunctionSpec], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._pool, self._load, self._clock = settings, pool, load, clock
        self._loop = asyncio.get_running_loop()
        self._provisions: dict[str, Provision] = {}
        self._revisions: dict[tuple[str, str], int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        pool.on_gone = self._gone

    # -- demands --------------------------------------------------------------------------------------------------------

    def demand(self, spec: FunctionSpec, purpose: str, number: int, *, revision: int = 0, seconds: float | None = None) -> None:
        """Keep `number` workers from now on, for so many seconds where that is said; 0 releases. What is there already stays as it is, so
        it may be said again and again. Raises StaleFunction for an older generation, LaunchError where there are too many."""
        self._pool.check_generation(spec)
        if not self._is_news(spec.function_id, purpose, revision):
            return
        provision = self._provisions.get(spec.function_id)
        if provision is None:
            if not number:
                return
            if len(self._provisions) >= MAX_PROVISIONS:
                raise LaunchError("provision", f"{MAX_PROVISIONS} functions have provisioned workers", hint="release some")
            provision = self._provisions[spec.function_id] = Provision(spec)
        self._renew(provision, spec)
        before = provision.demands.get(purpose)
        if before is None or before.number != number:
            provision.retry_at = 0.0  # something was changed: worth a try at once
        until = self._clock() + seconds if seconds is not None else float("inf")
        provision.demands[purpose] = Demand(number, until)
        self._pass_soon()

    def release(self, function_id: str, purpose: str, *, revision: int = 0) -> None:
        """The demand is no more, whatever its specification was."""
        provision = self._provisions.get(function_id)
        if self._is_news(function_id, purpose, revision) and provision is not None:
            provision.demands.pop(purpose, None)
            self._pass_soon()

    def retired(self, function_id: str, generation: int | None) -> None:
        """The function was changed or deleted (None, and its versions with it): its demands are over; a client that wants some of the new
        one says so."""
        for provision in list(self._provisions.values()):
            spec = provision.spec
            deleted = generation is None and function_id in (spec.function_id, spec.family)
            changed = generation is not None and spec.function_id == function_id and spec.generation < generation
            if deleted or changed:
                self._drop(provision)

    def _is_news(self, function_id: str, purpose: str, revision: int) -> bool:
        key = (function_id, purpose)
        if revision < self._revisions.get(key, 0):
            return False
        self._revisions.pop(key, None)
        self._revisions[key] = revision  # at the end of the order: the oldest are forgotten first
        if len(self._revisions) > REVISIONS_KEPT:
            del self._revisions[next(iter(self._revisions))]
        return True

    def _renew(self, provision: Provision, spec: FunctionSpec) -> None:
        if spec.generation != provision.spec.generation:
            self._pool.kept.pop(provision.key, None)
            provision.loading = 0  # those of the old generation end by themselves
            provision.succeeded()
        provision.spec = spec

    def _drop(self, provision: Provision) -> None:
        self._provisions.pop(provision.spec.function_id, None)
        self._pool.kept.pop(provision.key, None)

    # -- starting -------------------------------------------------------------------------------------------------------

    def _pass_soon(self, seconds: float = PASS_SECONDS) -> None:
        if self._closing:
            return
        if self._timer is not None:
            if self._timer.when() <= self._loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._pass)

    def _pass(self) -> None:
        """Start at most one worker of each provision that lacks some, and come back when there is more to do."""
        self._timer = None
        now, next_pass = self._clock(), float("inf")
        for provision in list(self._provisions.values()):
            number = provision.wanted(now)
            if not number:
                self._drop(provision)
                continue
            self._keep(provision, number)
            next_pass = min(next_pass, *(demand.until - now for demand in provision.demands.values()))
            if self._pool.alive(provision.key) + provision.loading >= number:
                continue
            if provision.retry_at > now:
                next_pass = min(next_pass, provision.retry_at - now)
            elif provision.loading < provision.at_once and len(self._tasks) < AT_ONCE:
                self._start(provision)
                next_pass = PASS_SECONDS
        if next_pass < float("inf"):
            self._pass_soon(max(next_pass, PASS_SECONDS))

    def _keep(self, provision: Provision, number: int) -> None:
        self._pool.kept[provision.key] = Kept(number, provision.spec.memory_mb * MEGABYTE, provision.loading)

    def _start(self, provision: Provision) -> None:
        self._change_loading(provision, provision.key, 1)
        task = self._loop.create_task(self._try(provision))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _try(self, provision: Provision) -> None:
        key = provision.key
        try:
            if machine.memory_available_percent() < self._settings.memory_reserve_percent:
                raise NoCapacity("the machine is short of memory")
            await self._load(provision.spec)
        except StaleFunction:
            if provision.key == key:
                self._drop(provision)  # changed by somebody who told the pool first
        except SandboxError as error:
            self._failed(provision, key, f"{error.code}: {error.message}")
        except OSError as error:
            self._failed(provision, key, f"launch_failed: {error.strerror or error}")
        else:
            if provision.key == key:
                provision.succeeded()
        finally:
            self._change_loading(provision, key, -1)
            self._pass_soon()

    def _change_loading(self, provision: Provision, key: tuple[str, int], by: int) -> None:
        if provision.key == key:
            provision.loading += by
            if kept := self._pool.kept.get(key):
                kept.loading = provision.loading

    def _failed(self, provision: Provision, key: tuple[str, int], reason: str) -> None:
        if provision.key == key:
            provision.failed(reason, self._clock())
            _log.warning(
                pairs("a provisioned worker can't be started", function=provision.spec.name, failures=provision.failures, why=reason)
            )

    def _gone(self, sandbox: Sandbox) -> None:
        """A worker went: one that died by itself and before its first call is as good as one that did not load."""
        provision = self._provisions.get(sandbox.key[0])
        if provision is None or provision.key != sandbox.key:
            return
        if sandbox.ended and not sandbox.calls and not sandbox.is_loading:
            self._failed(provision, sandbox.key, "process_exit: the worker ended before its first call")
        self._pass_soon()

    # -- the rest -------------------------------------------------------------------------------------------------------

    def describe(self) -> list[dict[str, Any]]:
        """One row a provision: `allocated` is what is demanded, `available` what waits for a call or runs one now."""
        now = self._clock()
        return [self._row(provision, number) for provision in self._provisions.values() if (number := provision.wanted(now))]

    def _row(self, provision: Provision, number: int) -> dict[str, Any]:
        available = min(number, self._pool.alive(provision.key))
        status = "done" if available >= number else "failed" if provision.failures else "in_progress"
        spec = provision.spec
        return {
            "function_id": spec.function_id,
            "namespace": spec.namespace,
            "function": spec.name,
            "version": spec.version,
            "purposes": sorted(provision.demands),
            "revision": max((self._revisions.get((spec.function_id, purpose), 0) for purpose in provision.demands), default=0),
            "allocated": number,
            "available": available,
            "status": status,
            "reason": provision.reason if status == "failed" else "",
        }

    async def close(self) -> None:
        """Nothing more is started, and what is being loaded is destroyed. A task is not cancelled: it may be just making a sandbox."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        while self._tasks:
            for sandbox in [sandbox for sandbox in self._pool.busy if sandbox.is_loading]:
                self._pool.destroy(sandbox)
            await asyncio.wait(self._tasks, timeout=PASS_SECONDS)
