"""`hearth invoke | logs`: calling functions and reading what they wrote."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import click
import httpx

from server.cli.client import function_path, namespaced, open_api, read_source
from server.cli.failure import CommandError
from server.cli.output import as_json, print_json


@click.command(short_help="Call a function and print its result.")
@click.argument("name")
@click.option("-d", "--data", default="{}", metavar="JSON|@FILE|-", help="The event; - reads stdin.  [default: {}]")
@click.option("--async", "asynchronous", is_flag=True, help="Queue the event and print the call's id.")
@click.option("--tail", is_flag=True, help="Print the end of the call's log (4 KB) to stderr.")
@click.option("--qualifier", help="Version or alias.  [default: $LATEST]")
@click.option("--routing-key", metavar="JSON", help="What an alias's rules look at: an object of strings.")
@namespaced
@as_json
@click.pass_context
def invoke(
    context: click.Context,
    /,
    name: str,
    data: str,
    asynchronous: bool,
    tail: bool,
    qualifier: str | None,
    routing_key: str | None,
    json_output: bool,
) -> None:
    """Call NAME and print what it returned.

    \b
    Exit status: 0 it returned, 1 it failed, 2 the request is wrong, 3 refused (429, 503).
    """
    parameters = {"invokeType": "Event" if asynchronous else "RequestResponse", "logType": "Tail" if tail else "None"}
    if qualifier:
        parameters["qualifier"] = qualifier
    path, headers = function_path(name, "invocations"), {"Content-Type": "application/json"}
    if routing_key:
        headers["X-Scf-Routing-Key"] = routing_key
    event = read_source(data)
    response = open_api(context).request("POST", path, expect_failure=True, params=parameters, content=event, headers=headers)
    if asynchronous:
        print_json(response.json()) if json_output else click.echo(response.json()["request_id"])
        return
    call = summary(response)
    if json_output:
        print_json({**call, "result": _parsed(response.content)})
    elif response.is_success:
        click.echo(response.content)  # bytes come out as they are, with a line's end
    if tail and not json_output:
        click.echo(printable(call["log"]), err=True, nl=not call["log"].endswith("\n"))
    if sys.stderr.isatty() and not json_output:
        click.echo(click.style(one_line(call), dim=True), err=True)
    if response.is_error:
        raise failure(name, response)


def summary(response: httpx.Response) -> dict[str, Any]:
    """What the answer's headers say about the call; absent figures are None."""
    headers = response.headers

    def number(key: str, kind: type[float] = float) -> float | None:
        return kind(headers[key]) if key in headers else None

    return {
        "request_id": headers.get("X-Scf-Request-Id"),
        "status": int(headers.get("X-Scf-Status", response.status_code)),
        "start": headers.get("X-Scf-Start"),
        "duration_ms": number("X-Scf-Duration-Ms"),
        "billed_ms": number("X-Scf-Billed-Ms", int),
        "memory_bytes": number("X-Scf-Memory-Bytes", int),
        "elapsed_ms": round(response.elapsed.total_seconds() * 1000, 3),
        "log": base64.b64decode(headers.get("X-Scf-Log", "")).decode("utf-8", "backslashreplace"),
    }


def one_line(call: Mapping[str, Any]) -> str:
    """`cold · status 200 · ran 0.2 ms, answered in 9.1 ms · 11.3 MB · 4f1c…`"""
    parts = [call["start"] or "not started", f"status {call['status']}"]
    ran = "" if call["duration_ms"] is None else f"ran {call['duration_ms']:.1f} ms, "
    parts.append(f"{ran}answered in {call['elapsed_ms']:.1f} ms")
    if call["memory_bytes"]:
        parts.append(f"{call['memory_bytes'] / 2**20:.1f} MB")
    return " · ".join([*parts, str(call["request_id"])])


def failure(name: str, response: httpx.Response) -> CommandError:
    """The function's own failure, with the stack trace that SCF's error JSON carries."""
    body = _parsed(response.content)
    body = body if isinstance(body, dict) else {"errorMessage": str(body)}
    message = str(body.get("errorMessage", f"HTTP {response.status_code}"))
    trace = body.get("stackTrace") or ""
    trace = trace if isinstance(trace, str) else "".join(str(line) for line in trace)
    status = response.headers.get("X-Scf-Status", response.status_code)
    text = "\n".join(part for part in (f"{name} failed with status {status}: {message}", trace.rstrip()) if part)
    return CommandError(printable(text), status=response.status_code)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode("utf-8", "backslashreplace")


@click.command(short_help="Show what a function wrote, call by call.")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Keep printing what comes, until Ctrl-C.")
@click.option("-l", "--limit", type=click.IntRange(1, 1000), help="Calls to show.")
@namespaced
@as_json
@click.pass_context
def logs(context: click.Context, name: str, follow: bool, limit: int | None, json_output: bool) -> None:
    """Show what NAME wrote to stdout and stderr, call by call. With --json one object a line when following."""
    api = open_api(context)
    path = function_path(name, "logs")
    if not follow:
        rows = api.rows(path, "logs", limit=limit)
        if json_output:
            print_json(rows)
        else:
            for row in rows:
                _show(row)
        return
    # Ctrl-C is how following ends, not a failure.
    with suppress(KeyboardInterrupt), api.events(path, follow="1", **({"limit": limit} if limit else {})) as events:
        for row in events:
            click.echo(json.dumps(row, ensure_ascii=False)) if json_output else _show(row)


def _show(row: Mapping[str, Any]) -> None:
    text = str(row.get("log", ""))
    click.echo(click.style(f"--- {row.get('time', '')} {row.get('request_id', '')}", dim=True))
    if text:
        click.echo(printable(text), nl=not text.endswith("\n"))


def printable(text: str) -> str:
    """The text as it is into a pipe; for a terminal without what would move its cursor or change its state."""
    if not (sys.stdout.isatty() or sys.stderr.isatty()):
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text)
