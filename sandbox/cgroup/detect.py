"""Which control groups this host has: legacy (v1), hybrid (v1 with an empty v2 tree) or unified (v2)."""

from __future__ import annotations

import os

from sandbox.cgroup.model import Driver
from sandbox.cgroup.v1 import V1Driver
from sandbox.cgroup.v2 import V2Driver
from sandbox.errors import ConfigError

MOUNTINFO = "/proc/self/mountinfo"


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


def detect(instance: str, root: str = "") -> Driver:
    """The driver for this host. `root` is a directory below each hierarchy. Raises ConfigError where there is no cgroup at all."""
    with open(MOUNTINFO) as file:
        v1, v2 = hierarchies(file.read())
    if v2 is not None and "memory" not in v1:
        with open(os.path.join(v2, "cgroup.controllers")) as file:
            if "memory" in file.read().split():
                return V2Driver(v2, instance, root)
    if "memory" in v1 or "pids" in v1:
        return V1Driver(v1, instance, root)
    raise ConfigError("no memory or pids control group is mounted", hint="mount cgroup2 at /sys/fs/cgroup")
