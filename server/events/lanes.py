"""How a dispatcher shares its places among functions. Pure policy: counts and times in, how many to claim of each function out.

a function    at most its concurrency × `event_share_percent`, at least one: the rest is left for synchronous calls
all           `event_slots` places, and `event_share_percent` of the machine's memory bound by the functions' own limits
the last quarter of the places goes only to functions that have nothing running here: a backlog can't hold up another function
a refusal     (over-limit, no room) pauses its function for a moment, or its whole backlog would be refused one by one
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sandbox.settings import Settings

#: Of `event_slots`, kept for functions that have none.
SPARE_SHARE: Final = 4
#: A refused function is tried again after this part of the retry interval.
PAUSE_SHARE: Final = 60


@dataclass(frozen=True, slots=True)
class Needs:
    """What of a function counts here. `memory_mb` is its own limit."""

    concurrency: int
    memory_mb: int


class Lanes:
    """One dispatcher's. `capacity_mb` is sandboxd's bound, None while it is not known."""

    def __init__(self, settings: Settings) -> None:
        self._share = settings.event_share_percent / 100
        self._slots = settings.event_slots
        self._spare = settings.event_slots // SPARE_SHARE
        self._pause_seconds = settings.event_retry_seconds / PAUSE_SHARE
        self._running: Counter[str] = Counter()
        self._memory_mb = 0
        self._served: dict[str, int] = {}
        self._turns = 0
        self._paused: dict[str, float] = {}
        self.capacity_mb: float | None = None

    def begin(self, lane: str, memory_mb: int) -> None:
        self._running[lane] += 1
        self._memory_mb += memory_mb

    def end(self, lane: str, memory_mb: int) -> None:
        self._running[lane] -= 1
        self._memory_mb -= memory_mb
        if not self._running[lane]:
            del self._running[lane]

    def pause(self, lane: str, now: float) -> None:
        self._paused[lane] = now + self._pause_seconds

    def pauses_end(self, now: float) -> float | None:
        """When the first pause ends; None without one."""
        self._paused = {lane: until for lane, until in self._paused.items() if until > now}
        return min(self._paused.values(), default=None)

    def share_out(self, needs: Mapping[str, Needs], now: float) -> dict[str, int]:
        """How many events of each of these functions, which all have some due, to claim now."""
        self.pauses_end(now)
        order = sorted(
            (lane for lane in needs if lane not in self._paused), key=lambda lane: (self._running[lane], self._served.get(lane, 0))
        )
        given: Counter[str] = Counter()
        memory_mb = self._memory_mb
        while True:
            before = given.total()
            for lane in order:
                if self._has_room(lane, needs[lane], given, memory_mb):
                    given[lane] += 1
                    memory_mb += needs[lane].memory_mb
            if given.total() == before:
                break
        self._note(list(given))
        return dict(given)

    def _has_room(self, lane: str, need: Needs, given: Counter[str], memory_mb: int) -> bool:
        mine = self._running[lane] + given[lane]
        free = self._slots - self._running.total() - given.total()
        if free <= (self._spare if mine else 0) or mine >= max(1, int(need.concurrency * self._share)):
            return False
        bound = None if self.capacity_mb is None else self.capacity_mb * self._share
        # One call alone may always try: a machine may be smaller than a function.
        return bound is None or not memory_mb or memory_mb + need.memory_mb <= bound

    def _note(self, lanes: Sequence[str]) -> None:
        """Who was served just now stands behind the others next time."""
        self._turns += 1
        if len(self._served) > 10_000:
            self._served.clear()
        self._served.update(dict.fromkeys(lanes, self._turns))
