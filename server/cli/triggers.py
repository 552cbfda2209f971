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
@click.argument("name")
@click.option("--cron", metavar="EXPRESSION", help="A timer: second minute hour day month week year.")
@click.option("--argument", metavar="TEXT", help="The Message in a timer's event.")
@click.option("--zone", help="A timer's time zone.  [default: the setting timer_zone]")
@click.option("--type", "kind", help="Another type than timer, as http; then --config gives the rest.")
@click.option("--config", metavar="JSON", help="The configuration of a trigger of that type.  [http: {}]")
@click.option(
    "--auth", type=click.Choice(AUTH_TYPES, case_sensitive=False), help="Who may use an HTTP trigger's URL.  [default: NONE, anybody]"
)
@click.option("--qualifier", help="Version or alias.  [default: $LATEST]")
@click.option("--description")
@click.option("--disabled", is_flag=True, help="Make it, and let it rest.")
@namespaced
@as_json
@click.pass_context
def add(context: click.Context, /, function: str, name: str, disabled: bool, json_output: bool, **options: Any) -> None:
    """Give FUNCTION the trigger NAME: a timer with --cron '0 */5 * * * * *', a URL with --type http."""
    kind, config = _configuration(options)
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
    if options["kind"] == HTTP and not timer:
        return HTTP, _http(options["config"], options["auth"])
    if options["auth"] is not None:
        raise WrongRequest("--auth belongs to --type http")
    if options["kind"] is None and options["config"] is None:
        if "cron" not in timer:
            raise WrongRequest("a trigger needs --cron, or --type and --config")
        return "timer", timer
    if timer or options["kind"] is None or options["config"] is None:
        raise WrongRequest("--type and --config belong together, without a timer's options")
    return options["kind"], _json(options["config"])


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
