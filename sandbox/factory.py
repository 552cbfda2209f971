"""The two ways to make a sandbox, behind one interface, both for good.

    ZygoteFactory   forks a prepared sandbox from a zygote; it is given its function later (`specialise`)
    ExecFactory     starts an interpreter anew with the function's own environment, complete from the beginning

`Workshop` holds what both need of the host: slots, network namespaces, the launcher, the code store, the system call filters.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from sandbox import environment, plan, states
from sandbox.cgroup import Limits
from sandbox.codestore import CodeStore
from sandbox.errors import LaunchError
from sandbox.image import Resolved
from sandbox.kernel import filesystem
from sandbox.launcherclient import LauncherClient
from sandbox.namespaces import NetworkNamespaces
from sandbox.sandbox import Sandbox
from sandbox.settings import Settings
from sandbox.slots import Slots
from sandbox.spec import FunctionSpec, Network
from sandbox.zygote import Zygote

_log = logging.getLogger(__name__)

GUEST = Path(__file__).parent / "guest"
MEGABYTE = 1024 * 1024


@dataclass(slots=True)
class Workshop:
    """What a factory takes from: each part is owned by the daemon's composition root."""

    settings: Settings
    store: CodeStore
    slots: Slots
    networks: NetworkNamespaces
    launcher: LauncherClient
    loop: asyncio.AbstractEventLoop
    stage: str
    zygote_cgroups: dict[str, int]
    null: int
    filters: dict[str, str]
    resolv_conf: str = ""

    def limits(self, memory_mb: int) -> Limits:
        """The kernel's limits for a function of `memory_mb`; CPU goes with memory, 1280 MB is one core (SCF)."""
        shares = max(2, memory_mb * 1024 // 1280)
        millicores = memory_mb * 1000 // 1280 if self.settings.cpu_hard_cap else 0
        headroom = (memory_mb + self.settings.memory_headroom_mb) * MEGABYTE
        # PID 1 counts too, and one to spare so that the function's own limit is met exactly
        return Limits(headroom, self.settings.limit_processes + 1, shares, millicores)

    def shape(self, uid: int, tmp_mb: int, cgroups: tuple[str, ...]) -> plan.Shape:
        s = self.settings
        return plan.Shape(uid, uid, tmp_mb, s.tmp_inodes, s.shm_mb, s.limit_descriptors, cgroups)

    def new_sandbox(self, resolved: Resolved, tmp_mb: int, network: Network) -> tuple[Sandbox, dict[str, int]]:
        """A Sandbox with its slot, limits not yet set, and the descriptors with which a process joins its cgroup."""
        slot = self.slots.take()
        try:
            joins = slot.cgroup.open_join()
        except OSError:
            self.slots.give_back(slot)
            raise
        shape = self.shape(slot.uid, tmp_mb, tuple(joins))
        try:
            sandbox = Sandbox(
                slot,
                image=resolved.image.name,
                runtime=resolved.runtime,
                network=self.networks.kind(network),
                shape=shape,
                loop=self.loop,
            )
        except OSError:
            for fd in joins.values():
                os.close(fd)
            self.slots.give_back(slot)
            raise
        return sandbox, joins

    async def discard(self, sandbox: Sandbox) -> None:
        """Kill what has never served, and take its slot back."""
        await sandbox.close()
        self.slots.give_back(sandbox.slot)

    def open_code(self, digest: str) -> int:
        """A detached read-only mount of a package; ImageError if it is not there."""
        directory = self.store.open(digest)
        try:
            return filesystem.clone_tree_read_only(directory)
        finally:
            os.close(directory)

    def guest_files(self) -> dict[str, str]:
        """The guest programs as text, by their place below the stage, and the sandboxes' resolv.conf where they have a network."""
        names = {
            "guest/worker.py": "worker.py",
            "guest/zygote.py": "zygote.py",
            "rehearsal/hearth_rehearsal.py": "rehearsal/hearth_rehearsal.py",
        }
        files = {place: (GUEST / name).read_text() for place, name in names.items()}
        return files | ({plan.RESOLV_CONF: self.resolv_conf} if self.resolv_conf else {})


class ZygoteFactory:
    """Prepared sandboxes of one (image, runtime). Starts its zygote at need and replaces a dead or worn one."""

    def __init__(self, workshop: Workshop, resolved: Resolved) -> None:
        self._workshop = workshop
        self.resolved = resolved
        self._zygote: Zygote | None = None
        self._starting = asyncio.Lock()

    async def prepare(self, network: Network) -> Sandbox:
        """A prepared sandbox: complete but for its function, rehearsed; its network is for good. Raises LaunchError, NoCapacity."""
        settings = self._workshop.settings
        sandbox = await self._fork(network, settings.default_memory_mb, settings.default_tmp_mb, {"rehearsal": plan.CODE_DIR}, {})
        sandbox.to(states.PREPARED)
        return sandbox

    async def create(self, spec: FunctionSpec, layers: int | None) -> Sandbox:
        """A specialised sandbox for a call that waits: not rehearsed, its function sent along.

        Raises LaunchError, ImageError, NoCapacity.
        """
        code = self._workshop.open_code(spec.code)
        try:
            fds = {"@code": code} | ({"@layers": layers} if layers is not None else {})
            attach = plan.to_json(plan.attach_plan(layers=layers is not None, tmp_mb=None))
            sandbox = await self._fork(spec.network, spec.memory_mb, spec.tmp_mb, {"rehearsal": None, "attach": attach}, fds)
        finally:
            os.close(code)
        sandbox.to(states.PREPARED)
        sandbox.to(states.SPECIALISING)
        return sandbox

    async def _fork(self, network: Network, memory_mb: int, tmp_mb: int, request: dict[str, object], given: dict[str, int]) -> Sandbox:
        """One sandbox of these sizes; `given` descriptors stay the caller's."""
        zygote = await self._alive_zygote()
        workshop = self._workshop
        fds = {"@net": await workshop.networks.take(network)}
        sandbox: Sandbox | None = None
        try:
            sandbox, joins = workshop.new_sandbox(self.resolved, tmp_mb, network)
            fds.update(joins)
            sandbox.slot.cgroup.set_limits(workshop.limits(memory_mb))
            request = {**request, **_plans(sandbox.shape)}
            if "attach" in request:
                request["drop"] = plan.to_json(plan.drop_plan(sandbox.shape))
            zygote.fork(request, {**sandbox.child_descriptors(), **fds, **given})
        except (OSError, LaunchError) as error:
            if sandbox is not None:
                await workshop.discard(sandbox)
            if isinstance(error, LaunchError):
                raise
            raise LaunchError("sandbox", "create", error.errno or 0, str(error.filename or "")) from error
        finally:
            for fd in fds.values():
                os.close(fd)
        sandbox.close_child_descriptors()
        try:
            await sandbox.ready(workshop.settings.ready_timeout_seconds)
        except LaunchError:
            await workshop.discard(sandbox)
            raise
        return sandbox

    async def specialise(self, sandbox: Sandbox, spec: FunctionSpec, layers: int | None) -> None:
        """Attach the function's code and take the last privilege. `layers` is a detached mount for /opt, the caller's. Raises
        LaunchError, ImageError."""
        sandbox.to(states.SPECIALISING)
        code = self._workshop.open_code(spec.code)
        fds = {"@code": code} | ({"@layers": layers} if layers is not None else {})
        tmp_mb = spec.tmp_mb if spec.tmp_mb != sandbox.shape.tmp_mb else None
        try:
            specialised = sandbox.specialise(plan.attach_plan(layers=layers is not None, tmp_mb=tmp_mb), fds)
            task = self._workshop.loop.create_task(specialised)
            await asyncio.sleep(0)  # the message is on its way: set the limits while PID 1 works
            if spec.memory_mb != self._workshop.settings.default_memory_mb:
                sandbox.slot.cgroup.set_limits(self._workshop.limits(spec.memory_mb))
            await task
        finally:
            os.close(code)

    def close(self) -> None:
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None

    @property
    def zygote(self) -> Zygote | None:
        return self._zygote

    async def _alive_zygote(self) -> Zygote:
        async with self._starting:
            zygote = self._zygote
            if zygote is not None and zygote.alive and zygote.forks < self._workshop.settings.zygote_max_forks:
                return zygote
            self.close()
            # two of them: it imports what every sandbox then has
            fresh = Zygote(self._workshop.loop, 2 * self._workshop.settings.ready_timeout_seconds)
            await fresh.start(
                self._workshop.launcher,
                *self._start_request(),
                preloads=list(self.resolved.image.preloads.get(self.resolved.runtime, ())),
                filters=self._workshop.filters,
            )
            _log.info("zygote %s/%s is pid %d, python %s", self.resolved.image.name, self.resolved.runtime, fresh.pid, fresh.python)
            self._zygote = fresh
            return fresh

    def _start_request(self) -> tuple[dict[str, object], dict[str, int]]:
        workshop = self._workshop
        cgroups = workshop.zygote_cgroups
        steps = plan.zygote_plan(str(self.resolved.image.root), workshop.stage, workshop.guest_files(), tuple(cgroups))
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("plan of a zygote:\n%s", plan.describe(steps))
        argv = [self.resolved.interpreter, "-s", f"{plan.GUEST_DIR}/zygote.py"]
        locale = environment.locale_of(self.resolved.image.root)
        request: dict[str, object] = {"plan": plan.to_json(steps), "argv": argv, "environment": environment.for_exec(locale)}
        return request, {"@null": workshop.null, **cgroups}


def _plans(shape: plan.Shape) -> dict[str, object]:
    """What a zygote is told of every sandbox."""
    stages = {"enter": plan.enter_plan, "mounts": plan.mounts_plan, "worker": plan.worker_plan, "map": plan.map_plan}
    return {stage: plan.to_json(made(shape)) for stage, made in stages.items()}


class ExecFactory:
    """Complete sandboxes from a fresh interpreter: for functions whose environment the loader or the interpreter must see at exec."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    async def create(self, resolved: Resolved, spec: FunctionSpec, layers: int | None) -> Sandbox:
        """A specialised sandbox of `spec`, its worker starting. Raises LaunchError, ImageError, NoCapacity."""
        workshop = self._workshop
        fds = {"@net": await workshop.networks.take(spec.network)}
        sandbox: Sandbox | None = None
        try:
            fds["@code"] = workshop.open_code(spec.code)
            sandbox, joins = workshop.new_sandbox(resolved, spec.tmp_mb, spec.network)
            fds.update(joins)
            sandbox.slot.cgroup.set_limits(workshop.limits(spec.memory_mb))
            given = {"@null": workshop.null, **sandbox.child_descriptors(), **fds}
            if layers is not None:
                given["@layers"] = layers
            workshop.launcher.request({"op": "exec", **self._request(resolved, spec, sandbox, layers is not None)}, given)
        except (OSError, LaunchError) as error:
            if sandbox is not None:
                await workshop.discard(sandbox)
            if isinstance(error, LaunchError):
                raise
            raise LaunchError("sandbox", "create", error.errno or 0, str(error.filename or "")) from error
        finally:
            for fd in fds.values():
                os.close(fd)
        sandbox.close_child_descriptors()
        try:
            await sandbox.ready(workshop.settings.ready_timeout_seconds)
        except LaunchError:
            await workshop.discard(sandbox)
            raise
        sandbox.to(states.PREPARED)
        sandbox.to(states.SPECIALISING)
        return sandbox

    def _request(self, resolved: Resolved, spec: FunctionSpec, sandbox: Sandbox, layers: bool) -> dict[str, object]:
        shape = sandbox.shape
        root = plan.root_steps(str(resolved.image.root), self._workshop.stage, self._workshop.guest_files())
        steps = plan.exec_plan(shape, root, layers=layers)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("plan of %s for %s:\n%s", sandbox.id, spec.name, plan.describe(steps))
        return {
            "init": plan.to_json(steps),
            "worker": plan.to_json(plan.worker_plan(shape)),
            "map": plan.to_json(plan.map_plan(shape)),
            "drop": plan.to_json(plan.drop_plan(shape)),
            "filters": self._workshop.filters,
            "argv": [resolved.interpreter, "-s", f"{plan.GUEST_DIR}/worker.py", "3"],
            "environment": environment.for_exec(environment.locale_of(resolved.image.root), spec),
            "directory": plan.CODE_DIR,
        }
