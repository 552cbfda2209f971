"""`hearth demo`: what scripts/run shows once everything serves — deploy an example, call it cold and warm, print how to repeat it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from server.cli.calls import failure, one_line, summary
from server.cli.client import Api, function_path, load_settings, open_api
from server.cli.failure import CommandError
from server.cli.functions import deploy

EVENT = {"name": "world"}


@click.command(hidden=True)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.pass_context
def demo(context: click.Context, path: Path) -> None:
    """Deploy PATH under its own name and call it twice."""
    name = path.name
    context.invoke(deploy, name=name, path=path, runtime="python3", handler="index.main_handler")
    api = open_api(context)
    starts = [_call(api, name), _call(api, name)]
    credential = shlex.quote(str(load_settings().credential_path))
    url = api.url + function_path(name, "invocations")
    click.echo(f"""\nagain: curl -H "Authorization: Bearer $(cat {credential})" -d '{json.dumps(EVENT)}' {url}\n""")
    if starts != ["cold", "warm"]:
        raise CommandError(f"expected a cold and a warm start, saw {starts[0]} and {starts[1]}")


def _call(api: Api, name: str) -> str:
    response = api.request("POST", function_path(name, "invocations"), expect_failure=True, content=json.dumps(EVENT).encode())
    call = summary(response)
    if response.is_error:
        raise failure(name, response)
    click.echo(f"{one_line(call)}\n  {response.text}")
    return str(call["start"])
