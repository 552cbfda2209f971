"""Requests that are malformed, ambiguous or rare, over a real socket: RFC 9110 and 9112 from the view of a strict client.

Each shape says where it comes from and which statuses it may have; nothing is answered 5xx, every refusal is a problem document, no byte
of a refused request is taken for another one, and the next client is served. The positive control is each shape's well-formed twin.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.instance import Instance
from tests.integration.wire import Response, connect, exchange, read_all, read_one

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

ECHO = "def main_handler(event, context):\n    return event\n"
NEXT = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
SMUGGLING = "RFC 9112 section 11.2, request smuggling"
FRAMING = "RFC 9112 section 6"


@dataclass(frozen=True, slots=True)
class Shape:
    """`request` is sent with {auth} and {call} filled in. One answer comes, of one of these statuses; the connection is closed behind it
    where `request` was refused as malformed (`closes`), otherwise NEXT is answered on it."""

    name: str
    source: str
    request: str
    statuses: tuple[int, ...] = (400,)
    closes: bool = True


def post(*headers: str, body: str = "") -> str:
    return "\r\n".join(["POST {call} HTTP/1.1", "Host: x", "Authorization: Bearer {auth}", *headers, "", body])


def get(target: str, *headers: str, method: str = "GET", version: str = "HTTP/1.1") -> str:
    return "\r\n".join([f"{method} {target} {version}", "Host: x", "Authorization: Bearer {auth}", *headers, "", ""])


CHUNKED = "Transfer-Encoding: chunked"
INNER = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

SHAPES = [
    # Two readings of where the body ends.
    Shape("Content-Length and Transfer-Encoding", SMUGGLING, post("Content-Length: 5", CHUNKED, body="0\r\n\r\n" + INNER)),
    Shape("Transfer-Encoding and Content-Length", SMUGGLING, post(CHUNKED, "Content-Length: 44", body="0\r\n\r\n" + INNER)),
    Shape("two Content-Lengths that differ", SMUGGLING, post("Content-Length: 2", "Content-Length: 40", body="{{}}" + INNER)),
    Shape("two Content-Lengths in one", SMUGGLING, post("Content-Length: 2, 40", body="{{}}" + INNER)),
    Shape("Content-Length twice the same", FRAMING, post("Content-Length: 2", "Content-Length: 2", body="{{}}"), (200, 400)),
    Shape("Content-Length with a sign", SMUGGLING, post("Content-Length: +2", body="{{}}")),
    Shape("negative Content-Length", FRAMING, post("Content-Length: -2", body="{{}}")),
    Shape("Content-Length in hex", FRAMING, post("Content-Length: 0x2", body="{{}}")),
    Shape("Content-Length with an underscore", "CVE-2018-1000164's kin", post("Content-Length: 1_0", body="{{}}")),
    Shape("Content-Length of other digits", FRAMING, post("Content-Length: \xb2", body="{{}}")),
    Shape("empty Content-Length", FRAMING, post("Content-Length: ", body=INNER)),
    Shape("Content-Length larger than any integer", FRAMING, post("Content-Length: " + "9" * 30), (400, 413)),
    Shape("Content-Length of 5,000 digits", "CVE-2020-10735", post("Content-Length: " + "9" * 5000), (400, 413)),
    Shape("Transfer-Encoding of another kind", "RFC 9112 section 6.1", post("Transfer-Encoding: xchunked", body="0\r\n\r\n")),
    Shape("Transfer-Encoding: identity", "CVE-2024-1135", post("Transfer-Encoding: identity", body=INNER)),
    Shape("chunked not last", "CVE-2024-1135", post("Transfer-Encoding: chunked, identity", body="0\r\n\r\n" + INNER)),
    Shape("chunked twice", FRAMING, post("Transfer-Encoding: chunked, chunked", body="0\r\n\r\n" + INNER)),
    Shape("Transfer-Encoding on two lines", "CVE-2024-1135", post(CHUNKED, "Transfer-Encoding: identity", body="0\r\n\r\n")),
    Shape("Transfer-Encoding behind a space", SMUGGLING, post("Transfer-Encoding : chunked", body="0\r\n\r\n")),
    Shape("Transfer-Encoding behind a tab", SMUGGLING, post("Transfer-Encoding:\vchunked", body="0\r\n\r\n")),
    Shape(
        "Transfer_Encoding, as CGI would spell it",
        SMUGGLING,
        post("Transfer_Encoding: chunked", "Content-Length: 2", body="{{}}"),
        (200,),
        False,
    ),
    # Broken chunks.
    Shape("chunk size that is no number", FRAMING, post(CHUNKED, body="zz\r\n{{}}\r\n0\r\n\r\n")),
    Shape("negative chunk size", FRAMING, post(CHUNKED, body="-2\r\n{{}}\r\n0\r\n\r\n")),
    Shape("chunk size with 0x", FRAMING, post(CHUNKED, body="0x2\r\n{{}}\r\n0\r\n\r\n")),
    Shape("chunk size behind a space", SMUGGLING, post(CHUNKED, body=" 2\r\n{{}}\r\n0\r\n\r\n")),
    Shape("chunk longer than its size", SMUGGLING, post(CHUNKED, body="2\r\n{{}}X\r\n0\r\n\r\n")),
    Shape("chunk that a bare LF ends", "CVE-2025-22871's kin", post(CHUNKED, body="2\n{{}}\r\n0\r\n\r\n")),
    Shape("chunk extension with a bare CR", "CVE-2025-58068's kin", post(CHUNKED, body="2;a\rb\r\n{{}}\r\n0\r\n\r\n")),
    Shape(
        "chunk extension without an end",
        "CVE-2023-39326",
        post(CHUNKED, body="2;" + "a" * 20_000 + "\r\n{{}}\r\n0\r\n\r\n"),
        (200, 400, 431),
    ),
    Shape("trailer that frames anew", "RFC 9110 section 6.5.1", post(CHUNKED, body="2\r\n{{}}\r\n0\r\nContent-Length: 9\r\n\r\n")),
    Shape("trailers without an end", FRAMING, post(CHUNKED, body="2\r\n{{}}\r\n0\r\n" + "X: y\r\n" * 200 + "\r\n"), (400, 431)),
    # Lines and fields.
    Shape("bare LF ends a line", SMUGGLING, "GET /healthz HTTP/1.1\nHost: x\n\n"),
    Shape("bare CR in a field", SMUGGLING, get("/healthz", "X: a\rY: b")),
    Shape("NUL in a field", "RFC 9110 section 5.5", get("/healthz", "X: a\0b")),
    Shape("NUL in the target", "RFC 9112 section 3.2", get("/healthz\0")),
    Shape("control characters in a field", "RFC 9110 section 5.5", get("/healthz", "X: \x01\x1b[2J")),
    Shape("folded field", "RFC 9112 section 5.2", get("/healthz", "X: a", " b")),
    Shape("first field folded", "RFC 9112 section 2.2", "GET /healthz HTTP/1.1\r\n Host: x\r\n\r\n"),
    Shape("field without a colon", "RFC 9112 section 5", get("/healthz", "nothing")),
    Shape("field without a name", "RFC 9112 section 5", get("/healthz", ": x")),
    Shape("name that is no token", "RFC 9112 section 5", get("/healthz", "X(Y): z")),
    Shape("no Host", "RFC 9112 section 3.2", "GET /healthz HTTP/1.1\r\n\r\n"),
    Shape("two Hosts", "RFC 9112 section 3.2", get("/healthz", "Host: y")),
    Shape("Host that is none", "RFC 9112 section 3.2", "GET /healthz HTTP/1.1\r\nHost: a b/@c\r\n\r\n"),
    Shape("Host with a scheme, as tccli sends it", "scf-interface", "GET /healthz HTTP/1.1\r\nHost: http://x:1\r\n\r\n", (200,), False),
    Shape("two Content-Types", "RFC 9110 section 5.3", post("Content-Type: a/b", "Content-Type: c/d", "Content-Length: 2", body="{{}}")),
    # Request lines.
    Shape("HTTP/0.9", "RFC 9112 section 3", "GET /healthz\r\n\r\n"),
    Shape("HTTP/2 by its preface", "RFC 9113 section 3.4", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Shape("HTTP/3.1", "RFC 9112 section 2.3", get("/healthz", version="HTTP/3.1")),
    Shape("HTTP/1.2", "RFC 9112 section 2.3", get("/healthz", version="HTTP/1.2"), (200, 400)),
    Shape("HTTP/1.10", "RFC 9112 section 2.3", get("/healthz", version="HTTP/1.10")),
    Shape("another protocol", "RFC 9112 section 3", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    Shape("two spaces", "RFC 9112 section 3", "GET  /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
    Shape("space in the target", SMUGGLING, get("/healthz /v1/functions")),
    Shape("method in lower case", "RFC 9110 section 9.1", get("/healthz", method="get"), (400, 405)),
    Shape("method that is no token", "RFC 9110 section 9.1", get("/healthz", method="G@T")),
    Shape("method nobody knows", "RFC 9110 section 9.1", get("/healthz", method="BREW"), (400, 405), False),
    Shape("CONNECT", "RFC 9110 section 9.3.6", get("example.org:443", method="CONNECT"), (400, 404, 405)),
    Shape("TRACE", "RFC 9110 section 9.3.8", get("/healthz", method="TRACE"), (405,), False),
    Shape("target without a slash", "RFC 9112 section 3.2", get("healthz")),
    Shape("target with a scheme of its own", "RFC 9112 section 3.2.2", get("ftp://x/healthz")),
    Shape("bytes above 127 in the target", "RFC 9112 section 3.2", get("/v1/functions/\xfc")),
    Shape("request line too long", "RFC 9110 section 15.5.15", get("/" + "a" * 9000), (414,)),
    Shape("field too long", "RFC 6585 section 5", get("/healthz", "X: " + "a" * 20_000), (431,)),
    Shape("too many fields", "RFC 6585 section 5", get("/healthz", *["X: a"] * 120), (431,)),
    Shape("head too long in all", "RFC 6585 section 5", get("/healthz", *[f"X{n}: " + "a" * 12_000 for n in range(20)]), (431,)),
    Shape(
        "head too long, without an end",
        "RFC 6585 section 5",
        get("/healthz", *[f"X{n}: " + "a" * 12_000 for n in range(9)])[:-2] + "X: ",
        (400, 431),
    ),
    # Upgrades: ignored, as RFC 9110 section 7.8 lets a server do.
    Shape(
        "WebSocket",
        "RFC 6455",
        get("/healthz", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + "A" * 22 + "=="),
        (200,),
        False,
    ),
    Shape(
        "HTTP/2 in the clear", "RFC 7540", get("/healthz", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk", "Connection: Upgrade"), (200,), False
    ),
    # Paths: none of these is another path than the one it says.
    Shape("percent and no hex", "RFC 3986 section 2.1", get("/v1/functions/%zz"), (404,), False),
    Shape("percent at the end", "RFC 3986 section 2.1", get("/v1/functions/%"), (404,), False),
    Shape("percent-encoded bytes that are no UTF-8", "RFC 3986 section 2.5", get("/v1/functions/%ff%fe"), (404,), False),
    Shape("percent-encoded NUL", "CWE-158", get("/v1/functions/hello%00"), (404,), False),
    Shape("percent-encoded line end", "CWE-113", get("/v1/functions/x%0d%0aX-Injected:%20y"), (404,), False),
    Shape("dots", "CWE-22", get("/v1/functions/../../etc/passwd"), (404,), False),
    Shape("percent-encoded dots", "CWE-22", get("/v1/functions/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), (404,), False),
    Shape("overlong UTF-8", "CWE-22", get("/v1/functions/%c0%ae%c0%ae%c0%af"), (404,), False),
    Shape("unicode name", "RFC 3987", get("/v1/functions/%E2%98%83%F0%9F%92%A9"), (404,), False),
    Shape("unicode that normalises to a name", "CVE-2019-9636's kin", get("/v1/functions/hell%EF%BD%8F"), (404,), False),
    Shape("two slashes", "CWE-41", get("//v1//functions"), (404,), False),
    Shape("semicolon", "CWE-41", get("/healthz;x=y"), (404,), False),
    Shape("query with everything in it", "RFC 3986 section 3.4", get("/v1/usage?%00=%ff&&=&from=&from[]=x&%E2%98%83"), (400,), False),
    Shape("number out of range", "CVE-2020-10735", get("/v1/functions/hello/logs?limit=" + "9" * 5000), (400,), False),
    Shape("number in other digits", "RFC 3986", get("/v1/functions/hello/logs?limit=%D9%A3"), (400,), False),
    # Bodies.
    Shape("event that is no JSON", "RFC 8259", post("Content-Length: 2", body="{{]"), (400,), False),
    Shape("event in UTF-16", "RFC 8259 section 8.1", post("Content-Length: 4", body="\xff\xfe1\0"), (400,), False),
    Shape("event nested without end", "CWE-674", post("Content-Length: 60000", body="[" * 60_000), (400,), False),
    Shape("GET with a body", "RFC 9110 section 9.3.1", get("/healthz", "Content-Length: 9") + "GET / HTT", (200,), False),
]


@pytest.fixture(scope="module")
def hello(hearth: Instance) -> Iterator[str]:
    """The function, and at the end: no traceback was logged, and both workers are those of the beginning."""
    workers = hearth.part("gunicorn")
    yield hearth.deploy(ECHO, name="hello")
    assert hearth.part("gunicorn") == workers
    assert "Traceback" not in hearth.log.read_text()


def filled(hearth: Instance, request: str) -> bytes:
    token = (hearth.home / "credential").read_text().strip()
    return request.format(auth=token, call="/v1/functions/hello/invocations").encode("latin-1")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_strange_request_has_one_clear_answer(hearth: Instance, hello: str, shape: Shape) -> None:
    answers = exchange(hearth, filled(hearth, shape.request) + NEXT)
    first = answers[0]
    assert first.status in shape.statuses, first
    if first.status >= 400:
        first.assert_problem()
    if shape.closes and first.status >= 400:
        assert len(answers) == 1 and first.headers["connection"] == "close", answers
    elif not shape.closes:
        assert [answer.status for answer in answers[1:]] == [200], answers
    assert "x-injected" not in first.headers
    assert hearth.call("hello", {"still": "served"}).ok() == {"still": "served"}


CONTROLS = {
    "length": post("Content-Length: 2", body="{{}}"),
    "chunks": post(CHUNKED, body="1\r\n{{\r\n1;ext=v\r\n}}\r\n0\r\nX-Trailer: fine\r\n\r\n"),
    "chunks, said twice": post("Transfer-Encoding: Chunked", body="2\r\n{{}}\r\n0\r\n\r\n"),
    "no body": post("Content-Length: 0"),
    "empty line before": "\r\n" + post("Content-Length: 2", body="{{}}"),
    "spaces around values": post("Content-Length:  2 ", body="{{}}"),
    "absolute form": post("Content-Length: 2", body="{{}}").replace("{call}", "http://x{call}"),
    "percent-encoded": post("Content-Length: 2", body="{{}}").replace("{call}", "/v1/%66unctions/hell%6f/invocations"),
    "HTTP/1.0": post("Content-Length: 2", body="{{}}").replace("HTTP/1.1", "HTTP/1.0"),
    "HTTP/1.0 without Host": post("Content-Length: 2", body="{{}}").replace("HTTP/1.1\r\nHost: x", "HTTP/1.0"),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_the_well_formed_twins_are_served(hearth: Instance, hello: str, name: str) -> None:
    first = exchange(hearth, filled(hearth, CONTROLS[name]), half_close=True)[0]
    assert (first.status, first.json) == (200, {}), first


def test_pipelined_requests_are_answered_in_order(hearth: Instance, hello: str) -> None:
    requests = b"".join(filled(hearth, post("Content-Length: 2", body=str(n))) for n in range(10, 60))
    answers = exchange(hearth, requests + NEXT)
    assert [answer.json for answer in answers[:-1]] == list(range(10, 60))
    assert answers[-1].status == 200


def test_a_refused_request_ends_a_pipeline(hearth: Instance, hello: str) -> None:
    good, bad = filled(hearth, CONTROLS["length"]), filled(hearth, "GET /x HTTP/9.9\r\n\r\n")
    assert [answer.status for answer in exchange(hearth, good + bad + good)] == [200, 400]


def test_a_client_that_closes_its_sending_side_is_answered(hearth: Instance, hello: str) -> None:
    slow = hearth.deploy("import time\ndef main_handler(event, context):\n    time.sleep(0.5)\n    return event\n")
    request = filled(hearth, post("Content-Length: 8", body='{{"a": 1}}')).replace(b"/hello/", f"/{slow}/".encode())
    answers = exchange(hearth, request, half_close=True)
    assert [answer.json for answer in answers] == [{"a": 1}]
    answers = exchange(hearth, filled(hearth, CONTROLS["length"]) * 2, half_close=True)
    assert [answer.status for answer in answers] == [200, 200]


@pytest.mark.parametrize(
    ("request_head", "statuses"),
    [
        (post("Expect: 100-continue", "Content-Length: 2"), (100, 200)),
        (post("Expect: 100-Continue", CHUNKED), (100, 200)),
        (post("Expect: 100-continue", "Content-Length: 7000000"), (413,)),
        (post("Expect: 100-continue", "Content-Length: 2").replace("{auth}", "wrong"), (401,)),
        (post("Expect: 100-continue", "Content-Length: 2").replace("{call}", "/v1/nothing"), (404,)),
        (post("Expect: 100-continue", "Content-Length: 2").replace("HTTP/1.1", "HTTP/1.0"), (200,)),
    ],
)
def test_a_client_that_waits_for_100_gets_it_only_for_a_body_that_is_wanted(
    hearth: Instance, hello: str, request_head: str, statuses: tuple[int, ...]
) -> None:
    body = b"2\r\n{}\r\n0\r\n\r\n" if CHUNKED in request_head else b"{}"
    with connect(hearth) as connection:
        connection.sendall(filled(hearth, request_head))
        if statuses[0] == 200:
            connection.sendall(body)  # HTTP/1.0 has no 100: such a client sends by itself
        found = [read_one(connection).status]
        if found == [100]:
            connection.sendall(body)
            found.append(read_one(connection).status)
    assert tuple(found) == statuses


@pytest.mark.parametrize(
    "path", ["/healthz", "/v1/functions", "/v1/functions/hello", "/v1/functions/hello/logs?follow=1", "/v1/nothing", "/metrics"]
)
def test_head_is_get_without_a_body(hearth: Instance, hello: str, path: str) -> None:
    (head,) = exchange(hearth, filled(hearth, get(path, "Connection: close", method="HEAD")))
    if "follow" in path:
        assert head.status == 200 and "content-length" not in head.headers
        return
    (whole,) = exchange(hearth, filled(hearth, get(path, "Connection: close")))
    assert (head.status, head.headers["content-type"]) == (whole.status, whole.headers["content-type"])
    assert path == "/metrics" or head.headers["content-length"] == whole.headers["content-length"]


def test_options_and_405_say_what_a_path_takes(hearth: Instance, hello: str) -> None:
    wanted = {"/v1/functions": {"GET", "HEAD", "POST"}, "/v1/functions/hello/code": {"PUT"}, "/healthz": {"GET", "HEAD"}}
    for path, methods in wanted.items():
        (options,) = exchange(hearth, filled(hearth, get(path, "Connection: close", method="OPTIONS")))
        assert options.status == 200 and set(options.headers["allow"].split(", ")) >= methods
        (refused,) = exchange(hearth, filled(hearth, get(path, "Connection: close", method="DELETE")))
        assert refused.status == 405 and set(refused.headers["allow"].split(", ")) == methods | {"OPTIONS"}
        refused.assert_problem()


def refusals(hearth: Instance) -> list[tuple[int, Response]]:
    """(the status that is due, what came) of a few refusals of every kind."""
    json_type = "Content-Type: application/json"
    requests = [
        (401, get("/v1/functions", "Connection: close").replace("Authorization: Bearer {auth}", "X: y")),
        (401, get("/v1/nothing", "Connection: close").replace("Bearer {auth}", "Basic {auth}")),
        (404, get("/v1/nothing", "Connection: close")),
        (404, get("/v1/invocations/00000000-0000-4000-8000-000000000000", "Connection: close")),
        (405, get("/v1/usage", "Connection: close", method="PATCH")),
        (413, get("/v1/functions/hello", "Content-Length: 99999999", method="PATCH")),
        (415, get("/v1/functions/hello/code", "Content-Type: text/plain", "Content-Length: 2", "Connection: close", method="PUT") + "{{}}"),
        (400, get("/v1/functions", json_type, "Content-Length: 2", "Connection: close", method="POST") + "[]"),
    ]
    return [(status, exchange(hearth, filled(hearth, request))[0]) for status, request in requests]


def test_every_refusal_is_a_problem_document(hearth: Instance, hello: str) -> None:
    for status, answer in refusals(hearth):
        assert answer.status == status, answer
        answer.assert_problem()
        assert (status == 401) == ("www-authenticate" in answer.headers)


WRONG = [
    {"memory": 65},
    {"memory": 128.5},
    {"memory": True},
    {"memory": "128"},
    {"memory": 10**30},
    {"timeout": 0},
    {"timeout": 301},
    {"timeout": -1},
    {"concurrency": 0},
    {"tmp": 0},
    {"network": "host"},
    {"layers": ["x"]},
    {"layers": [{"name": "x", "version": 1}]},
    {"environment": {"SCF_X": "y"}},
    {"environment": {"A": "\0"}},
    {"environment": {"A": 1}},
    {"environment": {"A": "\ud800"}},
    {"environment": {"A": "x" * 5000}},
    {"environment": []},
    {"description": "x" * 1001},
    {"handler": "/etc/passwd.x"},
    {"handler": "../x.y"},
    {"runtime": "Node18"},
    {"Memory": 128},
    {"naïve": 1},
    {"name": "other"},
    {},
]


@pytest.mark.parametrize("changes", WRONG, ids=lambda changes: str(changes)[:30])
def test_a_wrong_field_is_400_and_named(hearth: Instance, hello: str, changes: dict[str, object]) -> None:
    answer = hearth.request("PATCH", f"/v1/functions/{hello}", content=json.dumps(changes))
    if not changes:
        assert answer.status == 200, "nothing to change is no mistake"
        return
    assert answer.status == 400, answer.content
    (field,) = changes
    assert ascii(field)[1:-1].split("\\")[0] in answer.body["detail"]


@pytest.mark.parametrize("name", ["a", "9a", "a-", "a b", "a/b", "ünï", "a\0b", "\u202ea", "a" * 61, "ａｂ", ""])
def test_a_name_is_ascii(hearth: Instance, hello: str, name: str) -> None:
    code = hearth.request("GET", "/v1/functions/hello").body["code_size"]
    assert code
    wanted = {"name": name, "runtime": "python3", "handler": "index.main_handler", "code": {"zip": ""}}
    answer = hearth.request("POST", "/v1/functions", json=wanted)
    assert answer.status == 400 and answer.body["detail"].startswith("name"), answer.content


def test_a_wrong_tail_after_an_answer_is_not_written_into_a_stream(hearth: Instance, hello: str) -> None:
    """The log stream answers while the request's body is still due; garbage in that body ends the stream and writes nothing into it."""
    with connect(hearth) as connection:
        connection.sendall(filled(hearth, get("/v1/functions/hello/logs?follow=1", CHUNKED)))
        head = connection.recv(1 << 16)
        assert head.startswith(b"HTTP/1.1 200")
        connection.sendall(b"zz\r\n")
        assert b"HTTP/1.1" not in read_all(connection)
