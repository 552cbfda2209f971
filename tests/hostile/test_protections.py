"""Each protection is seen to matter: with everything else out of the way it alone refuses an attack, and without it the attack succeeds.

The others are taken out in the test's chamber (chamber.py), never in the code that serves.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.attacks import THROUGH, Attack, host_state
from tests.hostile.chamber import DESCRIPTORS, PROTECTIONS, Chamber

pytestmark = [pytest.mark.requires("root", "memcg", "pids"), pytest.mark.shares_host]


@dataclass(frozen=True, slots=True)
class Alone:
    """`protection` is the last that stands once `besides` are gone; then `code` is told one of `told`, and without it gets through."""

    protection: str
    what: str
    code: str
    told: tuple[str, ...]
    besides: tuple[str, ...] = ()

    @property
    def attack(self) -> Attack:
        return Attack(self.what, "", self.code)


SYSCTL = 'put("/proc/sys/kernel/hostname", b"mine")'  # of its own uts namespace
SETUID = 'told = "through" if subprocess.check_output(["/var/user/setuid-id", "-u"]).strip() == b"0" else "unprivileged"'
MOUNT = 'mount(b"none", b"/tmp", b"tmpfs", 0)'

ROWS = [
    Alone("seccomp", "a new user namespace", 'call("unshare", 0x10000000)', ("EPERM",)),
    Alone("seccomp", "an io_uring", 'call("io_uring_setup", 8, ctypes.create_string_buffer(120))', ("ENOSYS",)),
    Alone("seccomp", "a key", 'call("add_key", b"user", b"hostile", b"x", 1, -2)', ("EPERM",)),
    Alone("seccomp", "page faults of its own", 'os.close(call("userfaultfd", 1))', ("EPERM",)),
    Alone("seccomp", "tracing", 'told = in_a_child(lambda: call("ptrace", 0, 0, 0, 0) and None)', ("EPERM",)),
    Alone("seccomp", "no address randomisation", 'call("personality", 0x0040000)', ("EPERM",)),
    Alone("user namespace", "a mount", MOUNT, ("EPERM",), ("seccomp", "capabilities", "unprivileged ids")),
    Alone("unprivileged ids", "a file of root's", 'os.open("/var/user/for-root", os.O_RDONLY)', ("EACCES",), ("user namespace",)),
    Alone("capabilities", "a change of root", 'os.chroot("/tmp")', ("EPERM",), ("seccomp",)),
    Alone("no_new_privs", "a setuid program", SETUID, ("unprivileged",), ("seccomp", "user namespace", "nosuid")),
    Alone("nosuid", "a setuid program", SETUID, ("unprivileged",), ("seccomp", "user namespace", "no_new_privs")),
    Alone("nodev", "a device in the code", 'os.open("/var/user/null", os.O_RDONLY)', ("EACCES",)),
    Alone("read-only mounts", "a file in its code", 'open("/var/user/open/x", "w").close()', ("EROFS",)),
    Alone("masks", "a file of /proc", 'told = "through" if read("/proc/kallsyms") else "empty"', ("empty",)),
    Alone("masks", "a directory of /proc", 'told = listed("/proc/tty")', ("empty",)),
    Alone("read-only /proc/sys", "a sysctl", SYSCTL, ("EROFS",), ("user namespace", "unprivileged ids", "capabilities")),
    Alone("pid namespace", "a process of the host", 'told = listed("/proc/%d" % event["pid"])', ("ENOENT",), ("user namespace",)),
    Alone("net namespace", "an abstract socket", 'socket.socket(socket.AF_UNIX).connect("\\0" + event["abstract"])', ("ECONNREFUSED",)),
    Alone("ipc namespace", "shared memory", 'call("shmget", event["shm_key"], 0, 0)', ("ENOENT",)),
    Alone("uts namespace", "the host's name", 'told = "through" if socket.gethostname() == event["hostname"] else "no"', ("no",)),
    Alone(
        "cgroup namespace", "the names of cgroups", 'told = "through" if b"hearth" in read("/proc/self/cgroup", 4096) else "no"', ("no",)
    ),
    Alone("image as root", "a file of the host", 'read(event["file"])', ("ENOENT",)),
    Alone("cgroup limits", "memory", "hold(160)", ("signal 9",)),
    Alone(
        "cgroup limits",
        "processes",
        "for _ in range(60):\n    child = os.fork()\n    if child == 0:\n        time.sleep(60)\n        os._exit(0)",
        ("EAGAIN",),
    ),
    Alone(
        "closed descriptors",
        "a directory left open",
        'told = "through" if [fd for fd in range(3, 200) if os.path.isdir("/proc/self/fd/%d" % fd)] else "none"',
        ("none",),
    ),
    Alone("dumpable", "PID 1's environment", 'read("/proc/1/environ")', ("EACCES",), ("seccomp", "user namespace")),
    Alone("descriptor limit", "descriptors", f"kept.extend(os.open('/dev/null', 0) for _ in range({DESCRIPTORS + 50}))", ("EMFILE",)),
    Alone("core limit", "a core dump", 'told = "through" if resource.getrlimit(resource.RLIMIT_CORE)[1] else "off"', ("off",)),
    Alone("size of /tmp", "a full /tmp", 'fill("/tmp/x", 12)', ("ENOSPC",)),
    Alone("inodes of /tmp", "many files in /tmp", 'for n in range(300): open("/tmp/%d" % n, "w").close()', ("ENOSPC",)),
]


@pytest.fixture
def packed(chamber: Chamber) -> Chamber:
    """Things that only root could put into the code: a setuid program, a device, a directory that all may write, a file for root."""
    code = chamber.code
    if not (code / "open").exists():
        shutil.copy(shutil.which("id") or "", code / "setuid-id")
        os.chmod(code / "setuid-id", 0o4755)
        os.mknod(code / "null", 0o020666, os.makedev(1, 3))
        os.chmod(code / "null", 0o666)
        Path(code, "open").mkdir()
        os.chmod(code / "open", 0o777)
        Path(code, "for-root").write_text("secret")
        os.chmod(code / "for-root", 0o600)
    return chamber


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.protection}: {row.what}")
def test_it_alone_refuses_and_without_it_nothing_does(packed: Chamber, facts: dict[str, Any], row: Alone) -> None:
    before, event = host_state(), row.attack.event(facts)
    assert packed.run(event, row.besides) in row.told
    assert packed.run(event, (*row.besides, row.protection)) == THROUGH
    assert host_state() == before


def test_every_protection_has_its_row() -> None:
    assert {row.protection for row in ROWS} == set(PROTECTIONS)
