"""Who may be killed: each part of a running instance, found anew each time, and killed as exactly the process that was found."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.integration.instance import CGROUPS, Identity, Instance, below, command_line, identify


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def launcher(hearth: Instance) -> list[int]:
    return [pid for pid in children(hearth.pid) if "sandbox.launcher" in command_line(pid)]


def sandboxd(hearth: Instance) -> list[int]:
    return [pid for parent in launcher(hearth) for pid in children(parent) if "sandbox.daemon" in command_line(pid)]


def master(hearth: Instance) -> list[int]:
    return [pid for pid in children(hearth.pid) if "gunicorn" in command_line(pid) and "sandbox.confine" not in command_line(pid)]


def api_worker(hearth: Instance) -> list[int]:
    return [pid for parent in master(hearth) for pid in children(parent)]


def dispatcher(hearth: Instance) -> list[int]:
    return [pid for pid in children(hearth.pid) if "server.events" in command_line(pid) and "sandbox.confine" not in command_line(pid)]


def zygote(hearth: Instance) -> list[int]:
    return sorted({pid for path in hearth.cgroups() if path.name == "zygotes" for pid in members(path)})


def init(hearth: Instance) -> list[int]:
    return [pid for pid in sandboxed(hearth) if is_init(pid)]


def worker(hearth: Instance) -> list[int]:
    return [pid for pid in sandboxed(hearth) if not is_init(pid)]


def sandboxed(hearth: Instance) -> list[int]:
    """Every process in a sandbox, by the cgroups of one hierarchy."""
    return sorted({pid for path in hearth.cgroups() if path.name[:1] == "s" and path.name[1:].isdigit() for pid in members(path)})


def members(path: Path) -> list[int]:
    try:
        return [int(word) for word in (path / "cgroup.procs").read_text().split()]
    except OSError:
        return []  # it has just been removed


def is_init(pid: int) -> bool:
    """Whether it is PID 1 of its pid namespace, proc_pid_status(5)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return next((line.split()[-1] == "1" for line in status.splitlines() if line.startswith("NSpid:")), False)


def is_frozen(pid: int) -> bool:
    """Whether a v1 freezer holds it: SIGKILL then waits for the thaw (with v2 it does not)."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        paths = [line.split(":", 2)[2] for line in lines if line.split(":", 2)[1] == "freezer"]
        return any((CGROUPS / "freezer" / path.lstrip("/") / "freezer.state").read_text() != "THAWED\n" for path in paths)
    except (FileNotFoundError, ProcessLookupError):
        return False


Find = Callable[[Instance], list[int]]

PARTS: dict[str, tuple[Find, int]] = {
    "sandboxd": (sandboxd, 2),
    "launcher": (launcher, 1),
    "zygote": (zygote, 2),
    "API": (master, 1),
    "API worker": (api_worker, 3),
    "dispatcher": (dispatcher, 2),
    "init": (init, 6),
    "worker": (worker, 6),
}
"""How to find it, and how often it is in a deck."""


def deal(chance: random.Random) -> Iterator[str]:
    """Parts to kill, without end: shuffled decks, so that a short run meets every part too."""
    deck = [part for part, (_, count) in PARTS.items() for _ in range(count)]
    while True:
        chance.shuffle(deck)
        yield from deck


def kill_one(hearth: Instance, part: str, chance: random.Random) -> Identity | None:
    """SIGKILL to one process of that part: which it was, None where there is none now."""
    pids = PARTS[part][0](hearth)
    if not pids:
        return None
    return kill_exactly(hearth, chance.choice(sorted(pids)), PARTS[part][0])


def kill_exactly(hearth: Instance, pid: int, find: Find) -> Identity | None:
    """The number may have got another owner since it was found: opened first, then asked for again."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        identity = identify(pid)
        if identity is None or pid not in find(hearth):
            return None
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return identity
    except ProcessLookupError:
        return None
    finally:
        os.close(pidfd)


def zombies(hearth: Instance) -> list[str]:
    """The dead below `hearth up` that nobody has reaped."""
    pids = [pid for one in below(hearth.pid) for pid in children(one[0])]
    return [f"{pid} {state}" for pid in pids if (state := _state(pid)) in ("Z", "X")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
