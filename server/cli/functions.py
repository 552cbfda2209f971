"""`hearth deploy | ls | describe | rm`: functions and their configuration."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import click

from server.cli.client import Api, function_path, namespaced, open_api
from server.cli.failure import WrongRequest
from server.cli.layers import layer_version
from server.cli.output import Column, as_json, print_json, print_pairs, print_table
from server.cli.package import default_handler, pack

COLUMNS: list[Column] = [
    ("NAME", lambda row: row["name"]),
    ("RUNTIME", lambda row: row.get("runtime")),
    ("HANDLER", lambda row: row.get("handler")),
    ("MEMORY", lambda row: f"{row.get('memory')} MB"),
    ("TIMEOUT", lambda row: f"{row.get('timeout')} s"),
    ("CONCURRENCY", lambda row: row.get("concurrency")),
    ("UPDATED", lambda row: row.get("updated_at")),
]


@click.command(short_help="Create a function, or update its code and configuration.")
@click.argument("name")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--runtime", help="Python2.7, Python3.6 …; python3 is the default image's newest.  [default: python3]")
@click.option("--handler", help="file.function  [default: index.main_handler, or the single file's own name]")
@click.option("--memory", type=int, metavar="MB", help="64, or 128 to 3072 in steps of 128.")
@click.option("--timeout", type=int, metavar="SECONDS", help="Time limit of a call.")
@click.option("--init-timeout", type=int, metavar="SECONDS", help="Time limit of loading the code.")
@click.option("--concurrency", type=int, metavar="N", help="Calls at once; one more is answered 429.")
@click.option("--tmp", type=int, metavar="MB", help="Size of /tmp.")
@click.option("--network", type=click.Choice(["none", "nat"]))
@click.option("--description")
@click.option("--env", "environment", multiple=True, metavar="K=V", help="Repeatable; replaces the whole environment.")
@click.option("--layer", "layers", multiple=True, metavar="NAME:VERSION", help="Repeatable, later ones win; replaces all layers.")
@click.option("--no-layers", is_flag=True, help="Take all layers away.")
@namespaced
@as_json
@click.pass_context
def deploy(
    context: click.Context,
    /,
    name: str,
    path: Path,
    environment: tuple[str, ...],
    layers: tuple[str, ...],
    no_layers: bool,
    json_output: bool,
    **options: Any,
) -> None:
    """Deploy PATH (a directory, a zip file or a single source file) as NAME.

    What an update doesn't mention stays as it is.
    """
    configuration = {key: value for key, value in options.items() if value is not None}
    if environment:
        configuration["environment"] = dict(_pair(item) for item in environment)
    if layers and no_layers:
        raise WrongRequest("--layer and --no-layers exclude each other")
    if layers or no_layers:
        configuration["layers"] = [layer_version(item) for item in layers]
    code = pack(path)
    api = open_api(context)
    if api.exists(function_path(name)):
        function = _update(api, name, code, configuration)
        done = "updated"
    else:
        defaults = {"runtime": "python3", "handler": default_handler(path)}
        body = {**defaults, **configuration, "name": name, "code": {"zip": base64.b64encode(code).decode()}}
        function = api.send_json("POST", "/v1/functions", body, label=name)
        done = "created"
    if json_output:
        print_json(function)
    else:
        click.echo(f"{done} {name}: {function['runtime']}, {function['handler']}, {len(code):,} bytes of code")


def _update(api: Api, name: str, code: bytes, configuration: dict[str, Any]) -> Any:
    """One change: no call finds the new code with the old configuration."""
    path = function_path(name, "code")
    if not configuration:
        return api.send("PUT", path, code, "application/zip", label=name)
    body = {"zip": base64.b64encode(code).decode(), "configuration": configuration}
    return api.send_json("PUT", path, body, label=name)


def _pair(item: str) -> tuple[str, str]:
    key, separator, value = item.partition("=")
    if not separator or not key:
        raise WrongRequest(f"--env {item!r}", hint="it takes KEY=VALUE")
    return key, value


@click.command(short_help="List the functions.")
@namespaced
@as_json
@click.pass_context
def ls(context: click.Context, json_output: bool) -> None:
    """List the functions."""
    rows = open_api(context).rows("/v1/functions", "functions")
    if json_output:
        print_json(rows)
    else:
        print_table(rows, COLUMNS, empty="no functions yet; deploy one with `hearth deploy NAME PATH`")


@click.command(short_help="Show one function's configuration.")
@click.argument("name")
@click.option("--qualifier", help="Version or alias.  [default: $LATEST]")
@namespaced
@as_json
@click.pass_context
def describe(context: click.Context, name: str, qualifier: str | None, json_output: bool) -> None:
    """Show one function's configuration."""
    function = open_api(context).get(function_path(name), qualifier=qualifier)
    (print_json if json_output else print_pairs)(function)


@click.command(short_help="Delete functions.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@namespaced
@click.pass_context
def rm(context: click.Context, names: tuple[str, ...]) -> None:
    """Delete functions. Running calls finish; nothing asks again."""
    api = open_api(context)
    for name in names:
        api.request("DELETE", function_path(name))
        click.echo(f"deleted {name}")
