"""When how many workers are provisioned: pure arithmetic over a version's number and its scheduled actions.

SCF's TriggerActions: an action sets the number at each of its times, and what it set stays until the next action of the version. Before
the first one since the configuration was made, the configured number holds. Times are cron expressions of seven fields (second minute hour
day month weekday year, 0 is Sunday; with a day and a weekday either will do), in the time zone that timers have (the setting timer_zone); a
time of day that comes twice, when a clock goes back, is a time of the action twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

from croniter import CroniterBadDateError, CroniterError, croniter

FIELDS: Final = 7
MAX_CRON: Final = 200
#: A year's times in between are looked for so far: an expression whose times are all past has none to come.
YEARS: Final = 8
#: croniter knows words and forms that are not SCF's (`@daily`, hashed `H`, random `R`).
_FIELD = re.compile(r"[0-9A-Za-z*,/?#-]+", re.ASCII)
_WORDS: Final = frozenset("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC SUN MON TUE WED THU FRI SAT L W".split())


@dataclass(frozen=True, slots=True)
class Action:
    """From each time of `cron` on, `number` workers."""

    name: str
    number: int
    cron: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "number": self.number, "cron": self.cron}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Action:
        return cls(data["name"], data["number"], data["cron"])


def check_cron(text: str) -> None:
    """Raises ValueError with the reason."""
    fields = text.split(" ")
    if len(text) > MAX_CRON or len(fields) != FIELDS:
        raise ValueError(f"it has {len(text.split())} fields, not {FIELDS}, with one space between")
    for field in fields:
        if not _FIELD.fullmatch(field) or any(word.upper() not in _WORDS for word in re.findall(r"[A-Za-z]+", field)):
            raise ValueError(f"field {field!r} is not understood")
    try:
        _croniter(text, 0.0, UTC)
    except (CroniterError, ValueError, TypeError, KeyError) as error:
        raise ValueError(str(error)[:200]) from error


def number_at(number: int, actions: Sequence[Action], *, since: float, now: float, zone: tzinfo) -> tuple[int, float]:
    """(workers wanted at `now`, when that changes next; infinity: never). `since` is when the configuration was made. Seconds since the
    epoch, like all times here."""
    last, chosen, following = since, number, math.inf
    for action in actions:
        fired = _last_time(action.cron, now, zone)
        if fired is not None and fired > last:
            last, chosen = fired, action.number
        following = min(following, _next_time(action.cron, now, zone))
    return chosen, following


def largest(number: int, actions: Sequence[Action]) -> int:
    """The most that it can come to."""
    return max([number, *(action.number for action in actions)])


def _croniter(text: str, at: float, zone: tzinfo) -> Any:
    start = datetime.fromtimestamp(at, zone)
    return croniter(text, start, ret_type=float, second_at_beginning=True, max_years_between_matches=YEARS)


def _last_time(cron: str, now: float, zone: tzinfo) -> float | None:
    try:
        # Its answers are before the start, which is therefore the next whole second.
        return float(_croniter(cron, math.floor(now) + 1, zone).get_prev())
    except CroniterBadDateError:
        return None


def _next_time(cron: str, now: float, zone: tzinfo) -> float:
    try:
        return float(_croniter(cron, math.floor(now), zone).get_next())
    except CroniterBadDateError:
        return math.inf
