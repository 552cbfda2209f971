"""Slots: what a sandbox occupies on the host, and what is recycled when it goes.

A slot is a number, a uid no other living sandbox has, and a cgroup. Making and removing a cgroup's directories costs 0.5 ms, so a few slots
are kept. One owner: the table; a sandbox borrows.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sandbox.cgroup import Cgroup, Driver
from sandbox.errors import NoCapacity

_log = logging.getLogger(__name__)

MAX_SLOTS = 0x2000
KEPT_FREE = 64


@dataclass(slots=True)
class Slot:
    index: int
    uid: int
    cgroup: Cgroup
    oom_kills: int = 0
    is_empty: bool = False


class Slots:
    """Hands out a kept slot, or makes one; what is given back is emptied first."""

    def __init__(self, driver: Driver, first_uid: int) -> None:
        self._driver = driver
        self._first_uid = first_uid
        self._free: list[Slot] = []
        self._broken: list[Slot] = []
        self._unused: list[int] = []
        self._next = 0
        self.used = 0

    def take(self) -> Slot:
        """Raises NoCapacity when the uid range is used up, OSError when the cgroup cannot be made."""
        slot = self._free.pop() if self._free else self._new()
        self.used += 1
        return slot

    def _new(self) -> Slot:
        index = self._unused.pop() if self._unused else self._next
        if index >= MAX_SLOTS:
            raise NoCapacity(f"{MAX_SLOTS} sandboxes exist, the most this instance has uids for")
        if index == self._next:
            self._next += 1
        try:
            return Slot(index, self._first_uid + index, self._driver.create(f"s{index}"))
        except OSError:
            self._unused.append(index)
            raise

    def stock_up(self, count: int) -> None:
        """Make one more if less than `count` are free: called now and then when nobody waits. Raises OSError."""
        self._remove_broken()
        if len(self._free) < count and self._next < MAX_SLOTS:
            self._free.append(self._new())

    def empty(self, slot: Slot) -> None:
        """Make a slot whose tree is dead fit for another sandbox. It takes milliseconds: who is in a loop does it in a thread first."""
        try:
            slot.cgroup.thaw()
            slot.cgroup.force_empty()
            slot.is_empty = True
        except OSError as error:
            _log.warning("cgroup of slot %d is not reused: %s", slot.index, error)

    def give_back(self, slot: Slot) -> None:
        """The sandbox's tree is dead. A cgroup that can't be emptied is removed instead of kept."""
        self.used -= 1
        if not slot.is_empty:
            self.empty(slot)
        reusable, slot.is_empty = slot.is_empty, False
        try:
            if reusable and len(self._free) < KEPT_FREE:
                slot.oom_kills = slot.cgroup.oom_kills()
                self._free.append(slot)
                return
        except OSError as error:
            _log.warning("cgroup of slot %d is not reused: %s", slot.index, error)
        self._broken.append(slot)
        self._remove_broken()

    def _remove_broken(self) -> None:
        """Try again what could not be removed; the number stays taken until then."""
        broken, self._broken = self._broken, []
        for slot in broken:
            try:
                slot.cgroup.remove()
                self._unused.append(slot.index)
            except OSError as error:
                _log.debug("cgroup of slot %d cannot be removed yet: %s", slot.index, error)
                self._broken.append(slot)

    def close(self) -> None:
        """Remove the kept cgroups."""
        self._remove_broken()
        while self._free:
            self._free.pop().cgroup.remove()
