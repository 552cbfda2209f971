"""Many sandboxes: prepared ones waiting for a function, warm ones waiting for a call, and the making of new ones.

    acquire(spec):  warm idle worker of this generation (last used first)
                    ─ else a prepared sandbox of its image and runtime, specialised
                    ─ else one forked now (or exec'd, where the environment asks for it)
    release:        kept → idle, later frozen, later gone; otherwise destroyed

One owner: every Sandbox is in exactly one of `prepared`, `idle`, `busy` or on its way out. Prepared ones are replaced in the
background, a moment after the last call came, so that the making does not take the CPU from the call that took the last one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from sandbox import environment, keepalive, states
from sandbox.errors import SandboxError, StaleFunction
from sandbox.factory import ExecFactory, Workshop, ZygoteFactory
from sandbox.image import Image, Resolved, load_images, resolve
from sandbox.kernel import machine
from sandbox.sandbox import Sandbox
from sandbox.spec import FunctionSpec, Network

_log = logging.getLogger(__name__)

REFILL_DELAY_SECONDS = 0.02
HOUSEKEEPING_SECONDS = 0.1
SLOTS_READY = 8
PRESSURE_SECONDS = 1.0
EVICTED_AT_ONCE = 4
DELETED = 1 << 62

Key = tuple[str, int]
FactoryKey = tuple[str, str]
PreparedKey = tuple[str, str, Network]


@dataclass(slots=True)
class Kept:
    """What is provisioned of one generation of a function: `number` workers, of which `loading` are being made."""

    number: int
    memory_bytes: int
    loading: int = 0


class SandboxPool:
    """Runs on sandboxd's loop."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._settings = workshop.settings
        self.images: dict[str, Image] = {}
        self._images_changed = 0
        self._locales: dict[str, str] = {}
        self._exec = ExecFactory(workshop)
        self.factories: dict[FactoryKey, ZygoteFactory] = {}
        #: Prepared ones have their network already: some of each kind that a function has asked for are kept.
        self.prepared: dict[PreparedKey, deque[Sandbox]] = defaultdict(deque)
        self._creating: dict[PreparedKey, int] = defaultdict(int)
        self._kinds: set[Network] = {workshop.networks.kind("nat")}
        self._waited_for = 0  # sandboxes being made that a call waits for
        self.idle: dict[Key, list[Sandbox]] = {}
        self.busy: set[Sandbox] = set()
        #: Provisioned workers by key: so many idle ones neither expire nor give way to memory pressure before others do.
        self.kept: dict[Key, Kept] = {}
        #: Called with each worker that goes, whatever the reason.
        self.on_gone: Callable[[Sandbox], None] = lambda _: None
        self._generations: dict[str, int] = {}
        self._deleted: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._last_acquire = 0.0
        self._refill_timer: asyncio.TimerHandle | None = None
        self.closing = False
        self.tmp_total_bytes = 0
        self.counters = {"cold": 0, "warm": 0, "created": 0, "destroyed": 0, "evicted": 0, "launch_failures": 0, "exec": 0}

    # -- generations ----------------------------------------------------------------------------------------------------

    def check_generation(self, spec: FunctionSpec) -> None:
        """Raises StaleFunction for an older generation or a deleted function; a newer one retires the workers of the old."""
        known = self._generations.get(spec.function_id, -1)
        if spec.generation < known or spec.family in self._deleted:
            raise StaleFunction(f"function {spec.name!r} has changed since", hint="look it up again")
        if spec.generation > known:
            self.retire(spec.function_id, spec.generation)

    def retire(self, function_id: str, generation: int | None) -> None:
        """Workers below `generation` (None: all and those of its versions, the function is deleted) go: idle ones now, busy ones after
        their call."""
        self._generations[function_id] = DELETED if generation is None else max(generation, self._generations.get(function_id, -1))
        if generation is None:
            self._deleted.add(function_id)
        for key in [key for key, waiting in self.idle.items() if self._is_retired(waiting[0])]:
            for sandbox in self.idle.pop(key):
                self.destroy(sandbox)

    def _is_retired(self, sandbox: Sandbox) -> bool:
        function_id, generation = sandbox.key
        return generation < self._generations.get(function_id, -1) or sandbox.family in self._deleted

    # -- acquiring ------------------------------------------------------------------------------------------------------

    def take_warm(self, spec: FunctionSpec) -> Sandbox | None:
        """The worker used last, thawed; None if there is none idle."""
        key = (spec.function_id, spec.generation)
        waiting = self.idle.get(key)
        while waiting:
            sandbox = waiting.pop()
            if not waiting:
                del self.idle[key]
            if sandbox.ended or not sandbox.silent:
                self.destroy(sandbox)
                continue
            try:
                sandbox.thaw()
            except OSError:
                self.destroy(sandbox)  # it is nobody's any more
                raise
            sandbox.to(states.LEASED)
            self.busy.add(sandbox)
            self.counters["warm"] += 1
            return sandbox
        return None

    async def make_cold(self, spec: FunctionSpec, layers: int | None) -> Sandbox:
        """A specialised sandbox for `spec`. Raises RuntimeNotFound, LaunchError, ImageError, NoCapacity."""
        resolved = self.resolve(spec.runtime)
        self._last_acquire = self._workshop.loop.time()
        self._waited_for += 1
        try:
            sandbox = await self._make(resolved, spec, layers)
        finally:
            self._waited_for -= 1
        sandbox.key = (spec.function_id, spec.generation)
        sandbox.family, sandbox.namespace, sandbox.name, sandbox.version = spec.family, spec.namespace, spec.name, spec.version
        sandbox.on_end = None
        sandbox.to(states.LEASED)
        self.busy.add(sandbox)
        self.counters["cold"] += 1
        return sandbox

    async def _make(self, resolved: Resolved, spec: FunctionSpec, layers: int | None) -> Sandbox:
        if spec.needs_exec:
            sandbox = await self._exec.create(resolved, spec, layers)
            self.counters["exec"] += 1
            self.counters["created"] += 1
        else:
            factory = self.factory(resolved)
            prepared = self._take_prepared(factory, spec.network)
            self._refill_soon()
            if prepared is None:
                sandbox = await self._counted(factory.create(spec, layers))
            else:
                sandbox = prepared
                try:
                    await factory.specialise(sandbox, spec, layers)
                except (SandboxError, OSError):
                    self.counters["launch_failures"] += 1
                    self.destroy(sandbox)
                    raise
        return sandbox

    def resolve(self, runtime: str) -> Resolved:
        """The image and interpreter for a runtime; images that came, went or changed since are seen. Raises RuntimeNotFound."""
        s = self._settings
        self._look_for_images()
        return resolve(self.images, runtime, default_image=s.default_image, strict=s.strict_runtimes)

    def locale(self, image: str) -> str:
        """The UTF-8 locale of an image by name, looked up once."""
        if image not in self._locales:
            known = self.images.get(image)
            self._locales[image] = environment.locale_of(known.root) if known else "C.UTF-8"
        return self._locales[image]

    def _look_for_images(self) -> None:
        try:
            changed = os.stat(self._settings.images_dir).st_mtime_ns  # an image is renamed into place: the directory changes
        except FileNotFoundError:
            changed = -1
        if changed != self._images_changed:
            self._images_changed = changed
            self.images = load_images(self._settings.images_dir)
            self._locales.clear()
            for key in [key for key, factory in self.factories.items() if self.images.get(key[0]) != factory.resolved.image]:
                self._retire(key)

    def _retire(self, key: FactoryKey) -> None:
        """The image was replaced or removed: nothing new is made from the old one, and what waits for a function goes."""
        self.factories.pop(key).close()
        for kind in self._kinds:
            for sandbox in self.prepared.pop((*key, kind), ()):
                self.destroy(sandbox)

    def factory(self, resolved: Resolved) -> ZygoteFactory:
        key = (resolved.image.name, resolved.runtime)
        factory = self.factories.get(key)
        if factory is None or factory.resolved != resolved:
            if factory is not None:
                self._retire(key)
            factory = self.factories[key] = ZygoteFactory(self._workshop, resolved)
        return factory

    def _take_prepared(self, factory: ZygoteFactory, network: Network) -> Sandbox | None:
        kind = self._workshop.networks.kind(network)
        self._kinds.add(kind)
        waiting = self.prepared[(factory.resolved.image.name, factory.resolved.runtime, kind)]
        while waiting:
            sandbox = waiting.popleft()
            if not sandbox.ended:
                return sandbox
            self.destroy(sandbox)
        return None

    async def _counted(self, making: Coroutine[Any, Any, Sandbox]) -> Sandbox:
        try:
            sandbox = await making
        except SandboxError:
            self.counters["launch_failures"] += 1
            raise
        self.counters["created"] += 1
        return sandbox

    # -- giving back ----------------------------------------------------------------------------------------------------

    def give_back(self, sandbox: Sandbox) -> None:
        """After a call that left it sound: idle, or destroyed where its generation has gone meanwhile."""
        self.busy.discard(sandbox)
        if self.closing or sandbox.ended or self._is_retired(sandbox):
            self.destroy(sandbox)
            return
        sandbox.to(states.IDLE)
        sandbox.idle_since = time.monotonic()
        self.idle.setdefault(sandbox.key, []).append(sandbox)

    def destroy(self, sandbox: Sandbox) -> asyncio.Task[bool]:
        """Kill and recycle in the background; the task's result tells whether the tree is dead."""
        self.busy.discard(sandbox)
        if sandbox.state not in (states.CLOSING, states.CLOSED):
            self.counters["destroyed"] += 1
            self._spawn(self._recycle(sandbox))
            self.on_gone(sandbox)
        return sandbox.close()

    async def _recycle(self, sandbox: Sandbox) -> None:
        if await sandbox.close():
            await asyncio.to_thread(self._workshop.slots.empty, sandbox.slot)  # milliseconds, of which a call that waits must not know
            self._workshop.slots.give_back(sandbox.slot)
        else:
            _log.error("slot %d is given up: its processes do not die", sandbox.slot.index)

    # -- background -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._spawn(self._housekeeping())
        self._refill_soon()

    def warm_up(self, runtime: str) -> None:
        """Have prepared sandboxes of this runtime from now on."""
        self.factory(self.resolve(runtime))
        self._refill_soon()

    def _refill_soon(self) -> None:
        if self._refill_timer is None and not self.closing:
            self._refill_timer = self._workshop.loop.call_later(REFILL_DELAY_SECONDS, self._refill)

    def _refill(self) -> None:
        self._refill_timer = None
        if self.closing:
            return
        if self._waited_for or self._workshop.loop.time() - self._last_acquire < REFILL_DELAY_SECONDS:
            self._refill_soon()
            return
        for name, factory in self.factories.items():
            for kind in self._kinds:
                key = (*name, kind)
                if len(self.prepared[key]) + self._creating[key] < self._settings.prepared and self._creating[key] < 2:
                    self._creating[key] += 1
                    self._spawn(self._prepare(key, factory))

    async def _prepare(self, key: PreparedKey, factory: ZygoteFactory) -> None:
        image, runtime, kind = key
        try:
            sandbox = await self._counted(factory.prepare(kind))
        except SandboxError as error:
            _log.error("cannot prepare a sandbox of %s/%s: %s", image, runtime, error)
            await asyncio.sleep(1.0)
        else:
            if self.closing or self.factories.get((image, runtime)) is not factory:
                self.destroy(sandbox)
            else:
                sandbox.on_end = self._prepared_ended
                self.prepared[key].append(sandbox)
        finally:
            self._creating[key] -= 1
        self._refill_soon()

    def _prepared_ended(self, sandbox: Sandbox) -> None:
        for waiting in self.prepared.values():
            if sandbox in waiting:
                waiting.remove(sandbox)
        _log.warning("prepared sandbox %s ended by itself, status %s", sandbox.id, sandbox.exit_status)
        self.destroy(sandbox)
        self._refill_soon()

    async def _housekeeping(self) -> None:
        next_pressure, healthy = 0.0, True
        while not self.closing:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            now = time.monotonic()
            try:
                self._keep_house(now)
                if now >= next_pressure:
                    next_pressure = now + PRESSURE_SECONDS
                    self._relieve_pressure()
                healthy = True
            except OSError as error:  # out of descriptors, say: the next round may find some
                if healthy:
                    _log.error("housekeeping: %s", error)
                healthy = False

    def _keep_house(self, now: float) -> None:
        for sandbox in keepalive.expired(self._dispensable(), now=now, keep_alive_seconds=self._settings.keep_alive_seconds):
            self._evict(sandbox)
        for sandbox in list(self.idle_workers()):
            if sandbox.ended:
                self._evict(sandbox)
            elif sandbox.state == states.IDLE and now - sandbox.idle_since >= self._settings.freeze_after_seconds:
                sandbox.freeze()
                sandbox.measure()
        self.tmp_total_bytes = self.tmp_bytes()
        if self._workshop.loop.time() - self._last_acquire > HOUSEKEEPING_SECONDS:
            self._workshop.slots.stock_up(SLOTS_READY)

    def _relieve_pressure(self) -> None:
        self._look_for_images()
        available = machine.memory_available_percent()
        if available < self._settings.memory_reserve_percent:
            self.evict(EVICTED_AT_ONCE, provisioned_too=available < self._settings.memory_floor_percent)

    def memory_stalls(self) -> None:
        """Tasks of this machine wait for memory. That may be one function alone, at its own limit: then others' workers need not go."""
        if machine.memory_available_percent() < 2 * self._settings.memory_reserve_percent:
            self.evict(EVICTED_AT_ONCE)

    def evict(self, count: int, *, provisioned_too: bool = False) -> int:
        """Destroy the idle workers used longest ago, provisioned ones only where there is no other; how many went."""
        chosen = keepalive.least_valuable(self._dispensable(), count)
        if not chosen and provisioned_too:
            chosen = keepalive.least_valuable(self.idle_workers(), count)
        for sandbox in chosen:
            self._evict(sandbox)
        return len(chosen)

    def _evict(self, sandbox: Sandbox) -> None:
        waiting = self.idle[sandbox.key]
        waiting.remove(sandbox)
        if not waiting:
            del self.idle[sandbox.key]
        self.counters["evicted"] += 1
        self.destroy(sandbox)

    def _dispensable(self) -> list[Sandbox]:
        return keepalive.dispensable(self.idle, {key: kept.number for key, kept in self.kept.items()})

    def alive(self, key: Key) -> int:
        """Workers of one generation of a function that wait for a call or run one; those that are loaded ahead not yet."""
        return len(self.idle.get(key, ())) + sum(sandbox.key == key and not sandbox.is_loading for sandbox in self.busy)

    def aside_bytes(self, taker: FunctionSpec | None = None) -> int:
        """Own limits of the provisioned workers that run no call, but for the one that a call of `taker` is about to get."""
        taken = (taker.function_id, taker.generation) if taker else None
        total = 0
        for key, kept in self.kept.items():
            idle = len(self.idle.get(key, ()))
            waiting = idle - 1 if key == taken and idle else idle
            total += min(waiting + kept.loading, kept.number) * kept.memory_bytes
        return total

    def idle_workers(self) -> Iterator[Sandbox]:
        for waiting in self.idle.values():
            yield from waiting

    def everything(self) -> Iterator[Sandbox]:
        for waiting in self.prepared.values():
            yield from waiting
        yield from self.idle_workers()
        yield from self.busy

    def tmp_bytes(self) -> int:
        return sum(sandbox.tmp_bytes for sandbox in (*self.idle_workers(), *self.busy))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self._workshop.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background work failed", exc_info=error)

    async def close(self) -> None:
        """Destroy everything and wait until it is gone."""
        self.closing = True
        for factory in self.factories.values():
            factory.close()
        for sandbox in list(self.everything()):
            self.destroy(sandbox)
        self.prepared.clear()
        self.idle.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)
