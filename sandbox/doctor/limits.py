"""Which limits the host's control groups can hold: version, controllers, swap accounting, killing, freezing, the peak of a call."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from sandbox.cgroup import Driver, detect
from sandbox.cgroup.detect import MOUNTINFO, hierarchies
from sandbox.daemon import recovery
from sandbox.doctor.model import Check, judged
from sandbox.errors import ConfigError
from sandbox.kernel import survey
from sandbox.pressure import open_trigger
from sandbox.settings import Settings

GROUP: Final = "control groups"

_WITHOUT: Final = {
    "memory": "no memory limit: one function can take the whole machine, and no call has a memory figure",
    "pids": "no limit of processes: a fork bomb takes the whole machine",
    "cpu": "functions share CPU evenly, whatever their memory",
}


def checks(conf: Settings) -> Iterator[Check]:
    try:
        driver = detect(conf.instance, recovery.cgroup_root(conf))
    except (ConfigError, OSError) as error:
        without = "no function can be limited, no sandbox is made: mount cgroup2 at /sys/fs/cgroup"
        yield judged(GROUP, "control groups", "cgroup v1 or v2", holds=False, found=str(error), without=without)
        return
    v1, v2 = _mounts()
    places = sorted(set(v1.values())) if driver.version == "v1" else [v2]
    yield _version(driver, [place for place in places if not os.access(place, os.W_OK)])
    for name, without in _WITHOUT.items():
        found = "usable" if name in driver.controllers else "not mounted" if driver.version == "v1" else "not enabled here"
        yield judged(GROUP, f"{name} limit", f"controller {name}", holds=name in driver.controllers, found=found, without=without)
    yield _swap(driver, v1.get("memory", ""), v2)
    yield _freezer(driver)
    yield _kill(driver, v2)
    yield _peak(driver, v2)
    yield _pressure()


def _mounts() -> tuple[dict[str, str], str]:
    with open(MOUNTINFO) as file:
        v1, v2 = hierarchies(file.read())
    return v1, v2 or ""


def _version(driver: Driver, read_only: list[str]) -> Check:
    found = f"read-only: {', '.join(read_only)}" if read_only else driver.version
    without = "no function can be limited, no sandbox is made: mount it read-write"
    return judged(GROUP, "control groups", "cgroup v1 or v2", holds=not read_only, found=found, without=without)


def _swap(driver: Driver, memory: str, v2: str) -> Check:
    swap = survey.swap_total_bytes() // 1_000_000
    counted = os.path.exists(f"{memory}/memory.memsw.usage_in_bytes") if driver.version == "v1" else bool(_below(v2, "memory.swap.max"))
    found = f"{'counted' if counted else 'not counted'}, {f'{swap} MB of swap on' if swap else 'no swap on'}"
    without = "a function over its memory is swapped out instead of killed: boot with swapaccount=1, or turn swap off"
    return judged(GROUP, "swap counted as memory", "swap accounting", holds=counted or not swap, found=found, without=without)


def _freezer(driver: Driver) -> Check:
    holds = driver.version == "v2" or "freezer" in driver.controllers
    found = ("cgroup.freeze" if driver.version == "v2" else "usable") if holds else "not mounted"
    without = "threads that a function left behind run on between its calls"
    return judged(GROUP, "idle workers stand still", "freezer", holds=holds, found=found, without=without)


def _kill(driver: Driver, v2: str) -> Check:
    name, needs = "a whole tree killed at once", "cgroup.kill (5.14), or PID 1 of its pid namespace"
    by = "cgroup.kill" if driver.version == "v2" and _below(v2, "cgroup.kill") else "PID 1 of the sandbox"
    return Check(GROUP, name, needs, "ok", f"by {by}")


def _peak(driver: Driver, v2: str) -> Check:
    holds, found = driver.version == "v1" and "memory" in driver.controllers, "memory.max_usage_in_bytes"
    if driver.version == "v2":
        place = _below(v2, "memory.peak")
        # 0644 since 6.12: before that it can't be reset, so it tells of a sandbox's whole life
        holds = bool(place) and bool(os.stat(place).st_mode & 0o200)
        found = "memory.peak" if holds else "memory.peak can't be reset" if place else "no memory.peak"
    without = "a call's memory figure is sampled, a short peak is missed"
    return judged(GROUP, "peak memory of each call", "memory.peak (6.12) or v1", holds=holds, found=found, without=without, required=False)


def _pressure() -> Check:
    try:
        os.close(open_trigger())
        found = ""
    except OSError as error:
        found = error.strerror or str(error)
    needs = "pressure stall information, CONFIG_PSI"
    without = "idle workers go a second later when memory runs short: boot with psi=1"
    return judged(GROUP, "memory pressure is told", needs, holds=not found, found=found or "works", without=without, required=False)


def _below(v2: str, name: str) -> str:
    """Where a file of non-root groups is to be seen: in the first group below the root that has it, else ""."""
    with os.scandir(v2) as entries:
        paths = sorted(f"{entry.path}/{name}" for entry in entries if entry.is_dir(follow_symlinks=False))
    return next((path for path in paths if os.path.exists(path)), "")
