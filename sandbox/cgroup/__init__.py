"""Control groups of sandboxes: `detect()` chooses the driver, v1.py and v2.py have the same methods.

A driver owns one directory of ours (`hearth-<instance>`) in each hierarchy it uses; a Cgroup below it belongs to one slot and is recycled.
"""

from __future__ import annotations

from sandbox.cgroup.detect import detect
from sandbox.cgroup.model import Cgroup, Driver, Limits

__all__ = ["Cgroup", "Driver", "Limits", "detect"]
