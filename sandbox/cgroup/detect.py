"""Which control groups this host has: legacy (v1), hybrid (v1 with an empty v2 tree) or unified (v2), and where in it we may work."""

from __future__ import annotations

import os

from sandbox.cgroup.model import Driver
from sandbox.cgroup.v1 import V1Driver
from sandbox.cgroup.v2 import V2Driver
from sandbox.errors import ConfigError

MOUNTINFO = "/proc/self/mountinfo"
OWN_CGROUP = "/proc/self/cgroup"
#: systemd marks the top of what it leaves to a service (Delegate=yes), "1": systemd.resource-control(5) and CGROUP_DELEGATION.
DELEGATE_MARKS = ("trusted.delegate", "user.delegate")


def hierarchies(mountinfo: str) -> tuple[dict[str, str], str | None]:
    """From the text of mountinfo, proc(5): ({v1 controller: mount point}, mount point of v2 or None)."""
    v1: dict[str, str] = {}
    v2: str | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point, (kind, _, options) = left.split()[4], right.split(" ", 2)  # the source may be empty
        if kind == "cgroup":
            v1.update({word: point for word in options.split(",") if word in V1Driver.WANTED})
        elif kind == "cgroup2":
            v2 = v2 or point
    return v1, v2


def delegated_subtree(mount: str, own: str) -> str:
    """The nearest group above (or of) this process that was left to it, relative to `mount`; "" if none was.

    `own` is the text of /proc/self/cgroup, cgroups(7).
    """
    path = next((line.removeprefix("0::/") for line in own.splitlines() if line.startswith("0::/")), "")
    while path and not _is_marked(os.path.join(mount, path)):
        path = os.path.dirname(path)
    return path


def _is_marked(directory: str) -> bool:
    for name in DELEGATE_MARKS:
        try:
            if os.getxattr(directory, name) == b"1":
                return True
        except OSError:  # it has none, or the kernel has none for control groups (before 5.7), or the directory is out of sight
            continue
    return False


def detect(instance: str, root: str = "") -> Driver:
    """The driver for this host. `root` is a directory below each hierarchy. Raises ConfigError where there is no cgroup at all."""
    with open(MOUNTINFO) as file:
        v1, v2 = hierarchies(file.read())
    if v2 is not None and "memory" not in v1:
        with open(os.path.join(v2, "cgroup.controllers")) as file:
            if "memory" in file.read().split():
                return _unified(v2, instance, root)
    if "memory" in v1 or "pids" in v1:
        return V1Driver(v1, instance, root)
    raise ConfigError("no memory or pids control group is mounted", hint="mount cgroup2 at /sys/fs/cgroup")


def _unified(mount: str, instance: str, root: str) -> V2Driver:
    with open(OWN_CGROUP) as file:
        subtree = delegated_subtree(mount, file.read())
    # What `root` names is ours as well where it is that subtree; elsewhere there may be others' processes, which stay.
    place = root.strip("/") or subtree
    return V2Driver(mount, instance, place, delegated=bool(place) and place == subtree)
