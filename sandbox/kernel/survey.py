"""What is on this host now: processes, mounts, who has a file open, which capabilities we have. psutil and proc(5); nothing is changed
but by `kill`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import psutil

from sandbox.kernel import process as processes

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess)
_LISTENING = 0x00010000  # __SO_ACCEPTCON, <linux/net.h>

#: <linux/capability.h>, those that we ask about.
CAPABILITIES: Final = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_ADMIN": 12,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "SYS_RESOURCE": 24,
}


@dataclass(frozen=True, slots=True)
class Process:
    """A living process; `pid` and `started_at` (seconds since the epoch) together stay its own for life."""

    pid: int
    parent: int
    started_at: float
    argv: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def age_seconds(self) -> float:
        return max(0.0, time.time() - self.started_at)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo, proc_pid_mountinfo(5). `root` is the mounted directory within its file system."""

    device: str
    root: str
    target: str
    kind: str


def find_processes(is_wanted: Callable[[tuple[str, ...]], bool]) -> list[Process]:
    """Processes whose argument list is wanted, zombies left out. Their environment is read only then."""
    found = []
    for process in psutil.process_iter():
        try:
            argv = tuple(process.cmdline())
            if argv and is_wanted(argv):
                found.append(Process(process.pid, process.ppid(), float(process.create_time()), argv, dict(process.environ())))
        except _GONE:
            continue
    return found


def kill(process: Process) -> bool:
    """SIGKILL, if it is still that very process; False if it is gone."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # after pidfd_open: what is compared now is what would be killed
        return psutil.Process(process.pid).create_time() == process.started_at and processes.kill_pidfd(pidfd)
    except psutil.NoSuchProcess:
        return False
    finally:
        os.close(pidfd)


def describe(pid: int) -> str:
    """Pid and name, for people; only the number of one that is gone."""
    try:
        return f"{pid} {psutil.Process(pid).name()}"
    except _GONE:
        return str(pid)


def open_files(names: Collection[str]) -> set[str]:
    """Paths of the files called one of `names` that any process has open."""
    return {path for pid in psutil.pids() for path in _paths_of(pid) if os.path.basename(path) in names}


def _paths_of(pid: int) -> Iterator[str]:
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return  # it ended meanwhile
    for number in numbers:
        try:
            yield os.readlink(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue


def is_listening(path: str) -> bool:
    """Whether a process listens on the unix socket at `path`, proc_net(5)."""
    with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.rstrip("\n").split(maxsplit=7)
            if len(fields) == 8 and fields[7] == path and int(fields[3], 16) & _LISTENING:
                return True
    return False


def mounts() -> list[Mount]:
    """The mounts of our own mount namespace, oldest first."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mounts(file.read())


def parse_mounts(text: str) -> list[Mount]:
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        found.append(Mount(fields[2], _unescaped(fields[3]), _unescaped(fields[4]), right.split(" ", 1)[0]))
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def missing_capabilities(names: Iterable[str]) -> list[str]:
    """Which of `names` (of CAPABILITIES) our effective set lacks, capabilities(7)."""
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return [name for name in names if not effective >> CAPABILITIES[name] & 1]


def descriptor_limits() -> tuple[int, int]:
    """RLIMIT_NOFILE, (soft, hard)."""
    soft, hard = psutil.Process().rlimit(psutil.RLIMIT_NOFILE)
    return int(soft), int(hard)


def swap_total_bytes() -> int:
    return int(psutil.swap_memory().total)
