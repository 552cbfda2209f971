"""`python -m sandbox.daemon --launcher-fd N`: sandboxd's composition root. Started by the launcher, never by hand.

SIGTERM and SIGINT close every sandbox, then the process ends; end of file from the launcher ends it the same way.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import click
import uvloop

from sandbox import log, notify, seccomp, settings
from sandbox.cgroup import Cgroup, Driver, detect
from sandbox.cgroup.governor import Governor
from sandbox.codestore import CodeStore
from sandbox.credentials import Credentials
from sandbox.daemon import recovery
from sandbox.daemon.leases import Leases
from sandbox.daemon.listener import Listener
from sandbox.daemon.loading import Loader
from sandbox.daemon.provisioner import Provisioner
from sandbox.errors import ConfigError, RuntimeNotFound, SandboxError
from sandbox.factory import MEGABYTE, Workshop
from sandbox.gate import Gate
from sandbox.kernel import machine, process
from sandbox.launcherclient import LauncherClient
from sandbox.layers import Layers
from sandbox.namespaces import NetworkNamespaces
from sandbox.network.nat import Nat
from sandbox.pool import SandboxPool
from sandbox.pressure import MemoryPressure, open_trigger
from sandbox.settings import Settings
from sandbox.slots import Slots

_log = logging.getLogger(__name__)

#: Calls and sandboxes leave few cycles behind; looking for them at Python's own rate costs some per cent of every call.
GC_THRESHOLD = (20_000, 20, 50)
BACKGROUND_THREADS = 2


def capacity_bytes(conf: Settings) -> int:
    return conf.capacity_mb * MEGABYTE or machine.memory_total_bytes() * 9 // 10


PROMISED = frozenset({"memory", "pids"})


def check_limits(driver: Driver) -> None:
    """Raises ConfigError where a limit that every function has can't be held; tells what else is weaker."""
    if lacking := sorted(PROMISED & driver.missing):
        raise ConfigError(
            f"no {' and no '.join(lacking)} control group", hint="functions would have no such limit; `hearth doctor` says more"
        )
    if driver.missing:
        _log.warning("control groups lack %s; `hearth doctor` says what is weaker", ", ".join(sorted(driver.missing)))


def first_cgroup(driver: Driver) -> Cgroup:
    """The zygotes' cgroup, which shows whether any can be made. Raises ConfigError."""
    try:
        return driver.create("zygotes")
    except OSError as error:
        with suppress(OSError):
            driver.sweep()  # what could be made in other hierarchies
        hint = "mount the control groups read-write for this service"
        if error.errno == errno.EBUSY:  # cgroup-v2.rst, "No Internal Process Constraint"
            hint = "it has processes, so none can be below: run as a service with Delegate=yes, or name another in HEARTH_CGROUP_ROOT"
        raise ConfigError(f"cannot make control group {error.filename}: {error.strerror}", hint=hint) from error


def memory_pressure(loop: asyncio.AbstractEventLoop, pool: SandboxPool) -> MemoryPressure | None:
    try:
        return MemoryPressure(loop, pool.memory_stalls, open_trigger())
    except OSError as error:
        _log.info("no memory pressure to listen to: %s", error.strerror)
        return None


