"""The target of a request line in absolute form: what becomes of it and of the Host header beside it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.asgi.parser import InvalidRequestLine

from server.api.strict import to_origin_form


def request(target: bytes, **more: Any) -> Any:
    headers = [(b"accept", b"*/*"), (b"host", b"claimed.example")]
    return SimpleNamespace(**{"method": "GET", "raw_path": target, "path": target.decode(), "headers_bytes": headers, **more})


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://b-1.cos.local.myqcloud.com/a%20key", b"/a%20key", b"b-1.cos.local.myqcloud.com"),
        (b"HTTP://[::1]:9082", b"/", b"[::1]:9082"),
        (b"http://b//-/metrics", b"//-/metrics", b"b"),
    ],
)
def test_the_host_is_the_targets(target: bytes, path: bytes, host: bytes) -> None:
    made = request(target)
    to_origin_form(made)
    assert made.raw_path == path
    assert [value for name, value in made.headers_bytes if name == b"host"] == [host]
    assert (b"accept", b"*/*") in made.headers_bytes


@pytest.mark.parametrize("target", [b"http://user@host/", b"http:///path", b"ftp://host/", b"host:80", b"http://a\\b/", b"http://a|b/"])
def test_what_names_no_host_is_refused(target: bytes) -> None:
    with pytest.raises(InvalidRequestLine):
        to_origin_form(request(target))


@pytest.mark.parametrize(("method", "target"), [("OPTIONS", b"*"), ("CONNECT", b"host:80")])
def test_targets_of_other_forms_are_left_as_they_are(method: str, target: bytes) -> None:
    made = request(target, method=method)
    to_origin_form(made)
    assert (made.raw_path, made.headers_bytes[1]) == (target, (b"host", b"claimed.example"))
