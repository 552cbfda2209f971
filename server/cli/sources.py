"""`hearth source`: other stores whose notifications become events."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from server.cli.client import open_api
from server.cli.output import Column, as_json, print_json, print_pairs, print_table

COLUMNS: list[Column] = [
    ("NAME", lambda row: row.get("name")),
    ("PATH", lambda row: row.get("path")),
    ("CREATED", lambda row: row.get("created_at")),
    ("DESCRIPTION", lambda row: row.get("description")),
]


@click.group(short_help="Other stores whose notifications call functions.")
def source() -> None:
    """Make, list and remove the stores that may send S3 notifications. docs/outside-events.md has their settings."""


@source.command(short_help="Make a source and print its secret.")
@click.argument("name")
@click.option("--description", help="What it is.")
@as_json
@click.pass_context
def create(context: click.Context, name: str, description: str | None, json_output: bool) -> None:
    """Make the source NAME and print its secret, which is shown this one time only."""
    body = {"name": name} | ({} if description is None else {"description": description})
    _show(open_api(context).send_json("POST", "/v1/sources", body), json_output)


@source.command(short_help="Give a source another secret.")
@click.argument("name")
@as_json
@click.pass_context
def renew(context: click.Context, name: str, json_output: bool) -> None:
    """Give the source NAME another secret and print it. The old one is refused from now on."""
    _show(open_api(context).send_json("POST", f"{_path(name)}/secret", {}), json_output)


@source.command(short_help="List the sources, without their secrets.")
@as_json
@click.pass_context
def ls(context: click.Context, json_output: bool) -> None:
    """List the sources, without their secrets."""
    rows = open_api(context).rows("/v1/sources", "sources")
    print_json(rows) if json_output else print_table(rows, COLUMNS, empty="no sources")


@source.command(short_help="Remove sources.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_context
def rm(context: click.Context, names: tuple[str, ...]) -> None:
    """Remove sources that no trigger names."""
    api = open_api(context)
    for name in names:
        api.request("DELETE", _path(name))
        click.echo(f"removed {name}")


def _show(made: Any, json_output: bool) -> None:
    print_json(made) if json_output else print_pairs(made)


def _path(name: str) -> str:
    return f"/v1/sources/{quote(name, safe='')}"