class Daemon:
    """Everything sandboxd is made of, constructed once."""

    def __init__(self, conf: Settings, filters: seccomp.Filters) -> None:
        self._conf = conf
        self._filters = seccomp.to_json(filters)
        self._stop = asyncio.Event()

    async def run(self, launcher_fd: int, driver: Driver) -> None:
        conf, loop = self._conf, asyncio.get_running_loop()
        # asyncio.to_thread empties slots, which is the kernel's work: more threads than this only wait for one another.
        loop.set_default_executor(ThreadPoolExecutor(BACKGROUND_THREADS, "background"))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as stack:
            zygotes = first_cgroup(driver)
            stack.callback(driver.close)
            stack.callback(zygotes.remove)
            joins = zygotes.open_join()
            for fd in joins.values():
                stack.callback(os.close, fd)
            slots = Slots(driver, conf.first_uid)
            stack.callback(slots.close)
            thread = stack.enter_context(ThreadPoolExecutor(1, "netns"))
            nat, why_not = await self._nat(stack, thread)
            networks = NetworkNamespaces(thread, conf.prepared + 4, nat)
            networks.start()
            stack.callback(networks.stop)
            governor = Governor()
            governor.start()
            stack.callback(governor.stop)
            launcher = LauncherClient(launcher_fd, loop, self._stop.set)
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, null)
            stage = Path(conf.run) / "stage"
            stage.mkdir(exist_ok=True)
            stack.callback(stage.rmdir)
            resolv_conf = nat.resolv_conf if nat else ""
            store = CodeStore(conf)
            workshop = Workshop(conf, store, slots, networks, launcher, loop, str(stage), joins, null, self._filters, resolv_conf)
            pool = SandboxPool(workshop)
            stack.push_async_callback(pool.close)
            gate = Gate(capacity_bytes(conf))
            leases = Leases(conf, pool, gate, governor, Layers(store), Credentials(nat.addresses if nat else {}))
            loader = Loader(conf, pool, leases)
            stack.callback(loader.close)
            provisioner = Provisioner(conf, pool, loader.load)
            stack.push_async_callback(provisioner.close)

            def describe() -> dict[str, Any]:
                return self._describe(pool, gate, leases, nat.describe() if nat else {"reason": why_not})

            listener = Listener(conf, pool, leases, provisioner, describe, nat.endpoints if nat else {})
            stack.push_async_callback(listener.close)
            pool.start()
            if (pressure := memory_pressure(loop, pool)) is not None:
                stack.callback(pressure.close)
            self._warm_up(pool)
            listener.start()
            _log.info("ready: instance %s, cgroup %s, %d images", conf.instance, driver.version, len(pool.images))
            # What is there now stays: collections look only at what comes and goes with calls and sandboxes.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLD)
            self._say_ready()
            watchdog = loop.create_task(self._beat(notify.watchdog_seconds()))
            stack.callback(watchdog.cancel)
            await self._stop.wait()
            _log.info("stopping")
            notify.notify("STOPPING=1")

    async def _nat(self, stack: AsyncExitStack, thread: ThreadPoolExecutor) -> tuple[Nat | None, str]:
        """The network `nat`, or why there is none: functions that ask for it then get the loopback alone, and this host says so."""
        if not self._conf.nat:
            return None, "switched off: HEARTH_NAT"
        nat, loop = Nat(self._conf), asyncio.get_running_loop()
        try:
            await loop.run_in_executor(thread, nat.start)
        except OSError as error:
            why = error.strerror or str(error)
            _log.error("NO NETWORK: functions that ask for nat get the loopback only, since %s; see hearth doctor", why)
            return None, why
        stack.push_async_callback(loop.run_in_executor, thread, nat.stop)
        return nat, ""

    def _warm_up(self, pool: SandboxPool) -> None:
        try:
            pool.warm_up("python3")
        except RuntimeNotFound as error:
            _log.warning("no default runtime: %s (%s)", error.message, error.hint)

    def _say_ready(self) -> None:
        if fd := os.environ.get("HEARTH_READY_FD"):
            os.write(int(fd), b"ready\n")

        notify.notify("READY=1")

    async def _beat(self, every_seconds: float) -> None:
        """systemd restarts us when this loop stands still."""
        while every_seconds:
            notify.notify("WATCHDOG=1")
            await asyncio.sleep(every_seconds)

    def _describe(self, pool: SandboxPool, gate: Gate, leases: Leases, nat: dict[str, Any]) -> dict[str, Any]:
        return {
            "nat": {"works": "reason" not in nat, **nat},
            "images": [
                {
                    "name": image.name,
                    "source": image.source,
                    "sha256": image.sha256,
                    "release": image.release,
                    "created_at": image.created_at,
                    "runtimes": image.runtimes,
                    "versions": image.versions,
                    "size_bytes": image.size_bytes,
                }
                for image in pool.images.values()
            ],
            "capacity": {
                "capacity_bytes": gate.capacity_bytes,
                "running_bytes": gate.running_bytes,
                "tmp_bytes": pool.tmp_bytes(),
                "aside_bytes": pool.aside_bytes(),
                "running": len(leases.active),
                "available_percent": round(machine.memory_available_percent(), 1),
            },
            "counters": {**pool.counters, "throttled": gate.throttled, "refused": gate.refused, "descriptors": machine.descriptor_count()},
            "zygotes": [
                {"image": image, "runtime": runtime, "pid": factory.zygote.pid, "forks": factory.zygote.forks}
                for (image, runtime), factory in pool.factories.items()
                if factory.zygote is not None and factory.zygote.alive
            ],
        }


@click.command()
@click.option("--launcher-fd", type=int, required=True)
@click.option("--debug", is_flag=True, help="Print every plan before it runs.")
def main(launcher_fd: int, debug: bool) -> None:
    os.set_inheritable(launcher_fd, False)
    try:
        conf = settings.load()
        log.configure("sandboxd", "DEBUG" if debug else conf.log_level)
        process.set_title("hearth-sandboxd")
        machine.raise_own_descriptor_limit()
        filters = seccomp.compile_filters()  # before anything is made: without them nothing may start
        lock = recovery.lock(conf)  # held by its descriptor until this process ends
        driver = detect(conf.instance, conf.cgroup_root)
        check_limits(driver)
        recovery.sweep(conf, driver, lock)
        uvloop.run(Daemon(conf, filters).run(launcher_fd, driver))
    except SandboxError as error:
        sys.exit(f"sandboxd: {error.message}" + (f" ({error.hint})" if error.hint else ""))


if __name__ == "__main__":
    main()
