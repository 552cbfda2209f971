"""What commands print: a table on a terminal, plain aligned text into a pipe, JSON for scripts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], Any]]
"""Heading and how a row gives its cell."""

as_json = click.option("--json", "json_output", is_flag=True, help="Print JSON for scripts.")
"""The option of every command that prints a table."""


def is_fancy() -> bool:
    """Whether stdout is a terminal that wants colour and boxes."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(rows: Sequence[Row], columns: Sequence[Column], *, empty: str) -> None:
    """Print one line a row; `empty` goes to stderr when there is none, so that a pipe stays empty."""
    if not rows:
        click.echo(empty, err=True)
        return
    cells = [[cell(get(row)) for _, get in columns] for row in rows]
    headings = [heading for heading, _ in columns]
    if is_fancy():
        _print_rich(headings, cells)
        return
    widths = [max(len(line[i]) for line in [headings, *cells]) for i in range(len(headings))]
    for line in [headings, *cells]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _print_rich(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    # Imported here: it costs more than everything else that a command in a pipe does.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for line in cells:
        table.add_row(*line)
    Console(markup=False, highlight=False).print(table)


def print_pairs(value: Row) -> None:
    """Print one thing as aligned `key  value` lines, nested mappings one level deep."""
    width = max((len(key) for key in value), default=0)
    for key, item in value.items():
        click.echo(f"{click.style(key.ljust(width), bold=True) if is_fancy() else key.ljust(width)}  {cell(item)}".rstrip())


def cell(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    # A cell is one line and moves no cursor, whatever a function called itself.
    return "".join(char if char.isprintable() else " " for char in str(value))


def mebibytes(value: Any) -> str:
    return f"{value / 2**20:.1f} MB" if isinstance(value, int | float) else "-"


def seconds(value: Any) -> str:
    if not isinstance(value, int | float):
        return "-"
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 6000 else f"{value / 3600:.1f} h"
