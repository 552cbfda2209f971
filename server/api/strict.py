"""What gunicorn's parser lets pass and RFC 9112 does not, and how a request is refused below the application. Used by `connection`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from gunicorn.asgi.parser import InvalidHeader, InvalidRequestLine

from server.api.problems import PROBLEM_JSON, dump
from server.errors import ApiError
from server.functions.checks import shown

#: What gunicorn refuses by itself, by status: our code and title.
REFUSALS: Final = {
    400: ("invalid_request", "Malformed request"),
    408: ("incomplete_request", "Incomplete request"),
    414: ("target_too_long", "URI too long"),
    431: ("head_too_large", "Request header fields too large"),
    503: ("no_connection", "Too many connections"),
}
#: tccli sends, and signs, the address of its --endpoint as it was typed: `Host: http://127.0.0.1:9000`.
_HOST = re.compile(rb"(?:https?://)?[A-Za-z0-9._~!$&'()*+,;=%\[\]:-]*")
_ABSOLUTE = re.compile(rb"https?://(?P<authority>[^/?#]+)", re.IGNORECASE)
_AUTHORITY = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%\[\]:-]+")


def check_host(parser: Any) -> None:
    """RFC 9112 section 3.2: a request of HTTP/1.1 without a valid Host is answered 400."""
    for name, value in parser.headers:
        if name == b"host":
            if _HOST.fullmatch(value):
                return
            raise InvalidHeader("invalid Host")
    if parser.http_version >= (1, 1):
        raise InvalidHeader("no Host")


def to_origin_form(request: Any) -> None:
    """`GET http://host/path` is `GET /path` of that host, whatever the Host header says: RFC 9112 section 3.2.2, or two hops that read
    one request would read two. Raises InvalidRequestLine."""
    if request.raw_path == b"*" or request.method == "CONNECT":
        return
    match = _ABSOLUTE.match(request.raw_path)
    if match is None:
        raise InvalidRequestLine("the target does not start with /")
    if not _AUTHORITY.fullmatch(match["authority"]):
        raise InvalidRequestLine("the target's host is not valid")  # RFC 9110 section 4.2.4: no user before the host either
    request.headers_bytes = [(b"host", match["authority"]), *(pair for pair in request.headers_bytes if pair[0] != b"host")]
    request.raw_path = request.raw_path[match.end() :] or b"/"
    request.path = unquote_to_bytes(request.raw_path).decode("utf-8", errors="replace")


def refusal(status: int, message: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """A whole response. `message` is gunicorn's or ours; it may quote the request."""
    code, title = REFUSALS.get(status, ("internal_error", "Internal error"))
    detail = shown(message)[1:-1] if status in REFUSALS else "something went wrong here"
    body = dump(ApiError(status, code, title, f"not HTTP/1.1: {detail}" if status == 400 else detail).problem())
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"Content-Type: {PROBLEM_JSON}", f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
