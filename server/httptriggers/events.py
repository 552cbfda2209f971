"""From a request to SCF's API gateway event (scf-interface.md sections 7 and 8.3), and who has really sent it.

path           what is below the URL, percent-encoded as it came
queryString    decoded; a name that comes once has a text, one that is repeated a list
headers        names in lower case; repeated ones joined as RFC 9110 section 5.3 has it, cookies by "; "
body           text; what is no UTF-8 is base64 and isBase64Encoded says so
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import parse_qsl

import orjson

STAGE: Final = "release"
REMOTE_ADDRESS: Final = "x-scf-remote-addr"
#: RFC 9110 section 7.6.1, and what concerns only the way from the client to here.
HOP_BY_HOP: Final = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_OURS: Final = HOP_BY_HOP | {"expect", REMOTE_ADDRESS}
#: Anybody can send these; they mean something only from a proxy that is trusted.
FORWARDED: Final = ("x-forwarded-", "forwarded", "x-real-ip")
_SECRETS: Final = frozenset(("authorization", "x-tc-token"))

Headers = Iterable[tuple[bytes, bytes]]
Networks = Sequence[IPv4Network | IPv6Network]


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request as it came. `peer` is who is connected; `secret_id` who has signed it, empty where nobody had to.

    With `authorized` its credential was for us: the function does not get to see it.
    """

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    peer: str
    request_id: str
    service_id: str
    secret_id: str = ""
    authorized: bool = False


def event_of(incoming: Incoming, trusted: Networks = ()) -> bytes:
    """The event as JSON."""
    by_proxy = is_trusted(incoming.peer, trusted)
    headers = _headers(incoming.headers, keep_forwarded=by_proxy, keep_secrets=not incoming.authorized)
    source = forwarded_for(headers.get("x-forwarded-for", ""), incoming.peer, trusted) if by_proxy else incoming.peer
    headers[REMOTE_ADDRESS] = source
    body, is_base64 = _text(incoming.body)
    return orjson.dumps(
        {
            "requestContext": {
                "serviceId": incoming.service_id,
                "path": incoming.path,
                "httpMethod": incoming.method,
                "requestId": incoming.request_id,
                "identity": {"secretId": incoming.secret_id} if incoming.secret_id else {},
                "sourceIp": source,
                "stage": STAGE,
            },
            "httpMethod": incoming.method,
            "path": incoming.path,
            "queryString": query_of(incoming.query),
            "headers": headers,
            "body": body,
            "isBase64Encoded": is_base64,
            # A gateway's configuration of single parameters, which there is none of.
            "pathParameters": {},
            "queryStringParameters": {},
            "headerParameters": {},
            "stageVariables": {},
        }
    )


def query_of(query: bytes) -> dict[str, str | list[str]]:
    """Bytes that are no UTF-8 become U+FFFD."""
    found: dict[str, str | list[str]] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace"):
        before = found.get(name)
        if before is None:
            found[name] = value
        else:
            found[name] = [*before, value] if isinstance(before, list) else [before, value]
    return found


def is_trusted(address: str, trusted: Networks) -> bool:
    known = _address(address)
    return known is not None and any(known in network for network in trusted)


def forwarded_for(header: str, peer: str, trusted: Networks) -> str:
    """The nearest address that no trusted proxy has: whatever stands left of it, anybody may have written."""
    source = peer
    for part in reversed(header.split(",")):
        known = _address(part.strip())
        if known is None:
            break
        source = str(known)
        if not any(known in network for network in trusted):
            break
    return source


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Also `[2001:db8::1]:1234` and `192.0.2.1:1234`, as some proxies write them."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def _headers(headers: Headers, *, keep_forwarded: bool, keep_secrets: bool) -> dict[str, str]:
    decoded = [(name.decode("latin-1").lower(), _value(value)) for name, value in headers]
    dropped = _OURS | named_by_connection(decoded)
    found: dict[str, str] = {}
    for name, value in decoded:
        if name in dropped or (not keep_forwarded and name.startswith(FORWARDED)) or (not keep_secrets and name in _SECRETS):
            continue
        found[name] = f"{found[name]}{'; ' if name == 'cookie' else ', '}{value}" if name in found else value
    return found


def named_by_connection(headers: Iterable[tuple[str, str]]) -> set[str]:
    """RFC 9110 section 7.6.1: what Connection names is for the next hop only."""
    return {word.strip().lower() for name, value in headers if name == "connection" for word in value.split(",")}


def _value(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _text(body: bytes) -> tuple[str, bool]:
    try:
        return body.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True
