"""Answers: status, headers in each dialect's spelling, and a body that is bytes or a piece of a data file."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Final

import falcon.asgi

from server.api.threads import Threads
from server.buckets.call import Dialect
from server.buckets.errors import RETRY_AFTER_SECONDS, BucketError
from server.buckets.xml import Elements, document

READ_BYTES: Final = 512 * 1024
XML: Final = "application/xml"
#: Header names as clients look for them: some of them in a dictionary that tells cases apart (cos-python-sdk-v5).
SPELLED: Final = {b"etag": b"ETag", b"content-md5": b"Content-MD5", b"www-authenticate": b"WWW-Authenticate"}


@dataclass(slots=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stream: DataStream | None = None
    length: int | None = None
    """Of the body, where there is none to count: HEAD."""

    def write_to(self, resp: falcon.asgi.Response, common: Mapping[str, str]) -> None:
        resp.status = self.status
        for name, value in {**common, **self.headers}.items():
            resp.set_header(name, value)
        if self.stream is not None:
            resp.stream = self.stream  # type: ignore[assignment]  # Falcon takes what has __aiter__, and closes it
            resp.content_length = self.stream.length
        else:
            resp.data = self.body
            if self.length is not None:
                resp.content_length = self.length


def xml_answer(dialect: Dialect, root: str, elements: Elements | str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(body=document(dialect, root, elements), headers={"Content-Type": XML, **(headers or {})})


def error_answer(error: BucketError, dialect: Dialect, resource: str, request_id: str) -> Answer:
    """The protocol's error document; a HEAD's body is left out by the server."""
    if error.status == 304:
        return Answer(304, headers=dict(error.details))
    ids: Iterable[tuple[str, Any]] = (("RequestId", request_id), ("TraceId" if dialect.name == "cos" else "HostId", request_id))
    details = {name: value for name, value in error.details.items() if "-" not in name}
    body = document(
        Dialect("", ""), "Error", [("Code", error.code), ("Message", error.message), *details.items(), ("Resource", resource), *ids]
    )
    headers = {"Content-Type": XML} | {name: value for name, value in error.details.items() if "-" in name}
    if error.status in (503, 409):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return Answer(error.status, body, headers)


class DataStream:
    """A piece of an open data file, read in a thread. Owns the descriptor; Falcon closes it, whatever happens to the client."""

    def __init__(self, threads: Threads, descriptor: int, offset: int, length: int) -> None:
        self.length = length
        self._threads, self._file = threads, os.fdopen(descriptor, "rb", buffering=0)
        self._offset = offset

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self.length
        while left:
            data = await self._threads.run(os.pread, self._file.fileno(), min(left, READ_BYTES), self._offset)
            if not data:
                raise OSError(f"data file ends {left} bytes early")
            left -= len(data)
            self._offset += len(data)
            yield data

    async def close(self) -> None:
        self._file.close()


def http_date(seconds: float) -> str:
    return formatdate(seconds, usegmt=True)


def spelled(name: bytes) -> bytes:
    """`content-length` → `Content-Length`; x-… stay lower case, as both clouds send them."""
    return SPELLED.get(name) or (name if name.startswith(b"x-") else name.title())
