"""Control groups version 2 (Documentation/admin-guide/cgroup-v2): one tree, controllers enabled downwards.

<base>                       the root, HEARTH_CGROUP_ROOT, or the subtree that systemd has delegated to our service
├── runtime                  launcher and sandboxd, where `base` is ours: a group with controllers below may hold no process itself
└── hearth-<instance>
    ├── zygotes
    └── s0, s1, …            one sandbox each
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar

from sandbox.cgroup import files
from sandbox.cgroup.model import Limits

#: So far below memory.max lies memory.high. Above it whoever allocates is slowed down, by 10 ms for each 256 KB and more the closer it
#: comes: the governor, who raises both ahead of a growing /tmp, is never overtaken. As much as the least headroom a setting may give.
BRAKE_BYTES = 4 * 1024 * 1024
#: The group of our own processes.
OWN = "runtime"


class V2Cgroup:
    """One sandbox's directory."""

    def __init__(self, path: str, controllers: frozenset[str]) -> None:
        self.name = os.path.basename(path)
        self._path = path
        self._controllers = controllers
        self._limit = 0
        self._resets_peak = False
        self._peak_before = 0

    def open_join(self) -> dict[str, int]:
        return {"@cgroup": os.open(f"{self._path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)}

    def set_limits(self, limits: Limits) -> None:
        if "memory" in self._controllers:
            self._set_once("memory.swap.max", 0)
            # The whole sandbox dies, and not one process of it that the rest waits for: such a call is over either way.
            self._set_once("memory.oom.group", 1)
            self.set_memory_limit(limits.memory_bytes)
        if "pids" in self._controllers:
            files.write(f"{self._path}/pids.max", limits.processes)
        if "cpu" in self._controllers:
            # shares 2..262144 to weight 1..10000, as systemd and runc convert
            files.write(f"{self._path}/cpu.weight", max(1, 1 + (limits.cpu_shares - 2) * 9999 // 262142))
            quota = f"{limits.cpu_millicores * 100} 100000" if limits.cpu_millicores else "max 100000"
            files.write(f"{self._path}/cpu.max", quota)

    def _set_once(self, name: str, value: int) -> None:
        """With the first limits; a kernel without swap accounting, or older than 4.19, lacks the file."""
        if not self._limit and os.path.exists(f"{self._path}/{name}"):
            files.write(f"{self._path}/{name}", value)

    def set_memory_limit(self, size_bytes: int) -> None:
        if "memory" not in self._controllers:
            return
        brake = max(0, size_bytes - BRAKE_BYTES)
        if size_bytes < self._limit:
            files.write(f"{self._path}/memory.high", brake)  # first: it reclaims page cache, and kills nobody
            if self.memory_usage() > size_bytes:
                # memory.max would call the out-of-memory killer, where v1 refuses
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), f"{self._path}/memory.max")
            files.write(f"{self._path}/memory.max", size_bytes)
        else:
            files.write(f"{self._path}/memory.max", size_bytes)
            files.write(f"{self._path}/memory.high", brake)
        self._limit = size_bytes

    def memory_usage(self) -> int:
        return files.read_int(f"{self._path}/memory.current") if "memory" in self._controllers else 0

    def file_cache(self) -> int:
        if "memory" not in self._controllers:
            return 0
        stat = files.read(f"{self._path}/memory.stat")
        return max(0, files.keyed(stat, "file") - files.keyed(stat, "shmem"))

    def open_peak(self) -> int:
        path = f"{self._path}/memory.peak"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # before 5.19
            return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        # Writable since 6.12: each open descriptor then has a mark of its own. Asked of the mode, since root may open it anyhow.
        self._resets_peak = bool(os.fstat(fd).st_mode & 0o200)
        if self._resets_peak:
            os.close(fd)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.reset_peak(fd)
        return fd

    def reset_peak(self, fd: int) -> None:
        if self._resets_peak:
            os.write(fd, b"0")  # the mark is then what is used now
        else:
            self._peak_before = int(os.pread(fd, 32, 0) or 0)

    def read_peak(self, fd: int) -> int:
        peak = int(os.pread(fd, 32, 0) or 0)
        if self._resets_peak or peak > self._peak_before:
            return peak
        # Not higher than ever before: what is used now is the least it was. The governor's looks may know better.
        return self.memory_usage()

    @property
    def knows_peak(self) -> bool:
        return self._resets_peak

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

    def __init__(self, mount: str, instance: str, root: str = "", *, delegated: bool = False) -> None:
        self.root = root.strip("/")
        self._chain = [mount]
        for name in self.root.split("/") if self.root else ():
            self._chain.append(f"{self._chain[-1]}/{name}")
        self.place = self._chain[-1]
        self._parent = f"{self.place}/hearth-{instance}"
        self._delegated = delegated
        available = frozenset(files.read(f"{self.place if os.path.isdir(self.place) else mount}/cgroup.controllers").split())
        self.controllers = self.WANTED & available
        self.missing = self.WANTED - available

    def create(self, name: str) -> V2Cgroup:
        if not os.path.isdir(self._parent):
            self._make_parent()
        path = f"{self._parent}/{name}"
        os.makedirs(path, exist_ok=True)
        return V2Cgroup(path, self.controllers)

    def _make_parent(self) -> None:
        os.makedirs(self.place, exist_ok=True)
        if self._delegated:
            self._move_own()
        os.makedirs(self._parent, exist_ok=True)
        for directory in (*self._chain, self._parent):
            control = f"{directory}/cgroup.subtree_control"
            if lacking := self.controllers - set(files.read(control).split()):
                files.write(control, " ".join(f"+{controller}" for controller in sorted(lacking)))

    def _move_own(self) -> None:
        """Our own processes into a leaf. The launcher forks nothing until sandboxd asks it to, so none is born beside."""
        os.makedirs(f"{self.place}/{OWN}", exist_ok=True)
        for pid in files.processes(self.place):
            try:
                files.write(f"{self.place}/{OWN}/cgroup.procs", pid)
            except ProcessLookupError:
                continue

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
