"""`hearth trigger`: what makes a function's events by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import click

from server.cli.client import function_path, namespaced, open_api
from server.cli.failure import WrongRequest
from server.cli.output import Column, as_json, print_json, print_table

TIMER: Final = "timer"
HTTP: Final = "http"
AUTH_TYPES: Final = ("NONE", "CAM", "BEARER")
TRIGGERS: list[Column] = [
    ("NAME", lambda row: row["name"]),
    ("TYPE", lambda row: row.get("type")),
    ("ENABLED", lambda row: row.get("enabled")),
    ("QUALIFIER", lambda row: row.get("qualifier")),
    ("NEXT", lambda row: row.get("next_at")),
    ("URL", lambda row: url_of(row)),
    (
        "CONFIG",
        lambda row: {key: value for key, value in row.get("config", {}).items() if value not in (None, "", {}) and key != "NetConfig"},
    ),
]


def url_of(row: Mapping[str, Any]) -> str | None:
    """An HTTP trigger's."""
    net = row.get("config", {}).get("NetConfig") or {}
    return net.get("ExtranetUrl") or net.get("IntranetUrl")


@click.group(short_help="What makes a function's events by itself.")
def trigger() -> None:
    """Add, list and remove the triggers of a function."""


@trigger.command(short_help="Give a function a trigger.")
@click.argument("function")
@click.argument("name", required=False)
@click.option("--cron", metavar="EXPRESSION", help="A timer: second minute hour day month week year.")
@click.option("--argument", metavar="TEXT", help="The Message in a timer's event.")
@click.option("--zone", help="A timer's time zone.  [default: the setting timer_zone]")
@click.option("--type", "kind", help="timer, http, cos …; a timer is what --cron makes anyway.")
@click.option("--config", metavar="JSON", help="The configuration, whole; http may do without.")
@click.option(
    "--auth", type=click.Choice(AUTH_TYPES, case_sensitive=False), help="Who may use an HTTP trigger's URL.  [default: NONE, anybody]"
)
@click.option("--qualifier", help="Version or alias.  [default: $LATEST]")
@click.option("--description")
@click.option("--disabled", is_flag=True, help="Make it, and let it rest.")
@namespaced
@as_json
@click.pass_context
def add(context: click.Context, /, function: str, name: str | None, disabled: bool, json_output: bool, **options: Any) -> None:
    """Give FUNCTION the trigger NAME, which else is called by its type.

    \b
    hearth trigger add hello tick --cron '0 */5 * * * * *'
    hearth trigger add hello --type http --auth bearer
    hearth trigger add hello --type cos --config '{"bucket": "photos-1250000000", "event": "cos:ObjectCreated:*"}'
    """
    kind, config = _configuration(options)
    name = name or kind
    body = {"name": name, "type": kind, "config": config, "enabled": not disabled}
    body |= {key: options[key] for key in ("qualifier", "description") if options[key] is not None}
    made = open_api(context).send_json("POST", function_path(function, "triggers"), body)
    if json_output:
        print_json(made)
    else:
        click.echo(f"added {name} to {function}" + (f", next at {made['next_at']}" if made.get("next_at") else ""))
        if url := url_of(made):
            click.echo(url)


def _configuration(options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    timer = {key: options[key] for key in ("cron", "argument", "zone") if options[key] is not None}
    kind, text = options["kind"] or (TIMER if timer or options["config"] is None else ""), options["config"]
    if options["auth"] is not None and kind != HTTP:
        raise WrongRequest("--auth belongs to --type http")
    if timer and (kind != TIMER or text is not None):
        raise WrongRequest(f"--{next(iter(timer))} belongs to a timer, without --config")
    if kind == HTTP:
        return HTTP, _http(text, options["auth"])
    if kind == TIMER and text is None:
        if "cron" not in timer:
            raise WrongRequest("a timer needs --cron", hint="'0 */5 * * * * *' is every five minutes; another type: --type and --config")
        return TIMER, timer
    if not kind or text is None:
        raise WrongRequest("--config needs --type" if not kind else f"--type {kind} needs --config", hint="see `hearth trigger add --help`")
    return kind, _json(text)


def _http(text: str | None, auth: str | None) -> dict[str, Any]:
    config = _json(text) if text is not None else {}
    return config | {"AuthType": auth} if auth is not None else config


def _json(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise WrongRequest(f"--config is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise WrongRequest("--config is not a JSON object")
    return config


@trigger.command(short_help="List a function's triggers.")
@click.argument("function")
@namespaced
@as_json
@click.pass_context
def ls(context: click.Context, function: str, json_output: bool) -> None:
    """List the triggers of FUNCTION."""
    rows = open_api(context).rows(function_path(function, "triggers"), "triggers")
    print_json(rows) if json_output else print_table(rows, TRIGGERS, empty="no triggers")


@trigger.command(short_help="Remove triggers.")
@click.argument("function")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@namespaced
@click.pass_context
def rm(context: click.Context, function: str, names: tuple[str, ...]) -> None:
    """Remove triggers of FUNCTION. Events they have made still run."""
    api = open_api(context)
    for name in names:
        api.request("DELETE", _path(function, name))
        click.echo(f"removed {name}")


@trigger.command(short_help="Let a trigger fire.")
@click.argument("function")
@click.argument("name")
@namespaced
@click.pass_context
def enable(context: click.Context, function: str, name: str) -> None:
    """Let the trigger NAME of FUNCTION fire; a timer from its next tick on."""
    open_api(context).send_json("PATCH", _path(function, name), {"enabled": True})
    click.echo(f"enabled {name}")


@trigger.command(short_help="Let a trigger rest.")
@click.argument("function")
@click.argument("name")
@namespaced
@click.pass_context
def disable(context: click.Context, function: str, name: str) -> None:
    """Let the trigger NAME of FUNCTION rest."""
    open_api(context).send_json("PATCH", _path(function, name), {"enabled": False})
    click.echo(f"disabled {name}")


def _path(function: str, name: str) -> str:
    return function_path(function, "triggers", quote(name, safe=""))
