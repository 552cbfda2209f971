"""HTTP triggers without a server: configurations, events of any request, responses of any return value, CORS, forwarded addresses."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ConfigError
from sandbox.settings import Settings, load
from server.errors import BadRequest
from server.httptriggers.answers import Malformed, answer_of
from server.httptriggers.cors import preflight_headers, response_headers
from server.httptriggers.events import Incoming, event_of, forwarded_for, query_of
from server.httptriggers.hosts import Hosts
from server.httptriggers.resource import BY_HOST
from server.triggers.http import HttpConfig, HttpKind, trigger_id_of, url_id, url_of

TRUSTED = Settings(trusted_proxies="10.0.0.0/8, ::1").trusted_networks
LIMIT = 16_384
TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


def incoming(**changes: Any) -> Incoming:
    values: dict[str, Any] = {
        "method": "GET",
        "path": "/",
        "query": b"",
        "headers": [],
        "body": b"",
        "peer": "192.0.2.1",
        "request_id": "r",
        "service_id": "s",
    }
    return Incoming(**{**values, **changes})


def event(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(event_of(incoming(**changes), TRUSTED))
    return found


# -- events ------------------------------------------------------------------------------------------------------------------


@given(st.binary())
def test_a_body_comes_back_from_its_event(body: bytes) -> None:
    made = event(body=body)
    assert (base64.b64decode(made["body"]) if made["isBase64Encoded"] else made["body"].encode()) == body


@given(
    st.binary(),
    st.lists(st.tuples(st.binary(min_size=1), st.binary())),
    st.text(st.characters(min_codepoint=33, max_codepoint=255)),
)
def test_every_request_makes_an_event(query: bytes, headers: list[tuple[bytes, bytes]], path: str) -> None:
    made = event(query=query, headers=headers, path=path)
    assert made["path"] == path and made["headers"]["x-scf-remote-addr"] == "192.0.2.1"
    assert all(name == name.lower() for name in made["headers"])


def test_headers_are_joined_and_those_of_the_connection_left_out() -> None:
    headers = [
        (b"accept", b"a"),
        (b"accept", b"b"),
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
        (b"x-utf", "ä".encode()),
        (b"x-bytes", b"\xff"),
    ]
    headers += [(b"connection", b"x-hop, close"), (b"x-hop", b"1"), (b"transfer-encoding", b"chunked"), (b"te", b"trailers")]
    found = event(headers=headers)["headers"]
    del found["x-scf-remote-addr"]
    assert found == {"accept": "a, b", "cookie": "a=1; b=2", "x-utf": "ä", "x-bytes": "ÿ"}


def test_a_repeated_name_has_a_list() -> None:
    assert query_of(b"a=1&b=2&b=3&b=&c&d=%26+x") == {"a": "1", "b": ["2", "3", ""], "c": "", "d": "& x"}


def test_a_credential_for_us_is_not_shown_to_the_function() -> None:
    headers = [(b"authorization", b"Bearer x"), (b"x-tc-token", b"t")]
    assert "authorization" in event(headers=headers)["headers"]
    assert not {"authorization", "x-tc-token"} & event(headers=headers, authorized=True)["headers"].keys()


@pytest.mark.parametrize(
    ("peer", "header", "source"),
    [
        ("192.0.2.1", "1.1.1.1", "192.0.2.1"),
        ("10.1.2.3", "1.1.1.1", "1.1.1.1"),
        ("10.1.2.3", "6.6.6.6, 1.1.1.1, 10.9.9.9", "1.1.1.1"),
        ("10.1.2.3", "6.6.6.6, nonsense", "10.1.2.3"),
        ("10.1.2.3", "", "10.1.2.3"),
        ("::1", "[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:10.0.0.1", "1.1.1.1:80", "1.1.1.1"),
    ],
)
def test_only_trusted_proxies_are_believed(peer: str, header: str, source: str) -> None:
    made = event(peer=peer, headers=[(b"x-forwarded-for", header.encode()), (b"x-forwarded-proto", b"https")])
    assert made["requestContext"]["sourceIp"] == made["headers"]["x-scf-remote-addr"] == source
    assert ("x-forwarded-proto" in made["headers"]) == (peer != "192.0.2.1")


@given(st.text())
def test_any_forwarded_header_has_an_address(header: str) -> None:
    assert forwarded_for(header, "10.0.0.1", TRUSTED)


# -- responses ---------------------------------------------------------------------------------------------------------------

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(JSON_VALUES)
def test_any_value_without_a_status_is_itself(value: Any) -> None:
    returned = json.dumps(value).encode()
    answer = answer_of(returned, LIMIT)
    if not (isinstance(value, dict) and "statusCode" in value):
        assert (answer.status, answer.body, answer.headers) == (200, returned, (("content-type", b"application/json"),))


@given(
    st.fixed_dictionaries(
        {"statusCode": st.integers(0, 999) | JSON_VALUES},
        optional={
            "headers": st.dictionaries(st.text(max_size=12) | st.sampled_from(["X-A", "Connection"]), JSON_VALUES, max_size=4)
            | JSON_VALUES,
            "body": JSON_VALUES,
            "isBase64Encoded": JSON_VALUES,
        },
    )
)
def test_a_response_is_safe_or_none(value: dict[str, Any]) -> None:
    try:
        answer = answer_of(json.dumps(value).encode(), LIMIT)
    except Malformed:
        return
    assert 200 <= answer.status <= 599
    for name, text in answer.headers:
        assert TOKEN.fullmatch(name) and not set(text) & {*range(9), *range(10, 32), 127}
        assert name not in ("connection", "content-length", "transfer-encoding")


@given(st.binary())
def test_a_binary_body_comes_out_as_it_was(body: bytes) -> None:
    for encoded in (base64.b64encode(body), base64.encodebytes(body)):
        value = {"statusCode": 200, "body": encoded.decode(), "isBase64Encoded": True}
        assert answer_of(json.dumps(value).encode(), LIMIT).body == body


def test_what_orjson_does_not_read_is_read() -> None:
    assert answer_of(b'{"statusCode": 200, "body": "\\ud800x"}', LIMIT).body == b"?x"
    assert answer_of(b"1" * 400, LIMIT).body == b"1" * 400


# -- configuration -----------------------------------------------------------------------------------------------------------


def checked(config: dict[str, Any]) -> dict[str, Any]:
    return HttpKind(Settings()).checked(config)


def test_nothing_is_an_open_url() -> None:
    net = {"EnableIntranet": True, "EnableExtranet": True}
    assert checked({}) == {"AuthType": "NONE", "NetConfig": net, "CorsConfig": {}, "Methods": ["*"]}
    assert checked({"Cors": {"Enable": True}})["CorsConfig"]["Origins"] == ["*"]
    assert checked({"CorsConfig": {"Enable": False}})["CorsConfig"] == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"AuthType": "none"},
        {"AuthType": []},
        {"Other": 1},
        {"NetConfig": []},
        {"NetConfig": {"EnableExtranet": False, "EnableIntranet": False}},
        {"NetConfig": {"EnableExtranet": "yes"}},
        {"Methods": "GET"},
        {"Methods": ["get"]},
        {"Methods": [1]},
        {"CorsConfig": {"Origins": ["*"], "Credentials": True}},
        {"CorsConfig": {"Origins": ["https://a\r\nb"]}},
        {"CorsConfig": {"Origins": ["https://a/path"]}},
        {"CorsConfig": {"Headers": ["a b"]}},
        {"CorsConfig": {"MaxAge": -1}},
        {"CorsConfig": {"MaxAge": True}},
        {"CorsConfig": {"Other": 1}},
    ],
    ids=repr,
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        checked(wrong)


@given(st.dictionaries(st.sampled_from(["AuthType", "NetConfig", "CorsConfig", "Cors", "Methods"]), JSON_VALUES))
def test_any_configuration_is_taken_or_refused(config: dict[str, Any]) -> None:
    try:
        found = checked(config)
    except BadRequest:
        return
    assert checked(found) == found and HttpConfig.of(found)


def test_urls() -> None:
    trigger_id = "0d3c21fe-1111-4222-8333-444455556666"
    short = url_id(trigger_id)
    assert trigger_id_of(short) == trigger_id and trigger_id_of(short.upper()) is None and trigger_id_of("../x") is None
    assert url_of(Settings(), short) == f"http://127.0.0.1:9000/_/{short}/"
    assert url_of(Settings(public_url="https://f.example/x/"), short) == f"https://f.example/x/_/{short}/"
    assert url_of(Settings(public_url="https://f.example:8443", http_domain="fn.example"), short) == f"https://{short}.fn.example:8443/"


@pytest.mark.parametrize(
    "wrong", [{"public_url": "ftp://x"}, {"http_domain": "a b"}, {"http_domain": "x:1"}, {"trusted_proxies": "nobody"}]
)
def test_wrong_settings_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        load({}, **wrong)


# -- CORS and hosts ----------------------------------------------------------------------------------------------------------


def test_an_origin_by_name_is_said_back_alone() -> None:
    cors = HttpConfig.of(checked({"CorsConfig": {"Origins": ["https://a.example"], "Credentials": True}})).cors
    assert cors is not None
    allowed = dict(response_headers(cors, "https://a.example"))
    assert allowed == {"access-control-allow-origin": "https://a.example", "vary": "Origin", "access-control-allow-credentials": "true"}
    for other in ("https://a.example.evil", "null", None):
        assert response_headers(cors, other) == preflight_headers(cors, other, None) == [("vary", "Origin")]
    assert dict(preflight_headers(cors, "https://a.example", "x-a, x-b"))["access-control-allow-headers"] == "x-a, x-b"


def test_a_hosts_name_is_a_prefix_of_the_path() -> None:
    hosts = Hosts("fn.example")

    def resolved(host: str) -> dict[str, Any]:
        return hosts.resolved({"headers": [(b"host", host.encode())], "path": "/a b", "raw_path": b"/a%20b"})

    found = resolved("AB.fn.example:80")
    assert (found["path"], found["raw_path"], found[BY_HOST]) == ("/_/ab/a b", b"/_/ab/a%20b", True)
    for other in ("fn.example", "a.b.fn.example", "ab.fnxexample", "ab.fn.example.evil", ""):
        assert BY_HOST not in resolved(other), other
