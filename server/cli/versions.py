"""`hearth version ls | publish | rm` and `hearth alias ls | set | rm`: frozen copies of a function, and names that lead to them."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import click

from server.cli.client import function_path, namespaced, open_api
from server.cli.failure import WrongRequest
from server.cli.output import Column, Row, as_json, print_json, print_table

VERSIONS: list[Column] = [
    ("VERSION", lambda row: row["version"]),
    ("DESCRIPTION", lambda row: row.get("description")),
    ("RUNTIME", lambda row: row.get("runtime")),
    ("MEMORY", lambda row: f"{row.get('memory')} MB"),
    ("CODE", lambda row: str(row.get("code_sha256"))[:12]),
    ("CREATED", lambda row: row.get("created_at")),
]
ALIASES: list[Column] = [
    ("ALIAS", lambda row: row["name"]),
    ("VERSION", lambda row: row["version"]),
    ("ROUTING", lambda row: _routing(row)),
    ("DESCRIPTION", lambda row: row.get("description")),
    ("UPDATED", lambda row: row.get("updated_at")),
]


def _routing(row: Row) -> list[str]:
    matches = [f"{rule['version']} if {rule['key']} {rule['method']} {rule['expression']}" for rule in row["routing"]["matches"]]
    return matches + [f"{item['weight']:.0%} to {item['version']}" for item in row["routing"]["weights"]]


@click.group(short_help="ls, publish or rm a function's versions.")
def version() -> None:
    """Versions: copies of a function's code and configuration that never change."""


@version.command("ls", short_help="List a function's versions.")
@click.argument("name")
@namespaced
@as_json
@click.pass_context
def list_versions(context: click.Context, name: str, json_output: bool) -> None:
    """List the versions of NAME."""
    rows = open_api(context).rows(function_path(name, "versions"), "versions")
    print_json(rows) if json_output else print_table(rows, VERSIONS, empty="no versions")


@version.command(short_help="Freeze $LATEST as the next version.")
@click.argument("name")
@click.option("--description", help="[default: the function's]")
@namespaced
@as_json
@click.pass_context
def publish(context: click.Context, name: str, description: str | None, json_output: bool) -> None:
    """Freeze what NAME is now as its next version."""
    made = open_api(context).send_json("POST", function_path(name, "versions"), {"description": description})
    print_json(made) if json_output else click.echo(f"published {name} {made['version']}")


@version.command("rm", short_help="Delete versions.")
@click.argument("name")
@click.argument("numbers", metavar="VERSION...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Although aliases point to it: they go too, $DEFAULT falls back to $LATEST.")
@namespaced
@click.pass_context
def remove_versions(context: click.Context, name: str, numbers: tuple[str, ...], force: bool) -> None:
    """Delete versions of NAME. Running calls finish."""
    api = open_api(context)
    for number in numbers:
        api.request("DELETE", function_path(name, "versions", quote(number, safe="")), params={"force": "1"} if force else {})
        click.echo(f"deleted {name} {number}")


@click.group(short_help="ls, set or rm a function's aliases.")
def alias() -> None:
    """Aliases: names that lead to versions."""


@alias.command("ls", short_help="List a function's aliases.")
@click.argument("name")
@namespaced
@as_json
@click.pass_context
def list_aliases(context: click.Context, name: str, json_output: bool) -> None:
    """List the aliases of NAME."""
    rows = open_api(context).rows(function_path(name, "aliases"), "aliases")
    print_json(rows) if json_output else print_table(rows, ALIASES, empty="no aliases")


@alias.command("set", short_help="Create or change an alias.")
@click.argument("name")
@click.argument("alias")
@click.argument("version")
@click.option("--weight", metavar="VERSION=SHARE", help="One more version and its share of the calls, 0 to 1.")
@click.option("--match", "matches", multiple=True, metavar="JSON", help="A rule: version, key, method, expression.  Repeatable.")
@click.option("--description")
@namespaced
@as_json
@click.pass_context
def set_alias(
    context: click.Context,
    /,
    name: str,
    alias: str,
    version: str,
    weight: str | None,
    matches: tuple[str, ...],
    description: str | None,
    json_output: bool,
) -> None:
    """Let ALIAS of NAME lead to VERSION, alone unless --weight or --match say otherwise."""
    api, path = open_api(context), function_path(name, "aliases", quote(alias, safe=""))
    routing = {"weights": _weights(weight), "matches": [_parsed(rule) for rule in matches]}
    wanted = {"version": version, "routing": routing, **({} if description is None else {"description": description})}
    if api.exists(path):
        made = api.send_json("PATCH", path, wanted)
    else:
        made = api.send_json("POST", function_path(name, "aliases"), {"name": alias, **wanted})
    print_json(made) if json_output else click.echo(f"{name} {alias} leads to {version}")


@alias.command("rm", short_help="Delete aliases.")
@click.argument("name")
@click.argument("aliases", metavar="ALIAS...", nargs=-1, required=True)
@namespaced
@click.pass_context
def remove_aliases(context: click.Context, name: str, aliases: tuple[str, ...]) -> None:
    """Delete aliases of NAME."""
    api = open_api(context)
    for alias in aliases:
        api.request("DELETE", function_path(name, "aliases", quote(alias, safe="")))
        click.echo(f"deleted {name} {alias}")


def _weights(item: str | None) -> list[dict[str, Any]]:
    if item is None:
        return []
    version, _, share = item.rpartition("=")
    try:
        weight = float(share)
    except ValueError:
        version = ""
    if not version:
        raise WrongRequest(f"--weight {item!r}", hint="it takes VERSION=SHARE, as in 2=0.1")
    return [{"version": version, "weight": weight}]


def _parsed(rule: str) -> Any:
    try:
        return json.loads(rule)
    except ValueError as error:
        raise WrongRequest(f"--match {rule!r} is not JSON: {error}") from None
