"""`hearth concurrency | provisioned | account`: shares of functions, workers started ahead, totals of namespaces."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from server.cli.client import function_path, open_api
from server.cli.failure import WrongRequest
from server.cli.output import Column, as_json, print_json, print_pairs, print_table

NAMESPACES: list[Column] = [
    ("NAMESPACE", lambda row: row["namespace"]),
    ("FUNCTIONS", lambda row: row["functions_count"]),
    ("TOTAL", lambda row: f"{row['total_mb']} MB"),
    ("RESERVED", lambda row: f"{row['reserved_mb']} MB"),
    ("UNRESERVED", lambda row: f"{row['unreserved_mb']} MB"),
    ("PROVISIONED", lambda row: f"{row['provisioned_mb']} MB"),
]

in_namespace = click.option("--namespace", default="default", show_default=True, help="Whose function it is.")


def _in(path: str, namespace: str) -> str:
    return path if namespace == "default" else f"{path}?namespace={quote(namespace, safe='')}"


def _show(value: dict[str, Any], json_output: bool) -> None:
    (print_json if json_output else print_pairs)(value)


# -- hearth concurrency ------------------------------------------------------------------------------------------------------


@click.group(short_help="A function's reserved concurrency.")
def concurrency() -> None:
    """Concurrency reserved for a function, in MB of memory: its private share of the namespace's total, and its bound; 0 shuts it off.

    How many calls at once that is depends on the function's memory: 1280 MB are ten calls of a function of 128 MB.
    """


@concurrency.command("get", short_help="Show it.")
@click.argument("name")
@in_namespace
@as_json
@click.pass_context
def concurrency_get(context: click.Context, name: str, namespace: str, json_output: bool) -> None:
    """Show what NAME has reserved, and what its namespace has."""
    _show(open_api(context).get(function_path(name, "concurrency"), namespace=namespace), json_output)


@concurrency.command("set", short_help="Reserve, or shut off with 0.")
@click.argument("name")
@click.argument("megabytes", metavar="MB", type=int)
@in_namespace
@as_json
@click.pass_context
def concurrency_set(context: click.Context, name: str, megabytes: int, namespace: str, json_output: bool) -> None:
    """Reserve MB for NAME over all its versions; with 0 every call is refused, at once."""
    path = _in(function_path(name, "concurrency"), namespace)
    _show(open_api(context).send_json("PUT", path, {"reserved_mb": megabytes}), json_output)


@concurrency.command("rm", short_help="Back to the shared part.")
@click.argument("name")
@in_namespace
@click.pass_context
def concurrency_rm(context: click.Context, name: str, namespace: str) -> None:
    """Give NAME's reservation back: it uses what all functions without one share."""
    open_api(context).request("DELETE", _in(function_path(name, "concurrency"), namespace))
    click.echo(f"{name} has no reservation")


# -- hearth provisioned ------------------------------------------------------------------------------------------------------


@click.group(short_help="Workers of a version, started ahead and kept.")
def provisioned() -> None:
    """Workers of a published version that are started and loaded ahead, kept, and replaced when they die."""


def _provisioned_path(name: str, version: str) -> str:
    return function_path(name, "versions", quote(version, safe=""), "provisioned")


@provisioned.command("get", short_help="Show how many there should be and are.")
@click.argument("name")
@click.argument("version")
@in_namespace
@as_json
@click.pass_context
def provisioned_get(context: click.Context, name: str, version: str, namespace: str, json_output: bool) -> None:
    """Show how many workers of NAME's VERSION there should be and are, and why the last start failed."""
    _show(open_api(context).get(_provisioned_path(name, version), namespace=namespace), json_output)


@provisioned.command("set", short_help="Have so many.")
@click.argument("name")
@click.argument("version")
@click.argument("number", type=int)
@click.option(
    "--at",
    "actions",
    multiple=True,
    metavar="NAME=NUMBER=CRON",
    help="Repeatable: at these times (seven fields, in the setting timer_zone) the number changes.",
)
@in_namespace
@as_json
@click.pass_context
def provisioned_set(
    context: click.Context, /, name: str, version: str, number: int, actions: tuple[str, ...], namespace: str, json_output: bool
) -> None:
    """Have NUMBER workers of NAME's VERSION, until an action of the schedule changes it:

    \b
    hearth provisioned set shop 3 1 --at 'day=10=0 0 8 * * MON-FRI *' --at 'night=1=0 0 20 * * * *'
    """
    body = {"number": number, "schedule": [_action(text) for text in actions]}
    _show(open_api(context).send_json("PUT", _in(_provisioned_path(name, version), namespace), body), json_output)


def _action(text: str) -> dict[str, Any]:
    name, _, rest = text.partition("=")
    number, _, cron = rest.partition("=")
    if not name or not cron or not (number.isascii() and number.isdecimal()):
        raise WrongRequest(f"--at {text!r}", hint="it takes NAME=NUMBER=CRON, as in 'day=10=0 0 8 * * MON-FRI *'")
    return {"name": name, "number": int(number), "cron": cron}


@provisioned.command("rm", short_help="Release them.")
@click.argument("name")
@click.argument("version")
@in_namespace
@click.pass_context
def provisioned_rm(context: click.Context, name: str, version: str, namespace: str) -> None:
    """Release the provisioned workers of NAME's VERSION; they go as other idle ones do."""
    open_api(context).request("DELETE", _in(_provisioned_path(name, version), namespace))
    click.echo(f"nothing of {name} {version} is provisioned")


# -- hearth account ----------------------------------------------------------------------------------------------------------


@click.group(invoke_without_command=True, short_help="What namespaces use and may use.")
@as_json
@click.pass_context
def account(context: click.Context, json_output: bool) -> None:
    """What each namespace uses and may use; `set-total` changes how much that is."""
    if context.invoked_subcommand is None:
        found = open_api(context).get("/v1/account")
        if json_output:
            print_json(found)
        else:
            print_table(found["namespaces"], NAMESPACES, empty="no namespaces")


@account.command("set-total", short_help="Set a namespace's total concurrency.")
@click.argument("megabytes", metavar="MB", type=int)
@click.option("--namespace", default="default", show_default=True)
@click.pass_context
def account_set_total(context: click.Context, megabytes: int, namespace: str) -> None:
    """Let the functions of a namespace use MB of memory at once, together."""
    open_api(context).send_json("PUT", "/v1/account", {"namespace": namespace, "total_mb": megabytes})
    click.echo(f"{namespace}: {megabytes} MB")
