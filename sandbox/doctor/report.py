"""The doctor's report: tables on a terminal, plain aligned text into a pipe, JSON for scripts."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from itertools import groupby
from typing import Final

import click

from sandbox.doctor import leaks
from sandbox.doctor.model import Check, Finding, Report

ITEMS_SHOWN: Final = 5
_COLOURS: Final = {"ok": "green", "weaker": "yellow", "missing": "red", "later": "cyan", "leaked": "red", "in use": "green"}


def show(report: Report, *, as_json: bool) -> None:
    """Print it to stdout."""
    if as_json:
        click.echo(json.dumps(to_json(report), indent=1))
    elif sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        _print_tables(report)
    else:
        click.echo("\n".join(plain(report)))


def to_json(report: Report) -> dict[str, object]:
    """The report's own fields; `ok` goes with the exit status, `missing` and `leaked` are counts, `leaks` counts by kind."""
    return {**asdict(report), "ok": report.ok, "missing": report.missing, "leaked": report.leaked, "leaks": leaks.counts(report.findings)}


def plain(report: Report) -> list[str]:
    """Lines for a pipe: state, name, what is here; then what is weaker, where something is."""
    lines: list[str] = []
    width = max(len(check.name) for check in report.checks) if report.checks else 0
    for group, checks in groupby(report.checks, key=lambda check: check.group):
        lines.append(group)
        for check in checks:
            lines.append(f"  {check.state:<8}{check.name:<{width}}  {check.found} ({check.needs})")
            if check.without:
                lines.append(f"  {'':<8}{'':<{width}}  {check.without}")
    if report.findings:
        lines.append("left on this host")
    lines += [f"  {_state(finding):<8}{_owner(report, finding)}: {_counted(finding)}" for finding in report.findings]
    return [*lines, *_closing(report)]


def _print_tables(report: Report) -> None:
    # Imported here: a pipe doesn't wait for it.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(markup=False, highlight=False)
    for group, grouped in groupby(report.checks, key=lambda check: check.group):
        checks = list(grouped)
        headings = ("", "Guarantee", "Needs", "Here", "Otherwise")[: 5 if any(check.without for check in checks) else 4]
        table = Table(box=box.SIMPLE_HEAD, title=group, title_justify="left", title_style="bold", pad_edge=False)
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for check in checks:
            table.add_row(Text(check.state, style=_COLOURS[check.state]), *_cells(check)[: len(headings) - 1])
        console.print(table)
    if report.findings:
        table = Table(box=box.SIMPLE_HEAD, title="left on this host", title_justify="left", title_style="bold", pad_edge=False)
        for heading in ("", "Of", "What"):
            table.add_column(heading, overflow="fold")
        for finding in report.findings:
            state = _state(finding)
            table.add_row(Text(state, style=_COLOURS[state]), Text(_owner(report, finding)), Text(_counted(finding)))
        console.print(table)
    for line in _closing(report):
        console.print(line)


def _cells(check: Check) -> tuple[str, ...]:
    return check.name, check.needs, check.found, check.without


def _state(finding: Finding) -> str:
    return "leaked" if finding.leaked else "in use"


def _owner(report: Report, finding: Finding) -> str:
    return "this instance" if finding.instance == report.instance else f"dead instance {finding.instance}"


def _counted(finding: Finding) -> str:
    """Kind and number; what they are only where they should not be."""
    counted = f"{len(finding.items)} {finding.kind}"
    if not finding.leaked:
        return counted
    more = f", and {len(finding.items) - ITEMS_SHOWN} more" if len(finding.items) > ITEMS_SHOWN else ""
    return f"{counted}: {', '.join(finding.items[:ITEMS_SHOWN])}{more}"


def _closing(report: Report) -> list[str]:
    lines = list(report.fixed)
    lines.append(f"looked for {', '.join(f'{kind} ({count})' for kind, count in leaks.counts(report.findings).items())}")
    lines.append(f"instance {report.instance} of {report.home} is {'running' if report.running else 'not running'}")
    if report.missing:
        lines.append(f"{report.missing} of {len(report.checks)} guarantees can't be given here")
    else:
        lines.append("everything promised is here")
    if report.leaked:
        advice = "hearth doctor --fix removes what dead instances left"
        lines.append(f"{report.leaked} things are left behind" + ("" if report.fixed else f": {advice}"))
    else:
        lines.append("nothing is left behind")
    return lines
