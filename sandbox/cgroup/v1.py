"""Control groups version 1 (Documentation/admin-guide/cgroup-v1): one directory for each controller's hierarchy."""

from __future__ import annotations

import errno
import os
from typing import ClassVar

from sandbox.cgroup import files
from sandbox.cgroup.model import Limits


class V1Cgroup:
    """One sandbox's directories, by controller."""

    def __init__(self, name: str, paths: dict[str, str]) -> None:
        self.name = name
        self._paths = paths
        memory = paths.get("memory", "")
        self._usage = f"{memory}/memory.usage_in_bytes" if memory else ""
        self._limit = f"{memory}/memory.limit_in_bytes"
        self._swap_limit = f"{memory}/memory.memsw.limit_in_bytes"
        self._has_swap_limit = bool(memory) and os.path.exists(self._swap_limit)
        self._procs = f"{memory or next(iter(paths.values()))}/cgroup.procs"

    def open_join(self) -> dict[str, int]:
        return files.open_all({f"@{name}": f"{path}/tasks" for name, path in self._paths.items()})

    def set_limits(self, limits: Limits) -> None:
        if "memory" in self._paths:
            self.set_memory_limit(limits.memory_bytes)
        if "pids" in self._paths:
            files.write(f"{self._paths['pids']}/pids.max", limits.processes)
        if "cpu" in self._paths:
            files.write(f"{self._paths['cpu']}/cpu.shares", max(2, limits.cpu_shares))
            quota = limits.cpu_millicores * 100 if limits.cpu_millicores else -1
            files.write(f"{self._paths['cpu']}/cpu.cfs_quota_us", quota)

    def set_memory_limit(self, size_bytes: int) -> None:
        if not self._usage:
            return
        # memsw may never be below the plain limit: raise it first, lower it last
        order = [self._limit, self._swap_limit]
        if not self._has_swap_limit:
            order = [self._limit]
        elif size_bytes > files.read_int(self._limit):
            order.reverse()
        for path in order:
            files.write(path, size_bytes)

    def memory_usage(self) -> int:
        return files.read_int(self._usage) if self._usage else 0

    def file_cache(self) -> int:
        if not self._usage:
            return 0
        stat = files.read(f"{self._paths['memory']}/memory.stat")
        return max(0, files.keyed(stat, "total_cache") - files.keyed(stat, "total_shmem"))

    def open_peak(self) -> int:
        if not self._usage:
            return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        fd = os.open(f"{self._paths['memory']}/memory.max_usage_in_bytes", os.O_RDWR | os.O_CLOEXEC)
        self.reset_peak(fd)
        return fd

    def reset_peak(self, fd: int) -> None:
        os.write(fd, b"0")  # the mark is then what is used now

    def read_peak(self, fd: int) -> int:
        return int(os.pread(fd, 32, 0) or 0)

    @property
    def knows_peak(self) -> bool:
        return bool(self._usage)

    def oom_kills(self) -> int:
        return files.keyed(files.read(f"{self._paths['memory']}/memory.oom_control"), "oom_kill") if self._usage else 0

    def freeze(self) -> None:
        if "freezer" in self._paths:
            files.write(f"{self._paths['freezer']}/freezer.state", "FROZEN")

    def thaw(self) -> None:
        if "freezer" in self._paths:
            files.write(f"{self._paths['freezer']}/freezer.state", "THAWED")

    def empty(self) -> bool:
        try:
            return not files.read(self._procs)
        except FileNotFoundError:
            return True

    def kill(self) -> bool:
        return False

    def force_empty(self) -> None:
        if self._usage:
            try:
                files.write(f"{self._paths['memory']}/memory.force_empty", 0)
            except OSError as error:
                if error.errno != errno.EBUSY:  # a dying process is still counted; its pages are anonymous and go with it
                    raise

    def remove(self) -> None:
        self.force_empty()
        for path in self._paths.values():
            files.remove_directory(path)


class V1Driver:
    """Our directory `hearth-<instance>` in each hierarchy that is mounted and wanted."""

    WANTED: ClassVar[frozenset[str]] = frozenset({"memory", "pids", "cpu", "freezer"})
    version = "v1"

    def __init__(self, mounts: dict[str, str], instance: str, root: str = "") -> None:
        self.root = root.strip("/")
        parent = f"{self.root}/hearth-{instance}" if self.root else f"hearth-{instance}"
        self._parents = {name: f"{mount}/{parent}" for name, mount in mounts.items()}
        self.controllers = frozenset(mounts)
        self.missing = self.WANTED - self.controllers

    def create(self, name: str) -> V1Cgroup:
        paths = {controller: f"{parent}/{name}" for controller, parent in self._parents.items()}
        for path in paths.values():
            os.makedirs(path, exist_ok=True)
        return V1Cgroup(name, paths)

    def leftovers(self) -> list[str]:
        return [path for parent in self._parents.values() if os.path.isdir(parent) for path in (*files.children(parent), parent)]

    def thaw(self) -> None:
        if "freezer" in self._parents:
            for path in files.children(self._parents["freezer"]):
                files.write(f"{path}/freezer.state", "THAWED")

    def sweep(self) -> int:
        self.thaw()  # first: a frozen task does not die
        found = self.leftovers()
        for path in found:
            files.kill_processes(path)
        for path in found:
            if os.path.exists(f"{path}/memory.force_empty"):
                V1Cgroup("leftover", {"memory": path}).force_empty()
            files.remove_directory(path)
        return len(found)

    def close(self) -> None:
        for parent in self._parents.values():
            files.remove_directory(parent)
