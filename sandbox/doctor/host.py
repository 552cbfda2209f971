"""What the kernel and root can do here, each tried rather than guessed from a version."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from sandbox import seccomp
from sandbox.doctor.model import Check, judged, reason_of
from sandbox.errors import ConfigError
from sandbox.kernel import features, survey

KERNEL: Final = "kernel"
HOST: Final = "host"

MINIMUM_KERNEL: Final = (5, 10)
MINIMUM_PYTHON: Final = (3, 11)
DESCRIPTORS_A_SANDBOX: Final = 3
DESCRIPTORS_OF_OUR_OWN: Final = 64
ENOUGH_SANDBOXES: Final = 500
ROOT_NEEDS: Final = ("CHOWN", "DAC_OVERRIDE", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_ADMIN", "SYS_PTRACE", "SYS_ADMIN")

_NAMESPACES: Final = {
    "mnt": ("files", "CLONE_NEWNS", "a function would see and could cover the host's files"),
    "pid": ("processes", "CLONE_NEWPID", "a function would see other processes, and killing it would not kill its tree"),
    "net": ("network", "CLONE_NEWNET", "a function would reach the host's network"),
    "ipc": ("shared memory", "CLONE_NEWIPC", "a function would see other functions' System V objects"),
    "uts": ("host name", "CLONE_NEWUTS", "a function would see the host's name"),
    "cgroup": ("control groups", "CLONE_NEWCGROUP", "a function would see where its control group is"),
    "user": ("users", "CLONE_NEWUSER, user.max_user_namespaces", "no sandbox can be made: its user would be one of the host's"),
}


def checks() -> Iterator[Check]:
    yield _kernel(platform.release())
    for kind, (what, flag, without) in _NAMESPACES.items():
        yield _tried(f"{what} of its own", f"namespace {kind}, {flag}", features.tried(features.namespace(kind)), without)
    without = "a function could fill the kernel's memory with empty files"
    yield _tried("limited number of files in /tmp", "tmpfs nr_inodes", features.tried(features.tmpfs_inodes), without)
    without = "no function's code can be attached to a sandbox"
    yield _tried("code attached read-only", "open_tree, move_mount (5.2)", features.tried(features.detached_mounts), without)
    without = "a function with more than one layer can't be started"
    yield _tried("layers merged at /opt", "overlayfs, fsopen (5.2)", features.tried(features.overlayfs), without, required=False)
    yield _openat2()
    yield _pidfd()
    yield _seccomp()
    yield _core_dumps(Path("/proc/sys/kernel/core_pattern").read_text().strip())
    yield from _of_root()
    yield _python()


def _kernel(release: str) -> Check:
    match = re.match(r"(\d+)\.(\d+)", release)
    holds = match is not None and (int(match[1]), int(match[2])) >= MINIMUM_KERNEL
    return judged(KERNEL, "kernel", "Linux 5.10", holds=holds, found=release, without="nobody has tried Hearth on an older one")


def _tried(name: str, needs: str, errno: int, without: str, *, required: bool = True) -> Check:
    found = "works" if not errno else os.strerror(errno)
    return judged(KERNEL, name, needs, holds=not errno, found=found, without=without, required=required)


def _openat2() -> Check:
    reason = reason_of(features.openat2)
    without = "sandboxd can't open a function's code safely, no function starts"
    return judged(KERNEL, "paths that stay in the code store", "openat2 (5.6)", holds=not reason, found=reason or "works", without=without)


def _pidfd() -> Check:
    reason = reason_of(features.pidfd)
    without = "a signal could hit another process that got the same number"
    return judged(KERNEL, "killing exactly the right process", "pidfd (5.3)", holds=not reason, found=reason or "works", without=without)


def _seccomp() -> Check:
    """Compiled as sandboxd does it, then applied to a child."""
    name, needs = "system call filter", "seccomp, libseccomp"
    try:
        filters = seccomp.compile_filters()
    except ConfigError as error:
        return judged(KERNEL, name, needs, holds=False, found=error.message, without=f"sandboxd does not start: {error.hint}")
    tried = features.tried(partial(features.filtered, (filters["base"], filters["worker"])))
    return _tried(name, needs, tried, "no sandbox can be made: its worker is not started without a filter")


def _core_dumps(pattern: str) -> Check:
    """core(5): RLIMIT_CORE, which is 0 in every sandbox, holds for files; a handler is started all the same, as the host's root."""
    without = "a function that crashes starts the host's handler, which reads and may keep its memory"
    return judged(
        KERNEL,
        "no core dumps",
        "RLIMIT_CORE, kernel.core_pattern a file",
        holds=pattern[:1] not in ("|", "@"),
        found=pattern[:60] or "off",
        without=without,
        required=False,
    )


def _of_root() -> Iterator[Check]:
    missing = survey.missing_capabilities(ROOT_NEEDS)
    found = f"lacks {', '.join(missing)}" if missing else "all of them"
    without = "no sandbox can be made: give this container or service the capabilities"
    yield judged(HOST, "root's privileges", f"{len(ROOT_NEEDS)} capabilities", holds=not missing, found=found, without=without)
    _, hard = survey.descriptor_limits()
    yield _descriptors(hard, may_raise=not survey.missing_capabilities(["SYS_RESOURCE"]))


def _descriptors(hard: int, *, may_raise: bool) -> Check:
    """sandboxd raises its soft limit to the hard one, never the hard one."""
    sandboxes = max(0, hard - DESCRIPTORS_OF_OUR_OWN) // DESCRIPTORS_A_SANDBOX
    found = f"limit {hard}: {sandboxes} sandboxes" + ("" if may_raise else "; hard limit, no CAP_SYS_RESOURCE")
    enough = sandboxes >= ENOUGH_SANDBOXES
    without = f"no more than {sandboxes} sandboxes at once: start with a higher hard limit (ulimit -Hn)"
    return judged(
        HOST, "descriptors for sandboxes", "RLIMIT_NOFILE, three each", holds=enough, found=found, without=without, required=False
    )


def _python() -> Check:
    found = platform.python_version()
    holds = sys.version_info[:2] >= MINIMUM_PYTHON
    return judged(
        HOST, "Python of Hearth itself", "Python 3.11", holds=holds, found=found, without="nobody has tried Hearth on an older one"
    )
