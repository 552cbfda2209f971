"""`hearth namespace ls | create | rm`."""

from __future__ import annotations

from urllib.parse import quote

import click

from server.cli.client import open_api
from server.cli.output import Column, as_json, print_json, print_table

COLUMNS: list[Column] = [
    ("NAME", lambda row: row["name"]),
    ("DESCRIPTION", lambda row: row.get("description")),
    ("CREATED", lambda row: row.get("created_at")),
]


@click.group(short_help="ls, create or rm namespaces.")
def namespace() -> None:
    """Namespaces: a function's name is its own only within one."""


@namespace.command(short_help="List the namespaces.")
@as_json
@click.pass_context
def ls(context: click.Context, json_output: bool) -> None:
    """List the namespaces."""
    rows = open_api(context).rows("/v1/namespaces", "namespaces")
    print_json(rows) if json_output else print_table(rows, COLUMNS, empty="no namespaces")


@namespace.command(short_help="Create a namespace.")
@click.argument("name")
@click.option("--description", default="")
@as_json
@click.pass_context
def create(context: click.Context, name: str, description: str, json_output: bool) -> None:
    """Create the namespace NAME."""
    made = open_api(context).send_json("POST", "/v1/namespaces", {"name": name, "description": description})
    print_json(made) if json_output else click.echo(f"created {name}")


@namespace.command(short_help="Delete namespaces that have no function.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_context
def rm(context: click.Context, names: tuple[str, ...]) -> None:
    """Delete namespaces that have no function."""
    api = open_api(context)
    for name in names:
        api.request("DELETE", f"/v1/namespaces/{quote(name, safe='')}")
        click.echo(f"deleted {name}")
