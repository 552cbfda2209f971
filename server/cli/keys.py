"""`hearth keys create | ls | revoke`: secret pairs for clients that sign their requests, as SCF's do."""

from __future__ import annotations

from urllib.parse import quote

import click

from server.cli.client import open_api
from server.cli.output import Column, as_json, print_json, print_pairs, print_table

COLUMNS: list[Column] = [
    ("SECRET ID", lambda row: row.get("secret_id")),
    ("SCOPE", lambda row: row.get("scope")),
    ("NAMESPACE", lambda row: row.get("namespace") or "(all)"),
    ("CREATED", lambda row: row.get("created_at")),
    ("DESCRIPTION", lambda row: row.get("description")),
]


@click.group(short_help="Make, list and revoke secret pairs of SCF's clients.")
def keys() -> None:
    """Make, list and revoke the secret pairs with which SCF's clients sign their requests."""


@keys.command(short_help="Make a secret pair and print it.")
@click.option("--scope", type=click.Choice(["invoke", "read", "all"]), default="all", show_default=True, help="What it is good for.")
@click.option("--namespace", help="The only namespace it is good for; all of them without it.")
@click.option("--description", help="What it is for.")
@as_json
@click.pass_context
def create(context: click.Context, scope: str, namespace: str | None, description: str | None, json_output: bool) -> None:
    """Make a secret pair and print it. Its key is shown this one time only."""
    wanted = {"scope": scope, "namespace": namespace, "description": description}
    given = {key: value for key, value in wanted.items() if value is not None}
    made = open_api(context).send_json("POST", "/v1/keys", given)
    if json_output:
        print_json(made)
    else:
        print_pairs(made)


@keys.command(short_help="List the secret pairs, without their keys.")
@as_json
@click.pass_context
def ls(context: click.Context, json_output: bool) -> None:
    """List the secret pairs, without their keys."""
    rows = open_api(context).rows("/v1/keys", "keys")
    if json_output:
        print_json(rows)
    else:
        print_table(rows, COLUMNS, empty="no keys")


@keys.command(short_help="Revoke secret pairs.")
@click.argument("secret_ids", metavar="SECRET_ID...", nargs=-1, required=True)
@click.pass_context
def revoke(context: click.Context, secret_ids: tuple[str, ...]) -> None:
    """Revoke secret pairs: from now on nothing that they sign is taken."""
    api = open_api(context)
    for secret_id in secret_ids:
        api.request("DELETE", f"/v1/keys/{quote(secret_id, safe='')}")
        click.echo(f"revoked {secret_id}", err=True)
