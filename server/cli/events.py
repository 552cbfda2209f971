"""`hearth events`: asynchronous calls, their dead letters, and how often and how long a function's events are tried."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from server.cli.client import function_path, namespaced, open_api
from server.cli.failure import WrongRequest
from server.cli.output import Column, as_json, print_json, print_pairs, print_table

EVENTS: list[Column] = [
    ("REQUEST", lambda row: row.get("request_id")),
    ("FUNCTION", lambda row: row.get("function")),
    ("STATE", lambda row: row.get("state")),
    ("STATUS", lambda row: row.get("status")),
    ("SOURCE", lambda row: row.get("trigger") or row.get("source")),
    ("ATTEMPTS", lambda row: sum(attempt.get("count", 1) for attempt in row.get("attempts", []))),
    ("ACCEPTED", lambda row: row.get("created_at")),
    ("ENDED", lambda row: row.get("ended_at")),
]
LETTERS: list[Column] = [
    ("REQUEST", lambda row: row.get("request_id")),
    ("FUNCTION", lambda row: row.get("function")),
    ("STATE", lambda row: row.get("state")),
    ("STATUS", lambda row: row.get("status")),
    ("RETRIES", lambda row: row.get("retries")),
    ("ERROR", lambda row: (row.get("error") or {}).get("message")),
    ("DIED", lambda row: row.get("died_at")),
    ("DELIVERY", lambda row: row.get("delivery")),
]
STATES = ("queued", "running", "succeeded", "failed", "cancelled", "expired")


@click.group(short_help="Asynchronous calls and their dead letters.")
def events() -> None:
    """Look at asynchronous calls, cancel them, send dead ones again."""


@events.command(short_help="List asynchronous calls, newest first.")
@click.argument("name", required=False)
@click.option("--state", type=click.Choice(STATES))
@click.option("-l", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@namespaced
@as_json
@click.pass_context
def ls(context: click.Context, name: str | None, state: str | None, limit: int, json_output: bool) -> None:
    """List asynchronous calls, of the function NAME or of all."""
    rows = open_api(context).rows("/v1/invocations", "invocations", type="async", function=name, state=state, limit=limit)
    print_json(rows) if json_output else print_table(rows, EVENTS, empty="no events")


@events.command(short_help="Show one call's record.")
@click.argument("request_id")
@click.option("--wait", type=click.FloatRange(0, 60), metavar="SECONDS", help="Wait so long for its end.")
@namespaced
@as_json
@click.pass_context
def show(context: click.Context, request_id: str, wait: float | None, json_output: bool) -> None:
    """Show the record of REQUEST_ID: its state, its result, every attempt."""
    record = open_api(context).get(_path("/v1/invocations", request_id), wait=wait)
    print_json(record) if json_output else print_pairs(record)


@events.command(short_help="Cancel asynchronous calls.")
@click.argument("request_ids", metavar="REQUEST_ID...", nargs=-1, required=True)
@namespaced
@click.pass_context
def cancel(context: click.Context, request_ids: tuple[str, ...]) -> None:
    """Cancel calls that wait; stop those that run, whose sandboxes are destroyed."""
    api = open_api(context)
    for request_id in request_ids:
        record = api.request("DELETE", _path("/v1/invocations", request_id)).json()
        click.echo(f"{record['state']} {request_id}")


@events.command(short_help="Show or change a function's event settings.")
@click.argument("name")
@click.option("--retries", type=click.IntRange(0, 2), help="Further attempts after an error of the function.")
@click.option("--ttl", type=int, metavar="SECONDS", help="How long an event may wait.")
@click.option("--dead-letter", metavar="TYPE[:TARGET]", help="file[:NAME], url:URL, function:NAME or none.")
@namespaced
@as_json
@click.pass_context
def config(context: click.Context, name: str, retries: int | None, ttl: int | None, dead_letter: str | None, json_output: bool) -> None:
    """Show the event settings of NAME; with options, change them first."""
    changes: dict[str, Any] = {key: value for key, value in (("retries", retries), ("ttl", ttl)) if value is not None}
    if dead_letter is not None:
        kind, _, target = dead_letter.partition(":")
        changes["dead_letter"] = None if kind == "none" else {"type": kind, **({"target": target} if target else {})}
    api, path = open_api(context), function_path(name, "event-config")
    found = api.send_json("PUT", path, changes) if changes else api.get(path)
    print_json(found) if json_output else print_pairs(found)


@events.group(short_help="Events that ended badly.")
def dead() -> None:
    """Look at dead letters, send them again, purge them."""


@dead.command("ls", short_help="List dead letters, newest first.")
@click.argument("name", required=False)
@click.option("-l", "--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@namespaced
@as_json
@click.pass_context
def dead_ls(context: click.Context, name: str | None, limit: int, json_output: bool) -> None:
    """List dead letters, of the function NAME or of all."""
    rows = open_api(context).rows("/v1/dead-letters", "dead_letters", function=name, limit=limit)
    print_json(rows) if json_output else print_table(rows, LETTERS, empty="no dead letters")


@dead.command("show", short_help="Show one dead letter with its event.")
@click.argument("request_id")
@namespaced
@as_json
@click.pass_context
def dead_show(context: click.Context, request_id: str, json_output: bool) -> None:
    """Show the dead letter of REQUEST_ID with its event."""
    letter = open_api(context).get(_path("/v1/dead-letters", request_id))
    print_json(letter) if json_output else print_pairs(letter)


@dead.command(short_help="Send dead letters' events again.")
@click.argument("request_ids", metavar="REQUEST_ID...", nargs=-1, required=True)
@namespaced
@click.pass_context
def resend(context: click.Context, request_ids: tuple[str, ...]) -> None:
    """Send the events of dead letters again; print the new calls' ids."""
    api = open_api(context)
    for request_id in request_ids:
        click.echo(api.request("POST", _path("/v1/dead-letters", request_id, "resend")).json()["request_id"])


@dead.command(short_help="Drop dead letters.")
@click.argument("request_ids", metavar="[REQUEST_ID]...", nargs=-1)
@click.option("--function", "name", help="All of this function.")
@click.option("--all", "everything", is_flag=True, help="All of the namespace.")
@namespaced
@click.pass_context
def purge(context: click.Context, request_ids: tuple[str, ...], name: str | None, everything: bool) -> None:
    """Drop dead letters for good: those named, one function's, or all."""
    if sum(map(bool, (request_ids, name, everything))) != 1:
        raise WrongRequest("name dead letters, or give --function or --all")
    api = open_api(context)
    for request_id in request_ids:
        api.request("DELETE", _path("/v1/dead-letters", request_id))
    if request_ids:
        click.echo(f"purged {len(request_ids)}")
        return
    answer = api.request("DELETE", "/v1/dead-letters", params={"function": name} if name else {}).json()
    click.echo(f"purged {answer['purged']}")


def _path(*parts: str) -> str:
    return "/".join((parts[0], *(quote(part, safe="") for part in parts[1:])))
