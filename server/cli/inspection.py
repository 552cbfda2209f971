"""`hearth ps | usage | config | token`: what runs, what was used, how it's set."""

from __future__ import annotations

import click

from sandbox.settings import describe
from server.cli.client import load_settings, namespaced, open_api, read_credential
from server.cli.failure import CommandError
from server.cli.output import Column, as_json, mebibytes, print_json, print_table, seconds

SANDBOXES: list[Column] = [
    ("SANDBOX", lambda row: row.get("id")),
    ("STATE", lambda row: row.get("state")),
    ("NAMESPACE", lambda row: row.get("namespace")),
    ("FUNCTION", lambda row: row.get("function")),
    ("VERSION", lambda row: row.get("version")),
    ("RUNTIME", lambda row: row.get("runtime")),
    ("IMAGE", lambda row: row.get("image")),
    ("NETWORK", lambda row: row.get("network")),
    ("PID", lambda row: row.get("pid")),
    ("MEMORY", lambda row: mebibytes(row.get("memory_bytes"))),
    ("AGE", lambda row: seconds(row.get("age_seconds"))),
    ("IDLE", lambda row: seconds(row.get("idle_seconds"))),
    ("CALLS", lambda row: row.get("calls")),
]
USAGE: list[Column] = [
    ("DAY", lambda row: row.get("day")),
    ("FUNCTION", lambda row: row.get("function")),
    ("CALLS", lambda row: row.get("calls", 0)),
    ("FAILURES", lambda row: row.get("failures", 0)),
    ("THROTTLED", lambda row: row.get("throttled", 0)),
    ("GB-SECONDS", lambda row: f"{row.get('gb_seconds') or 0:.3f}"),
]
CONFIG: list[Column] = [
    ("SETTING", lambda row: row["name"]),
    ("VALUE", lambda row: str(row["value"])),
    ("DEFAULT", lambda row: str(row["default"])),
    ("ENVIRONMENT", lambda row: row["environment"]),
    ("WHAT IT IS", lambda row: row["help"]),
]
DAY = click.DateTime(["%Y-%m-%d"])


@click.command(short_help="List the sandboxes.")
@as_json
@click.pass_context
def ps(context: click.Context, json_output: bool) -> None:
    """List the sandboxes: leased ones run a call, idle and frozen ones are warm, prepared ones have no function yet."""
    rows = open_api(context).rows("/v1/sandboxes", "sandboxes")
    if json_output:
        print_json(rows)
    else:
        print_table(rows, SANDBOXES, empty="no sandboxes")


@click.command(short_help="Show calls and GB-seconds by function and day.")
@click.option("--from", "first", type=DAY, help="First day (UTC).")
@click.option("--to", "last", type=DAY, help="Last day (UTC).")
@namespaced
@as_json
@click.pass_context
def usage(context: click.Context, first: object, last: object, json_output: bool) -> None:
    """Show calls and GB-seconds by function and day."""
    days = {"from": first and str(first)[:10], "to": last and str(last)[:10]}
    rows = open_api(context).rows("/v1/usage", "usage", **days)
    if json_output:
        print_json(rows)
    else:
        print_table(rows, USAGE, empty="nothing was called in that time")


@click.command(short_help="Show every setting and its value here.")
@as_json
def config(json_output: bool) -> None:
    """Show every setting with the value that this environment and the configuration file give it."""
    settings = load_settings()
    rows = [{**row, "value": getattr(settings, row["name"])} for row in describe()]
    if json_output:
        print_json(rows)
    else:
        print_table(rows, CONFIG, empty="")


@click.command(short_help="Print the credential.")
def token() -> None:
    """Print the bearer credential that `hearth up` made at its first start."""
    settings = load_settings()
    credential = read_credential(settings)
    if credential is None:
        raise CommandError(f"cannot read {settings.credential_path}", hint="run it as root, after the first `hearth up`")
    click.echo(credential)
