"""HTTP by hand: bytes in, parsed responses out, for requests that no client library would send; and a good client that calls meanwhile."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.integration.instance import Instance

SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Response:
    """One response; header names are in lower case. `body` is decoded from chunks."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def assert_problem(self) -> None:
        """RFC 9457: an error is a problem document that says the same status."""
        assert self.headers["content-type"] == "application/problem+json", self
        document = self.json
        assert document["status"] == self.status and document["type"] == f"urn:hearth:{document['code']}", self
        assert document["title"] and document["detail"], self


def connect(hearth: Instance, timeout_seconds: float = SECONDS) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", hearth.port), timeout=timeout_seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def reset(connection: socket.socket) -> None:
    """Close without a TIME_WAIT, of which thousands would use up the ports."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def exchange(hearth: Instance, data: bytes, *, half_close: bool = False) -> list[Response]:
    """Send it, read until the server closes; every response in full. Fails where the server neither answers nor closes."""
    with connect(hearth) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return parse(read_all(connection), data)


def read_all(connection: socket.socket) -> bytes:
    received = bytearray()
    while more := connection.recv(1 << 16):
        received += more
    return bytes(received)


def read_one(connection: socket.socket) -> Response:
    """The next response; the connection stays open. 100 (Continue) is a response, too."""
    received = bytearray()
    while True:
        more = connection.recv(1 << 16)
        if not more:
            raise AssertionError(f"closed before the response was whole: {bytes(received)!r}")
        received += more
        if b"\r\n\r\n" in received and (found := parse(bytes(received), b"", partly=True)):
            return found[0]


def parse(received: bytes, request: bytes, *, partly: bool = False) -> list[Response]:
    """Bytes of responses to `request` (whose method says whether there are bodies). With `partly` an unfinished one is left out."""
    found = []
    while received:
        head, separator, rest = received.partition(b"\r\n\r\n")
        match = re.match(rb"HTTP/1\.[01] (\d{3}) [^\r\n]+", head)
        assert separator and match, f"not a response: {received[:300]!r}"
        lines = head.decode("latin-1").split("\r\n")[1:]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        status = int(match[1])
        length = int(headers.get("content-length", 0))
        if status < 200 or status in (204, 304) or request.startswith(b"HEAD "):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body, rest = _unchunked(rest)
        else:
            if len(rest) < length and partly:
                return found
            assert len(rest) >= length, f"cut short: {received[:300]!r}"
            body, rest = rest[:length], rest[length:]
        found.append(Response(status, headers, body))
        received = rest
    return found


def _unchunked(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        body, data = body + data[:count], data[count + 2 :]
        if not count:
            return body, data


@dataclass(slots=True)
class Steady:
    """What a good client saw: how long each of its calls took, and every answer that was not the right one."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@contextmanager
def steady_client(hearth: Instance, echo: str, within_seconds: float = 3.0) -> Iterator[Steady]:
    """Meanwhile somebody calls `echo`, call after call, each on a connection of its own: every answer is right and comes in time."""
    seen, stop = Steady(), threading.Event()
    token = (hearth.home / "credential").read_text().strip()

    def call(number: int) -> None:
        event = json.dumps({"n": number}).encode()
        head = f"POST /v1/functions/{echo}/invocations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
        began = time.monotonic()
        (answer,) = exchange(hearth, f"{head}Content-Length: {len(event)}\r\n\r\n".encode() + event)
        seen.seconds.append(time.monotonic() - began)
        if answer.status != 200 or answer.json != {"n": number}:
            seen.wrong.append(f"{number}: {answer}")

    def keep_calling() -> None:
        number = 0
        while not stop.is_set() or number < 3:
            number += 1
            try:
                call(number)
            except (OSError, AssertionError, ValueError) as error:
                seen.wrong.append(f"{number}: {error!r}")

    thread = threading.Thread(target=keep_calling)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
    assert not seen.wrong, seen.wrong[:5]
    assert max(seen.seconds) < within_seconds, f"slowest of {len(seen.seconds)}: {max(seen.seconds):.2f} s"
