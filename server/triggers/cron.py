"""SCF's cron expressions: what they mean, and when a timer ticks in a time zone whose clock may change.

Fields (scf-interface.md section 8.1): second minute hour day month week year; without the year; or the older five, minute hour day month
week. `, - * /`, names of months and week days, week 0 is Sunday; day and week both given: either will do. croniter reads them; it is asked
about wall-clock times without a zone, and the zone's changes are dealt with here:

    the clock goes forward    a time of day that does not exist ticks at the moment of the change, once
    the clock goes back       a time of day that comes twice ticks the first time only
    `*` or `*/n` as hour      ticks by elapsed time, in both hours that are called the same
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, CroniterError, croniter

from server.errors import BadRequest
from server.functions.checks import shown

MAX_EXPRESSION: Final = 200
#: SCF's last year is 2099.
HORIZON_YEARS: Final = 100
_SECOND: Final = timedelta(seconds=1)
_FIELD: Final = re.compile(r"[0-9A-Za-z*?/,#-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cron:
    """A checked expression. `fields` are seven: second minute hour day month week year."""

    fields: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.fields)

    @property
    def runs_by_elapsed_time(self) -> bool:
        return self.fields[2].startswith("*")

    def next_tick(self, after: float, zone: ZoneInfo) -> float | None:
        """The first tick later than `after` (both seconds since the epoch, ticks whole ones); None when there is none any more."""
        moment = datetime.fromtimestamp(int(after // 1), UTC)
        wall = _wall(moment, zone)
        if not self.runs_by_elapsed_time and moment.astimezone(zone).fold:
            # In the second of two hours that are called the same: what is in it has ticked in the first.
            wall = max(wall, _end_of_fold(moment, zone) - _SECOND)
        for _ in range(4 * HORIZON_YEARS):  # each turn passes one change of the clock
            tick = self._after(wall)
            if tick is None:
                return None
            here = moment.astimezone(zone).utcoffset() or timedelta()
            candidate = (tick - here).replace(tzinfo=UTC)
            change = _first_change(moment, candidate, zone)
            if change is None:
                return candidate.timestamp()
            before, behind = wall_before(change, zone), _wall(change, zone)
            if behind > before and before <= tick < behind and not self.runs_by_elapsed_time:
                return change.timestamp()
            # Go on at the change, itself included; a fixed time skips what has been already.
            start = behind if self.runs_by_elapsed_time or behind > before else before
            moment, wall = change, start - _SECOND
        return None

    def last_tick(self, since: float, until: float, zone: ZoneInfo) -> float | None:
        """The latest tick in (since, until]; None without one."""
        low, high = since, until
        if self.next_tick(low, zone) is None or (self.next_tick(low, zone) or 0) > until:
            return None
        # next_tick grows with its argument: halve until its latest value within the bounds is found.
        while high - low > 0.5:
            middle = (low + high) / 2
            tick = self.next_tick(middle, zone)
            if tick is None or tick > until:
                high = middle
            else:
                low = middle
        return self.next_tick(low, zone)

    def _after(self, wall: datetime) -> datetime | None:
        try:
            found = croniter(self.text, wall, second_at_beginning=True, max_years_between_matches=HORIZON_YEARS).get_next(datetime)
        except CroniterBadDateError:
            return None
        return found if isinstance(found, datetime) else None


def parse(expression: str) -> Cron:
    """Raises BadRequest."""
    fields = tuple(expression.split())
    if len(expression) > MAX_EXPRESSION or not all(map(_FIELD.fullmatch, fields)) or len(fields) not in (5, 6, 7):
        raise _wrong(expression)
    seven = {5: ("0", *fields, "*"), 6: (*fields, "*"), 7: fields}[len(fields)]
    seven = tuple("*" if at in (3, 5) and field == "?" else field.upper() for at, field in enumerate(seven))
    cron = Cron(seven)
    try:
        # Also expands it: a wrong range or name shows here.
        croniter(cron.text, datetime(2026, 1, 1), second_at_beginning=True)
    except (CroniterError, ValueError, KeyError, OverflowError) as error:
        raise _wrong(expression, str(error)) from error
    return cron


def _wrong(expression: str, why: str = "") -> BadRequest:
    detail = f"cron: {shown(expression)} is no cron expression" + (f": {why[:120]}" if why else "")
    return BadRequest(detail, field="cron", hint="second minute hour day month week year, as in 0 */5 * * * * *")


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def wall_before(change: datetime, zone: ZoneInfo) -> datetime:
    """What the clock would have shown at the change, had it not changed."""
    return _wall(change - _SECOND, zone) + _SECOND


def _first_change(start: datetime, end: datetime, zone: ZoneInfo) -> datetime | None:
    """The first moment in (start, end] from which the zone's offset is another; to the second."""
    # Changes are weeks apart: a step of one finds each.
    low = start
    offset = low.astimezone(zone).utcoffset()
    while low < end:
        high = min(low + timedelta(days=7), end)
        if high.astimezone(zone).utcoffset() != offset:
            break
        low = high
    else:
        return None
    while high - low > _SECOND:
        middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high


def _end_of_fold(moment: datetime, zone: ZoneInfo) -> datetime:
    """For a moment whose wall-clock time comes the second time: the first wall-clock time that comes only once again."""
    change = _first_change(moment - timedelta(days=1), moment, zone)
    return wall_before(change, zone) if change is not None else _wall(moment, zone)
