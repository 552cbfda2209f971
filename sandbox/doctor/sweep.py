"""`hearth doctor --fix`: remove what dead instances left, never anything of a living one.

This instance's locks are held meanwhile, so that none can start into the sweep; of another, whose home is unknown, it is asked again right
before. Half-made files are their maker's, not an instance's, and go when the maker is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sandbox.cgroup import detect
from sandbox.daemon import recovery
from sandbox.doctor import codestore, leaks
from sandbox.errors import ConfigError
from sandbox.imaging import store
from sandbox.kernel import filesystem, survey
from sandbox.network import nat
from sandbox.settings import Settings


def fix(conf: Settings) -> list[str]:
    """What was removed and what could not be, a line each."""
    lines: list[str] = []
    _do(lines, "unfinished or unused images", lambda: len(store.sweep(conf.images_dir)))
    _do(lines, "unfinished code packages", lambda: codestore.sweep(conf))
    with _owned(conf) as owned:
        if owned:
            _fix_own(conf, lines)
        else:
            lines.append(f"instance {conf.instance} runs: nothing of it was touched")
    for instance in leaks.dead_others(conf):
        if instance in leaks.dead_others(conf):  # still: the one before may have taken seconds
            _do(lines, f"control groups of instance {instance}", partial(_sweep_cgroups, conf, instance))
            _sweep_network(lines, instance, f" of instance {instance}")
    return lines


def _fix_own(conf: Settings, lines: list[str]) -> None:
    _do(lines, "processes", lambda: sum(survey.kill(process) for process in leaks.orphans(conf)))
    _do(lines, "control groups", lambda: _sweep_cgroups(conf, conf.instance))
    _sweep_network(lines, conf.instance)
    _do(lines, "mounts", lambda: _unmount(conf))
    _do(lines, "sockets", lambda: _remove(leaks.run_files(conf, alive=False)))
    _do(lines, "unfinished credentials", lambda: _remove(leaks.credential_files(conf)))


def _do(lines: list[str], what: str, sweep: Callable[[], int]) -> None:
    try:
        if count := sweep():
            lines.append(f"removed {what}: {count}")
    except OSError as error:
        lines.append(f"could not remove {what}: {error}")


@contextlib.contextmanager
def _owned(conf: Settings) -> Iterator[bool]:
    """Both locks of the instance, or False where it lives."""
    with contextlib.ExitStack() as stack:
        if leaks.is_running(conf):
            yield False
            return
        try:
            if os.path.isdir(conf.home):
                stack.callback(os.close, _take(os.path.join(conf.home, leaks.UP_LOCK)))
                stack.callback(os.close, recovery.lock(conf))
        except (BlockingIOError, ConfigError):
            yield False  # it started between the question and the locks
            return
        yield True


def _take(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    return fd


def _sweep_cgroups(conf: Settings, instance: str) -> int:
    return detect(instance, recovery.cgroup_root(conf)).sweep() if leaks.cgroups(conf, instance) else 0


def _sweep_network(lines: list[str], instance: str, whose: str = "") -> None:
    """Links before tables: nothing may send through a bridge without its firewall."""
    try:
        found = nat.sweep(instance)
    except OSError as error:
        lines.append(f"could not remove links and firewall tables{whose}: {error}")
        return
    names = {"links": f"links{whose}", "tables": f"firewall tables{whose}", "forwarding": "links that forward for nobody"}
    lines += [f"removed {names[kind]}: {count}" for kind, count in found.items() if count]


def _unmount(conf: Settings) -> int:
    mounts = leaks.host_mounts(conf, survey.mounts())
    for mount in mounts:
        filesystem.umount(mount.target)
    return len(mounts)


def _remove(paths: list[Path]) -> int:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()  # a stage is empty on the host: what is mounted on it lives in a zygote's namespace
        else:
            path.unlink(missing_ok=True)
    return len(paths)
