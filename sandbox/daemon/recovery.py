"""What a former life of this instance left, found by its mark and removed at start; the same list is what doctor counts.

On the host only cgroups, links with our prefix, firewall tables, switched-on forwarding and processes can remain: mounts live in
namespaces that die with their processes, sockets are paired. The instance's lock is held, so nobody alive owns what is found.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from sandbox.cgroup import Driver, detect
from sandbox.errors import ConfigError
from sandbox.network import layout, nat
from sandbox.settings import Settings

_log = logging.getLogger(__name__)


def link_prefix(settings: Settings) -> str:
    """What the names of the instance's links start with."""
    return layout.link_prefix(settings.instance)


def lock_path(settings: Settings) -> str:
    """Whoever holds the flock on this file is the instance's living sandboxd."""
    return os.path.join(settings.home, "sandboxd.lock")


def lock(settings: Settings) -> int:
    """The lock that tells others this instance is alive; held until the process ends. Raises ConfigError if it is taken."""
    fd = os.open(lock_path(settings), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise ConfigError(
            f"another sandboxd serves {settings.home}", hint="stop it, or set HEARTH_HOME and HEARTH_RUN to another place"
        ) from None
    return fd


def cgroup_root(settings: Settings) -> str:
    """Where the instance's control groups are: as set, else where its sandboxd last said it worked, which may be a service's subtree."""
    if settings.cgroup_root:
        return settings.cgroup_root
    try:
        with open(lock_path(settings)) as file:
            return file.read().strip()
    except OSError:
        return ""


def sweep(settings: Settings, driver: Driver, lock: int) -> dict[str, int]:
    """Remove what is left, where `driver` works and where a former life did; counts by kind. From now on `cgroup_root` is this life's."""
    groups = driver.sweep()
    if (former := cgroup_root(settings)) != driver.root:
        groups += detect(settings.instance, former).sweep()
    os.truncate(lock, 0)
    os.pwrite(lock, driver.root.encode(), 0)
    found = {"cgroups": groups, **nat.sweep(settings.instance)}
    if any(found.values()):
        _log.warning("swept what a former life left: %s", found)
    return found


def remove_run_files(settings: Settings) -> None:
    """sandboxd's socket and stage, which nobody uses: the lock is held."""
    stage = Path(settings.run) / "stage"
    if stage.is_dir():
        stage.rmdir()
    settings.socket_path.unlink(missing_ok=True)
