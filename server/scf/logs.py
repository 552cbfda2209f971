"""A call's log as SCF shows it: its frame of START, END and Report around what the function wrote."""

from __future__ import annotations

from typing import Any, Final

#: What SCF returns with LogType Tail.
TAIL_BYTES: Final = 4096
#: Of a return value, in its line of the log: the whole one is beside it, and must not push out what the function wrote.
RETMSG_CHARACTERS: Final = 512


def call_log(request_id: str, written: str, *, ret_msg: str, failed: bool, duration_ms: float, memory_mb: int, memory_bytes: int) -> str:
    """All lines, without a line break at the end."""
    start = f"START RequestId: {request_id}\nEvent RequestId: {request_id}"
    body = [written.rstrip("\n")] if written.strip("\n") else []
    short = ret_msg if len(ret_msg) <= RETMSG_CHARACTERS else ret_msg[:RETMSG_CHARACTERS] + "..."
    answer = f"ERROR RequestId: {request_id} Result:{short}" if failed else f"Response RequestId: {request_id} RetMsg:{short}"
    usage = f"Duration:{max(1, round(duration_ms))}ms Memory:{memory_mb}MB MemUsage:{memory_bytes / 2**20:.6f}MB"
    return "\n".join([start, *body, answer, f"END RequestId: {request_id}", f"Report RequestId: {request_id} {usage}"])


def tail(text: str) -> str:
    """The last 4 KB, no character cut in two."""
    encoded = text.encode("utf-8", "replace")
    return encoded[-TAIL_BYTES:].decode("utf-8", "ignore") if len(encoded) > TAIL_BYTES else text


def error_text(error: dict[str, Any], request_id: str, status: int) -> dict[str, Any]:
    """SCF's error JSON of a record's `error`."""
    body = {"errorCode": -1, "errorMessage": error.get("message", ""), "requestId": request_id}
    return body | ({"stackTrace": error["stack_trace"]} if error.get("stack_trace") else {}) | {"statusCode": status}
