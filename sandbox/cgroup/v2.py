"""Control groups version 2 (Documentation/admin-guide/cgroup-v2): one tree, controllers enabled downwards."""

from __future__ import annotations

import errno
import os
from typing import ClassVar

from sandbox.cgroup import files
from sandbox.cgroup.model import Limits


class V2Cgroup:
    """One sandbox's directory."""

    def __init__(self, path: str, controllers: frozenset[str]) -> None:
        self.name = os.path.basename(path)
        self._path = path
        self._controllers = controllers

    def open_join(self) -> dict[str, int]:
        return {"@cgroup": os.open(f"{self._path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)}

    def set_limits(self, limits: Limits) -> None:
        if "memory" in self._controllers:
            self.set_memory_limit(limits.memory_bytes)
            if os.path.exists(f"{self._path}/memory.swap.max"):
                files.write(f"{self._path}/memory.swap.max", 0)
            # not memory.oom.group: a child killed alone is told by the counter, and the worker can still answer
        if "pids" in self._controllers:
            files.write(f"{self._path}/pids.max", limits.processes)
        if "cpu" in self._controllers:
            # shares 2..262144 to weight 1..10000, as systemd and runc convert
            files.write(f"{self._path}/cpu.weight", max(1, 1 + (limits.cpu_shares - 2) * 9999 // 262142))
            quota = f"{limits.cpu_millicores * 100} 100000" if limits.cpu_millicores else "max 100000"
            files.write(f"{self._path}/cpu.max", quota)

    def set_memory_limit(self, size_bytes: int) -> None:
        if "memory" in self._controllers:
            files.write(f"{self._path}/memory.max", size_bytes)

    def memory_usage(self) -> int:
        return files.read_int(f"{self._path}/memory.current") if "memory" in self._controllers else 0

    def file_cache(self) -> int:
        if "memory" not in self._controllers:
            return 0
        stat = files.read(f"{self._path}/memory.stat")
        return max(0, files.keyed(stat, "file") - files.keyed(stat, "shmem"))

    def open_peak(self) -> int:
        try:  # writable since 6.12: each open descriptor then has a mark of its own
            fd = os.open(f"{self._path}/memory.peak", os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.reset_peak(fd)
        return fd

    def reset_peak(self, fd: int) -> None:
        os.write(fd, b"0")  # the mark is then what is used now

    def read_peak(self, fd: int) -> int:
        return int(os.pread(fd, 32, 0) or 0)

    def oom_kills(self) -> int:
        return files.keyed(files.read(f"{self._path}/memory.events"), "oom_kill") if "memory" in self._controllers else 0

    def freeze(self) -> None:
        files.write(f"{self._path}/cgroup.freeze", 1)

    def thaw(self) -> None:
        files.write(f"{self._path}/cgroup.freeze", 0)

    def empty(self) -> bool:
        try:
            return files.keyed(files.read(f"{self._path}/cgroup.events"), "populated") == 0
        except FileNotFoundError:
            return True

    def kill(self) -> bool:
        try:
            files.write(f"{self._path}/cgroup.kill", 1)
        except FileNotFoundError:
            return False  # before 5.14
        return True

    def force_empty(self) -> None:
        if "memory" in self._controllers and os.path.exists(f"{self._path}/memory.reclaim"):
            try:
                files.write(f"{self._path}/memory.reclaim", max(4096, self.memory_usage()))
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EINVAL):  # EAGAIN: less was there than we asked for
                    raise

    def remove(self) -> None:
        self.force_empty()
        files.remove_directory(self._path)


class V2Driver:
    """Our directory `hearth-<instance>` in the unified tree, with the controllers it needs enabled for its children."""

    WANTED: ClassVar[frozenset[str]] = frozenset({"memory", "pids", "cpu"})
    version = "v2"

    def __init__(self, mount: str, instance: str, root: str = "") -> None:
        self._base = os.path.join(mount, root.strip("/")) if root else mount
        self._parent = f"{self._base}/hearth-{instance}"
        available = frozenset(files.read(f"{self._base}/cgroup.controllers").split())
        self.controllers = self.WANTED & available
        self.missing = self.WANTED - available

    def create(self, name: str) -> V2Cgroup:
        if not os.path.isdir(self._parent):
            os.makedirs(self._parent, exist_ok=True)
            wanted = " ".join(f"+{controller}" for controller in sorted(self.controllers))
            for directory in (self._base, self._parent):
                if wanted:
                    files.write(f"{directory}/cgroup.subtree_control", wanted)
        path = f"{self._parent}/{name}"
        os.makedirs(path, exist_ok=True)
        return V2Cgroup(path, self.controllers)

    def leftovers(self) -> list[str]:
        return [*files.children(self._parent), self._parent] if os.path.isdir(self._parent) else []

    def thaw(self) -> None:
        """Nothing: cgroup-v2.rst, a frozen process can be killed."""

    def sweep(self) -> int:
        found = self.leftovers()
        for path in found:
            if os.path.exists(f"{path}/cgroup.kill"):
                files.write(f"{path}/cgroup.kill", 1)
            files.kill_processes(path)
        for path in found:
            files.remove_directory(path)
        return len(found)

    def close(self) -> None:
        files.remove_directory(self._parent)
