"""`hearth layer publish | ls | versions | rm`: packages that functions share, merged at /opt."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from server.cli.client import namespaced, open_api
from server.cli.failure import WrongRequest
from server.cli.output import Column, as_json, mebibytes, print_json, print_table
from server.cli.package import pack

PAGE = 1000
COLUMNS: list[Column] = [
    ("NAME", lambda row: row["name"]),
    ("VERSION", lambda row: row.get("version")),
    ("RUNTIMES", lambda row: row.get("runtimes")),
    ("UNPACKED", lambda row: mebibytes(row.get("unpacked_size"))),
    ("CREATED", lambda row: row.get("created_at")),
    ("DESCRIPTION", lambda row: row.get("description")),
]


def layer_version(item: str) -> dict[str, Any]:
    """`numpy:3` as REST has it. Raises WrongRequest."""
    name, _, number = item.rpartition(":")
    if not name or not (number.isascii() and number.isdecimal()):
        raise WrongRequest(f"layer {item!r}", hint="it takes NAME:VERSION, as in numpy:3")
    return {"name": name, "version": int(number)}


def versions_path(name: str, *rest: str) -> str:
    return "/".join(("/v1/layers", quote(name, safe=""), "versions", *rest))


@click.group(short_help="Publish and list layers, delete their versions.")
def layer() -> None:
    """Layers: packages that functions share, merged read-only at /opt.

    What is at a layer's top, or in its directory python/, can be imported.
    """


@layer.command(short_help="Publish a layer's next version.")
@click.argument("name")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--runtime", "runtimes", multiple=True, required=True, help="What it is for; repeatable. python3 is any Python 3.")
@click.option("--description")
@click.option("--license", help="The licence of what is in it.")
@namespaced
@as_json
@click.pass_context
def publish(context: click.Context, /, name: str, path: Path, runtimes: tuple[str, ...], json_output: bool, **texts: str | None) -> None:
    """Publish PATH (a directory, a zip file or a single file) as the next version of NAME."""
    content = {"zip": base64.b64encode(pack(path)).decode()}
    body = {"runtimes": list(runtimes), "code": content, **texts}
    version = open_api(context).send_json("POST", versions_path(name), body, label=name)
    if json_output:
        print_json(version)
    else:
        click.echo(f"published {name}:{version['version']}: {', '.join(version['runtimes'])}, {version['unpacked_size']:,} bytes unpacked")


@layer.command(short_help="List the layers.")
@click.option("--runtime", help="Only layers for this runtime.")
@click.option("--search", help="Part of the name.")
@namespaced
@as_json
@click.pass_context
def ls(context: click.Context, runtime: str | None, search: str | None, json_output: bool) -> None:
    """List the layers, each by its latest version."""
    rows = open_api(context).rows("/v1/layers", "layers", runtime=runtime, search=search, limit=PAGE)
    _show(rows, "no such layers; publish one with `hearth layer publish NAME PATH --runtime python3`", json_output=json_output)


@layer.command(short_help="List a layer's versions.")
@click.argument("name")
@click.option("--runtime", help="Only versions for this runtime.")
@namespaced
@as_json
@click.pass_context
def versions(context: click.Context, name: str, runtime: str | None, json_output: bool) -> None:
    """List a layer's versions, the latest first."""
    rows = open_api(context).rows(versions_path(name), "versions", runtime=runtime)
    _show(rows, f"{name} has no such version", json_output=json_output)


@layer.command(short_help="Delete versions of layers.")
@click.argument("names", metavar="NAME:VERSION...", nargs=-1, required=True)
@namespaced
@click.pass_context
def rm(context: click.Context, names: tuple[str, ...]) -> None:
    """Delete versions of layers. Functions that have one keep it; nothing asks again."""
    api = open_api(context)
    for given in [layer_version(item) for item in names]:
        api.request("DELETE", versions_path(given["name"], str(given["version"])))
        click.echo(f"deleted {given['name']}:{given['version']}")


def _show(rows: list[dict[str, Any]], empty: str, *, json_output: bool) -> None:
    if json_output:
        print_json(rows)
    else:
        print_table(rows, COLUMNS, empty=empty)
