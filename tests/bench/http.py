"""A lean HTTP/1.1 client: requests made once, keep-alive, no header is looked at but the few we need. It must not cost what it measures."""

from __future__ import annotations

import json
import selectors
import socket
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float = 0.0

    @property
    def start(self) -> str:
        return self.headers.get("x-scf-start", "")


class Connection:
    """One keep-alive connection. `send` and `receive` are apart, so that many can be under way at once."""

    def __init__(self, address: tuple[str, int], token: str, *, timeout_seconds: float = 60) -> None:
        self.sock = socket.create_connection(address, timeout_seconds)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._token = token
        self._sent = 0.0

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The bytes of a request."""
        head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {self._token}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def send(self, raw: bytes) -> None:
        self._sent = time.perf_counter()
        self.sock.sendall(raw)

    def receive(self) -> Answer:
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        head, body = data[:end].decode("latin-1").split("\r\n"), data[end + 4 :]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        length = int(headers.get("content-length", 0))
        while len(body) < length:
            body += self._more()
        return Answer(int(head[0].split(" ")[1]), headers, body, time.perf_counter() - self._sent)

    def _more(self) -> bytes:
        data = self.sock.recv(65_536)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def call(self, raw: bytes) -> Answer:
        self.send(raw)
        return self.receive()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """JSON there and back. Raises RuntimeError for anything but 2xx."""
        answer = self.call(self.request(method, path, b"" if body is None else json.dumps(body).encode()))
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.body[:500].decode(errors='replace')}")
        return json.loads(answer.body or b"null")

    def close(self) -> None:
        self.sock.close()


@dataclass(slots=True)
class Flock:
    """Many connections of one thread, for calls at the same moment."""

    connections: list[Connection]
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def burst(self, raw: bytes, count: int) -> list[Answer]:
        """`count` requests sent at once, one on each connection; their answers as they came, timed from the first byte sent."""
        answers, chosen = [], self.connections[:count]
        began = time.perf_counter()
        for connection in chosen:
            connection.send(raw)
            self._selector.register(connection.sock, selectors.EVENT_READ, connection)
        while len(answers) < count:
            for key, _ in self._selector.select():
                answer = key.data.receive()
                answer.seconds = time.perf_counter() - began
                answers.append(answer)
                self._selector.unregister(key.fileobj)
        return answers

    def close(self) -> None:
        self._selector.close()
        for connection in self.connections:
            connection.close()
