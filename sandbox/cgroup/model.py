"""What both versions of control groups offer: the seam between sandboxes and the kernel's two interfaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one sandbox. `memory_bytes` is the kernel's limit (own limit and headroom), swap included; `cpu_millicores` 0 is no hard cap."""

    memory_bytes: int
    processes: int
    cpu_shares: int
    cpu_millicores: int = 0


class Cgroup(Protocol):
    """One sandbox's control group, in however many hierarchies. OSError where the kernel refuses."""

    name: str

    def open_join(self) -> dict[str, int]:
        """Descriptors to which a process writes "0" to join, by name ("@memory"); the caller closes them."""

    def set_limits(self, limits: Limits) -> None: ...

    def set_memory_limit(self, size_bytes: int) -> None:
        """Move the memory limit alone; OSError EBUSY when usage can't be brought below it."""

    def memory_usage(self) -> int:
        """Everything charged now, bytes: page cache, tmpfs and kernel memory included."""

    def file_cache(self) -> int:
        """The part of `memory_usage` that is page cache of files (not of tmpfs) and can be reclaimed, bytes."""

    def open_peak(self) -> int:
        """A descriptor that watches the highest `memory_usage` from now on; the caller closes it."""

    def reset_peak(self, fd: int) -> None:
        """Watch from now on again, with a descriptor of `open_peak`."""

    def read_peak(self, fd: int) -> int:
        """Bytes, since `open_peak` or `reset_peak`, or less where `knows_peak` is false; 0 where the kernel has no such counter."""

    @property
    def knows_peak(self) -> bool:
        """Whether no use of memory, however short, escapes `read_peak`; known once a peak has been opened."""

    def oom_kills(self) -> int:
        """How often the kernel's out-of-memory killer struck in here since creation."""

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    def empty(self) -> bool:
        """Whether no process is left."""

    def kill(self) -> bool:
        """Kill everything at once; False where the kernel can't (v1), then PID 1 must be killed."""

    def remove(self) -> None:
        """Give back cached pages first, then remove the directories."""

    def force_empty(self) -> None:
        """Drop page cache charged here, so that the next user starts from nothing."""


class Driver(Protocol):
    """The control groups of one instance on this host."""

    version: str
    root: str
    """Where our directories are, relative to each hierarchy's mount point; "" at its top."""
    controllers: frozenset[str]
    missing: frozenset[str]

    def create(self, name: str) -> Cgroup: ...

    def leftovers(self) -> list[str]:
        """Directories of this instance that exist now."""

    def thaw(self) -> None:
        """Let everything of this instance run again, where it could not be killed otherwise."""

    def sweep(self) -> int:
        """Kill what runs in leftovers and remove them; how many directories went."""

    def close(self) -> None:
        """Remove our own parent directories."""
