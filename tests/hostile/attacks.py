"""What an attack is, and the facts of the host that attacks aim at."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyseccomp

THROUGH = "through"


@dataclass(frozen=True, slots=True)
class Attack:
    """`code` runs in the function (tests/payloads/hostile/attack.py has its words); what it tells there must be one of `told`.

    The control is the same code in a chamber (chamber.py): outside of a sandbox, or with only the protections `without` taken out. There
    it must tell one of `outside`.
    """

    name: str
    source: str
    code: str
    told: tuple[str, ...] = ("EPERM",)
    outside: tuple[str, ...] = (THROUGH,)
    without: tuple[str, ...] = ()

    def event(self, facts: dict[str, Any]) -> dict[str, Any]:
        return {**facts, "code": self.code, "numbers": numbers(self.code)}


def numbers(code: str) -> dict[str, int]:
    """The system calls that the lines make, by name."""
    names = re.findall(r"call\(\"(\w+)\"", code) + (["mount"] if "mount(" in code else [])
    return {name: pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) for name in names}


@contextmanager
def bait() -> Iterator[dict[str, Any]]:
    """Things of the host that anybody on it could reach: a process, a file, an abstract socket, a shared memory segment."""
    name = f"hearth-hostile-{os.getpid()}"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, socket.socket(socket.AF_UNIX) as server, SharedMemory() as key:
        os.chmod(folder, 0o755)
        Path(folder, "secret").write_text("of the host")
        server.bind(f"\0{name}")
        server.listen()
        yield {"pid": os.getpid(), "file": f"{folder}/secret", "abstract": name, "shm_key": key, "hostname": socket.gethostname()}


class SharedMemory:
    """A System V segment that everybody may read; its key."""

    def __enter__(self) -> int:
        self._libc = ctypes.CDLL(None, use_errno=True)
        key = 0x48000000 | os.getpid()
        self._id = self._libc.shmget(key, 4096, 0o666 | 0o1000)  # IPC_CREAT
        assert self._id >= 0
        return key

    def __exit__(self, *_: object) -> None:
        assert self._libc.shmctl(self._id, 0, None) == 0  # IPC_RMID


def host_state() -> dict[str, object]:
    """What no attack may change, cheap to read. Links with our prefix, and mounts in these places, come and go with whoever else runs
    tests on the machine."""
    others = ("/tmp/", "/var/tmp/", "/run/", "/sys/fs/cgroup/")
    mounts = [line.split()[3:6] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    sysctls = ("kernel/core_pattern", "kernel/modprobe", "kernel/hostname", "kernel/randomize_va_space", "vm/overcommit_memory")
    return {
        "mounts": sorted(fields for fields in mounts if not fields[1].startswith(others)),
        "sysctls": {name: Path("/proc/sys", name).read_text() for name in sysctls if Path("/proc/sys", name).exists()},
        "links": sorted(name for name in os.listdir("/sys/class/net") if not name.startswith("hth")),
        "devices": sorted(os.listdir("/dev")),
        "modules": Path("/proc/modules").read_text().count("\n") if Path("/proc/modules").exists() else 0,
        "segments": len(Path("/proc/sysvipc/shm").read_text().splitlines()),
        "cgroups": sorted(os.listdir("/sys/fs/cgroup")),
        "root": sorted(os.listdir("/")),
    }
