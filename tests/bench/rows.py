"""The rows of the table: what was measured, the reference of the same run, what must be reached, what is aimed at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True, kw_only=True)
class Row:
    """One line. `value` is what `must` and `aim` are compared with; `ratio` rows show what it was made of in `measured`.

    `must` and `aim` are None for a row that is only told. `at_least`: more is better.
    """

    name: str
    measured: str
    value: float
    unit: str = "×"
    must: float | None = None
    aim: float | None = None
    at_least: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        return _meets(self.value, self.must, self.at_least)

    @property
    def aimed(self) -> bool | None:
        return _meets(self.value, self.aim, self.at_least)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "reached": self.reached, "aimed": self.aimed}


def _meets(value: float, bound: float | None, at_least: bool) -> bool | None:
    if bound is None:
        return None
    return value >= bound if at_least else value <= bound


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(rows: Iterable[Row]) -> str:
    """Plain text, columns aligned."""
    lines = [("", "measured", "value", "must", "aim", "")]
    for row in rows:
        lines.append(
            (row.name, row.measured, _number(row.value, row.unit), _number(row.must, row.unit), _number(row.aim, row.unit), _mark(row))
        )
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "-" * (sum(widths) + 10), *text[1:]])


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.{0 if value >= 100 else 2}f} {unit}"


def _mark(row: Row) -> str:
    if row.reached is None:
        return "·"
    if not row.reached:
        return "MISSED"
    return "ok, aim reached" if row.aimed else "ok"
