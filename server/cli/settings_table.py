"""README's table of settings, and an operator's /etc/hearth/hearth.toml, made from their one declaration.

`python -m server.cli.settings_table` prints the table; `--write` puts it between README's markers; `--check` fails if it differs; `--toml`
prints the file: every setting with its meaning and default, commented out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click

from sandbox.settings import describe

README: Final = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->\n"


def table() -> str:
    """The Markdown table, one row a setting."""
    head = ["| environment | default | what it is |", "|---|---|---|"]
    return "\n".join([*head, *(_row(row) for row in describe())]) + "\n"


def _row(row: dict[str, Any]) -> str:
    default = f"`{row['default']}`" if row["default"] != "" else "(empty)"
    meaning = row["help"].replace("|", "\\|")
    return f"| `{row['environment']}` | {default} | {meaning}{_bounds(row['low'], row['high'])} |"


def _bounds(low: float | None, high: float | None) -> str:
    if high is not None:
        return f" ({low} to {high})"
    return f" (at least {low})" if low is not None else ""


def toml() -> str:
    """A configuration file that changes nothing: whoever wants another value takes the "#" away."""
    head = (
        "# Hearth's settings. What is commented out has the value shown, the default; HEARTH_... in the environment wins over this file.\n"
        "# After a change: systemctl restart hearth-sandboxd.service, and systemctl reload hearth-api.service for what concerns HTTP.\n"
    )
    rows = (f"\n# {row['help']}{_bounds(row['low'], row['high'])}\n#{row['name']} = {_literal(row['default'])}\n" for row in describe())
    return head + "".join(rows)


def _literal(value: Any) -> str:
    return json.dumps(value)  # strings, numbers and booleans are written alike in JSON and TOML


def replaced(text: str) -> str:
    """`text` with the present table between the markers. Raises ValueError without them."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"no {BEGIN.strip()} … {END.strip()}")
    return before + BEGIN + table() + END + after


@click.command()
@click.option("--check", is_flag=True)
@click.option("--write", is_flag=True)
@click.option("--toml", "as_toml", is_flag=True)
def main(check: bool, write: bool, as_toml: bool) -> None:
    """Print, write or check README's table of settings; or print a configuration file."""
    if as_toml:
        click.echo(toml(), nl=False)
        return
    if not (check or write):
        click.echo(table(), nl=False)
        return
    text = README.read_text()
    wanted = replaced(text)
    if write:
        README.write_text(wanted)
    elif wanted != text:
        raise click.ClickException("the settings table in README.md is out of date: python -m server.cli.settings_table --write")


if __name__ == "__main__":
    main()
