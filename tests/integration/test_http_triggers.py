"""HTTP triggers against a running instance: what a browser, curl and hostile clients and functions make of a function's URL."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.integration.instance import Instance, leaving_nothing, wait_until
from tests.integration.scf import new_pair
from tests.integration.wire import connect, exchange, read_one

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

STALL_SECONDS = 1.0
#: Answers with whatever the request's body says, else with the event.
WEB = """
import base64, json
def main_handler(event, context):
    if event["path"] == "/event":
        return {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": json.dumps(event)}
    if event["path"] == "/echo":
        return {"statusCode": 201, "headers": {"Content-Type": "application/octet-stream"},
                "body": event["body"], "isBase64Encoded": event["isBase64Encoded"]}
    if event["path"] == "/as-told":
        return json.loads(event["body"])
    if event["path"] == "/fail":
        raise ValueError("a secret of mine")
    if event["path"] == "/slow":
        while True:
            pass
    return {"plain": event["path"]}
"""
SITE = """
PAGE = '<form method="post" action="login"><input name="who"></form>'
def main_handler(event, context):
    headers = event["headers"]
    if event["path"] == "/login" and event["httpMethod"] == "POST":
        who = event["body"].partition("=")[2]
        return {"statusCode": 303, "headers": {"Location": "hello", "Set-Cookie": ["who=%s; HttpOnly" % who, "seen=1"]}, "body": ""}
    if event["path"] == "/hello":
        html = {"Content-Type": "text/html; charset=utf-8"}
        return {"statusCode": 200, "headers": html, "body": u"<p>\\u4f60\\u597d %s</p>" % headers["cookie"]}
    return {"statusCode": 200, "headers": {"Content-Type": "text/html"}, "body": PAGE}
"""


@pytest.fixture(scope="module")
def web(start: Callable[..., Instance]) -> Iterator[Instance]:
    with leaving_nothing(start(http_stall_seconds=STALL_SECONDS, http_domain="fn.test", trusted_proxies="")) as instance:
        yield instance
        assert "Traceback" not in instance.log.read_text()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """Without the credential."""
    with httpx.Client(trust_env=False, timeout=30) as client:
        yield client


def add(web: Instance, function: str, *, name: str = "url", status: int = 201, **more: Any) -> dict[str, Any]:
    config = more.pop("config", {})
    answer = web.request("POST", f"/v1/functions/{function}/triggers", json={"name": name, "type": "http", "config": config, **more})
    assert answer.status == status, answer.content
    return dict(answer.body)


def path_url(web: Instance, trigger: dict[str, Any]) -> str:
    """By path; the instance's own answer is by host."""
    shown: str = trigger["config"]["NetConfig"]["ExtranetUrl"]
    return f"{web.url}/_/{shown.partition('//')[2].partition('.')[0]}"


@pytest.fixture(scope="module")
def function(web: Instance) -> str:
    return web.deploy(WEB, timeout=1)


@pytest.fixture(scope="module")
def url(web: Instance, function: str) -> str:
    return path_url(web, add(web, function))


def as_told(client: httpx.Client, url: str, value: Any) -> httpx.Response:
    return client.post(f"{url}/as-told", content=json.dumps(value))


def test_all_bytes_pass_both_ways(client: httpx.Client, url: str) -> None:
    for body in (bytes(range(256)) * 3, b"", b"\0", "你好".encode(), b"\xff"):
        answer = client.post(f"{url}/echo", content=body)
        assert (answer.status_code, answer.content) == (201, body)
        assert answer.headers["content-type"] == "application/octet-stream"


def test_large_bodies_pass_and_larger_ones_are_refused(client: httpx.Client, url: str) -> None:
    binary = bytes(range(256)) * (16 * 1024)  # 4 MB, 5.6 MB in base64
    assert client.post(f"{url}/echo", content=binary).content == binary
    refused = client.post(f"{url}/echo", content=b"x" * (6 * 1024 * 1024 + 1))
    assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")


def test_the_event_is_an_api_gateways(client: httpx.Client, web: Instance, url: str) -> None:
    request = client.build_request(
        "PUT", f"{url}/event?a=1&b=2&b=3&c=&d=%E4%BD%A0", content=b"text", headers={"X-Mine": "v", "Cookie": "a=1"}
    )
    request.headers["X-Forwarded-For"] = "9.9.9.9"
    request.headers["x-scf-remote-addr"] = "9.9.9.9"
    answer = client.send(request)
    event = answer.json()
    context = event.pop("requestContext")
    headers = event.pop("headers")
    assert event.pop("queryString") == {"a": "1", "b": ["2", "3"], "c": "", "d": "你"}
    assert (event["httpMethod"], event["path"], event["body"], event["isBase64Encoded"]) == ("PUT", "/event", "text", False)
    assert (headers["x-mine"], headers["cookie"], headers["x-scf-remote-addr"]) == ("v", "a=1", "127.0.0.1")
    assert "x-forwarded-for" not in headers and "connection" not in headers
    assert (context["sourceIp"], context["stage"], context["httpMethod"]) == ("127.0.0.1", "release", "PUT")
    assert context["requestId"] == answer.headers["x-scf-request-id"] and context["serviceId"] in url
    record = web.record(context["requestId"])
    assert (record["trigger"], record["type"], record["status"]) == ("url", "sync", 200)


def test_the_path_comes_as_it_was_sent(client: httpx.Client, url: str) -> None:
    assert client.get(f"{url}/a%2Fb%20c/d").json() == {"plain": "/a%2Fb%20c/d"}
    assert client.get(url).json() == client.get(url + "/").json() == {"plain": "/"}


def test_a_value_without_a_status_is_json(client: httpx.Client, url: str) -> None:
    for value in ("text", 1, None, [1], {"body": "x"}):
        answer = as_told(client, url, value)
        assert (answer.status_code, answer.json(), answer.headers["content-type"]) == (200, value, "application/json")


@pytest.mark.parametrize(
    "response",
    [
        {"statusCode": "abc"},
        {"statusCode": 100},
        {"statusCode": 101},
        {"statusCode": 600},
        {"statusCode": True},
        {"statusCode": None},
        {"statusCode": 200, "body": {"a": 1}},
        {"statusCode": 200, "body": "%%%", "isBase64Encoded": True},
        {"statusCode": 200, "headers": ["a"]},
        {"statusCode": 200, "headers": {"a": {"b": 1}}},
        {"statusCode": 200, "headers": {"X-A": "1\r\nX-Injected: 1"}},
        {"statusCode": 200, "headers": {"X-A\r\nX-Injected": "1"}},
        {"statusCode": 200, "headers": {"X-A": "1\n\n<script>"}},
        {"statusCode": 200, "headers": {"X-A": ["ok", "1\0"]}},
        {"statusCode": 200, "headers": {"X A": "1"}},
        {"statusCode": 200, "headers": {"": "1"}},
        {"statusCode": 200, "headers": {"X-Long": "a" * 20_000}},
    ],
    ids=repr,
)
def test_what_is_no_response_is_told_in_scfs_words(client: httpx.Client, url: str, response: Any) -> None:
    answer = as_told(client, url, response)
    assert answer.status_code == 502
    assert answer.json() == {"errno": 403, "error": "Invalid scf response format. please check your scf response format."}
    assert "x-injected" not in answer.headers and "x-a" not in answer.headers


def test_framing_is_not_the_functions(client: httpx.Client, url: str) -> None:
    headers = {
        "Content-Length": "1000",
        "Transfer-Encoding": "chunked",
        "Connection": "close, X-Hop",
        "X-Hop": "1",
        "Keep-Alive": "1",
        "Upgrade": "h2c",
        "X-Scf-Status": "7",
        "X-Kept": "yes",
    }
    answer = as_told(client, url, {"statusCode": 200, "headers": headers, "body": "four"})
    assert answer.content == b"four" and answer.headers["content-length"] == "4"
    assert answer.headers.get_list("x-scf-status") == ["200"] and answer.headers["x-kept"] == "yes"
    assert not {"transfer-encoding", "connection", "x-hop", "keep-alive", "upgrade"} & set(answer.headers)


def test_headers_come_repeated_and_whole(client: httpx.Client, url: str) -> None:
    headers = {"Set-Cookie": ["a=1; Path=/", "b=2"], "X-Many": ["1", "2"], "X-Number": 7, "X-Name": "n\u00e4me \u4f60"}
    answer = as_told(client, url, {"statusCode": 200, "headers": headers})
    lines = [(name, value) for name, value in answer.headers.raw if name.lower() in (b"set-cookie", b"x-many")]
    assert [value for _, value in lines] == [b"a=1; Path=/", b"b=2", b"1", b"2"]
    assert answer.headers["x-number"] == "7"
    assert dict(answer.headers.raw)[b"x-name"].decode() == "n\u00e4me \u4f60"


def test_head_has_no_body_and_204_neither(client: httpx.Client, url: str) -> None:
    answer = client.head(f"{url}/x")
    assert answer.status_code == 200 and answer.content == b"" and answer.headers["content-length"] == str(len(b'{"plain": "/x"}'))
    assert as_told(client, url, {"statusCode": 204, "body": "lost"}).content == b""
    assert as_told(client, url, {"statusCode": 304}).status_code == 304
    assert client.get(f"{url}/after").status_code == 200  # the connection is still in step


def test_a_functions_failure_is_a_5xx_without_its_trace(client: httpx.Client, web: Instance, url: str) -> None:
    failed = client.get(f"{url}/fail")
    assert (failed.status_code, failed.headers["x-scf-status"]) == (502, "430")
    assert "secret" not in failed.text and "Traceback" not in failed.text
    assert "a secret of mine" in json.dumps(web.record(failed.headers["x-scf-request-id"])["error"])
    late = client.get(f"{url}/slow")
    assert (late.status_code, late.headers["x-scf-status"]) == (504, "433")


def test_an_unknown_url_is_always_the_same_404(client: httpx.Client, web: Instance, url: str) -> None:
    other = "0" if url[-1] != "0" else "1"
    unknown = [
        "/_/",
        "/_/x",
        "/_/" + "0" * 32,
        "/_/" + "0" * 32 + "/a?b",
        url[len(web.url) : -1] + other,
        "/%5F/" + url[-32:],
        "/_/" + "A" * 32,
    ]
    answers = [client.request(method, web.url + path) for path in unknown for method in ("GET", "POST", "OPTIONS", "DELETE")]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert len({frozenset(set(answer.headers) - {"date"}) for answer in answers}) == 1


def test_nothing_but_urls_is_open(web: Instance, url: str) -> None:
    for path in ("/_", "/_x/y", "/v1/functions", "/v1/functions/_/", "//_/x", "/./_/x"):
        assert exchange(web, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())[0].status == 401, path
    request = f"GET {url[len(web.url) :]}/../../v1/functions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    [answer] = exchange(web, request.encode())
    assert answer.json == {"plain": "/../../v1/functions"}


def test_by_a_hosts_name(client: httpx.Client, web: Instance, url: str) -> None:
    url_id = url[-32:]
    for host in (f"{url_id}.fn.test", f"{url_id.upper()}.FN.test:9000", f"{url_id}.fn.test."):
        assert client.get(f"{web.url}/v1/functions", headers={"Host": host}).json() == {"plain": "/v1/functions"}
    assert client.get(f"{web.url}/v1/functions", headers={"Host": "other.fn.test"}).status_code == 404
    for host in ("fn.test", f"{url_id}.evil.test", f"{url_id}.fn.test.evil.test"):
        assert client.get(f"{web.url}/v1/functions", headers={"Host": host}).status_code == 401


def test_methods_are_the_triggers(client: httpx.Client, web: Instance) -> None:
    url = path_url(web, add(web, web.deploy(WEB), config={"Methods": ["GET"]}))
    assert client.get(f"{url}/x").status_code == client.head(f"{url}/x").status_code == 200
    refused = client.post(f"{url}/x")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert client.request("TRACE", f"{url}/x").status_code == 405


def test_cors(client: httpx.Client, web: Instance) -> None:
    cors = {
        "Origins": ["https://good.example"],
        "Headers": ["X-A"],
        "Methods": ["PUT"],
        "Credentials": True,
        "MaxAge": 60,
        "ExposeHeaders": ["X-B"],
    }
    url = path_url(web, add(web, web.deploy(WEB), config={"CorsConfig": cors, "AuthType": "BEARER"}))
    asked = {"Origin": "https://good.example", "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-a"}
    preflight = client.options(f"{url}/x", headers=asked)
    assert preflight.status_code == 204 and preflight.content == b""
    shown = {name: preflight.headers[f"access-control-{name}"] for name in ("allow-origin", "allow-methods", "allow-headers", "max-age")}
    assert shown == {"allow-origin": "https://good.example", "allow-methods": "PUT", "allow-headers": "X-A", "max-age": "60"}
    assert "access-control-allow-origin" not in client.options(f"{url}/x", headers={**asked, "Origin": "https://evil.example"}).headers
    refused = client.get(f"{url}/x", headers={"Origin": "https://good.example"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://good.example")
    own = {"statusCode": 200, "headers": {"Access-Control-Allow-Origin": "*", "Vary": "Accept"}}
    authorization = web._client.headers["authorization"]  # type: ignore[union-attr]
    answer = client.post(
        f"{url}/as-told", content=json.dumps(own), headers={"Origin": "https://good.example", "Authorization": authorization}
    )
    assert answer.headers.get_list("access-control-allow-origin") == ["https://good.example"]
    assert answer.headers["access-control-expose-headers"] == "X-B" and "Origin" in answer.headers["vary"]


def test_without_cors_settings_options_is_the_functions(client: httpx.Client, url: str) -> None:
    asked = {"Origin": "https://x.example", "Access-Control-Request-Method": "PUT"}
    answer = client.options(f"{url}/x", headers=asked)
    assert answer.json() == {"plain": "/x"} and "access-control-allow-origin" not in answer.headers


def test_with_the_instances_credential(client: httpx.Client, web: Instance) -> None:
    url = path_url(web, add(web, web.deploy(WEB), config={"AuthType": "BEARER"}))
    refused = client.get(f"{url}/event")
    assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Bearer")
    assert client.get(f"{url}/event", headers={"Authorization": "Bearer x"}).status_code == 401
    answer = web.request("GET", f"{url}/event")
    assert answer.status == 200 and "authorization" not in answer.body["headers"]


def signed(pair: dict[str, str], method: str, url: str, body: bytes, *, clock: str = "X-TC-Timestamp", at: float = 0) -> dict[str, str]:
    """TC3 written down anew from its description."""
    target, now = httpx.URL(url), str(int(at or time.time()))
    host, date = target.netloc.decode(), time.strftime("%Y-%m-%d", time.gmtime(int(now)))
    path, _, query = target.raw_path.decode().partition("?")
    digest = hashlib.sha256(body).hexdigest()
    canonical = "\n".join((method, path, query, f"content-type:text/plain\nhost:{host}\n", "content-type;host", digest))
    text = "\n".join(("TC3-HMAC-SHA256", now, f"{date}/scf/tc3_request", hashlib.sha256(canonical.encode()).hexdigest()))
    key = b"TC3" + pair["secret_key"].encode()
    for part in (date, "scf", "tc3_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    claim = f"TC3-HMAC-SHA256 Credential={pair['secret_id']}/{date}/scf/tc3_request, SignedHeaders=content-type;host, Signature={signature}"
    return {"Authorization": claim, "Content-Type": "text/plain", clock: now}


def test_signed_by_a_secret_pair(client: httpx.Client, web: Instance) -> None:
    url = path_url(web, add(web, web.deploy(WEB), config={"AuthType": "CAM"})) + "/event?a=%20b"
    good = new_pair(web, scope="invoke")
    for clock in ("X-TC-Timestamp", "X-Scf-Cam-Timestamp"):
        answer = client.post(url, content=b"body", headers=signed(good, "POST", url, b"body", clock=clock))
        assert answer.status_code == 200, answer.content
        event = answer.json()
        assert event["requestContext"]["identity"] == {"secretId": good["secret_id"]} and "authorization" not in event["headers"]
    headers = signed(good, "POST", url, b"body")
    assert client.post(url, content=b"other", headers=headers).status_code == 401
    assert client.post(url + "&c=1", content=b"body", headers=headers).status_code == 401
    assert client.post(url.replace("/event", "/echo"), content=b"body", headers=headers).status_code == 401
    assert client.put(url, content=b"body", headers=headers).status_code == 401
    assert client.post(url, content=b"body", headers=signed(good, "POST", url, b"body", at=time.time() - 1000)).status_code == 401
    assert client.post(url, content=b"body", headers=signed({**good, "secret_key": "x"}, "POST", url, b"body")).status_code == 401
    unsigned = client.post(url, content=b"body")
    assert unsigned.status_code == 401 and unsigned.headers["www-authenticate"] == "TC3-HMAC-SHA256"
    for wishes in ({"scope": "read"}, {"scope": "all", "namespace": "other"}):
        pair = new_pair(web, **wishes)
        assert client.post(url, content=b"body", headers=signed(pair, "POST", url, b"body")).status_code == 403


def test_one_url_for_each_qualifier(client: httpx.Client, web: Instance) -> None:
    name = web.deploy("def main_handler(event, context): return 'old'\n")
    assert web.request("POST", f"/v1/functions/{name}/versions", json={}).status == 201
    web.update(name, "def main_handler(event, context): return 'new'\n")
    urls = [path_url(web, add(web, name, name=trigger, qualifier=qualifier)) for trigger, qualifier in (("a", "1"), ("b", "$LATEST"))]
    assert [client.get(url).json() for url in urls] == ["old", "new"]
    add(web, name, name="c", qualifier="1", status=409)
    assert web.request("PATCH", f"/v1/functions/{name}/triggers/b", json={"qualifier": "1"}).status == 409
    assert web.request("DELETE", f"/v1/functions/{name}/triggers/a").status == 204
    assert web.request("PATCH", f"/v1/functions/{name}/triggers/b", json={"qualifier": "1"}).status == 200
    assert client.get(urls[1]).json() == "old" and client.get(urls[0]).status_code == 404


def test_changes_are_seen_at_once_by_every_worker(client: httpx.Client, web: Instance) -> None:
    name = web.deploy(WEB)
    trigger = add(web, name)
    url = path_url(web, trigger)
    path = f"/v1/functions/{name}/triggers/url"

    def statuses() -> set[int]:
        """Of new connections, which both workers get."""
        return {httpx.get(url, trust_env=False).status_code for _ in range(8)}

    assert statuses() == {200}
    for change, status in (({"enabled": False}, 403), ({"enabled": True}, 200), ({"config": {"AuthType": "CAM"}}, 401)):
        changed = web.request("PATCH", path, json=change)
        assert changed.status == 200
        wait_until(lambda status=status: statuses() == {status}, f"{status}", 1.0)  # type: ignore[misc]
        assert path_url(web, changed.body) == url
    assert web.request("PATCH", path, json={"config": changed.body["config"]}).status == 200  # what was read may be written
    web.delete(name)
    wait_until(lambda: statuses() == {404}, "gone", 1.0)
    web.deploy(WEB, name=name)
    assert statuses() == {404}


def test_limits_have_retry_after(client: httpx.Client, web: Instance) -> None:
    name = web.deploy("import time\ndef main_handler(event, context):\n    time.sleep(2)\n", concurrency=1)
    url = path_url(web, add(web, name))
    running = web.soon(web.request, "GET", url)
    wait_until(lambda: any(row["state"] == "leased" for row in web.sandboxes(name)), "the first call runs")
    refused = client.get(url)
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1 and name not in refused.text
    assert running.result().status == 200


def test_too_many_headers(client: httpx.Client, url: str) -> None:
    assert client.get(url, headers={"X-A": "a" * 9000, "X-B": "b" * 9000}).status_code == 431


def test_a_slow_client_is_given_up(web: Instance, client: httpx.Client, url: str) -> None:
    with connect(web) as connection:
        connection.sendall(f"POST {url[len(web.url) :]}/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc".encode())
        assert client.get(url).status_code == 200  # nobody waits for it
        assert read_one(connection).status == 408


def test_a_small_site_for_a_browser(web: Instance) -> None:
    url = path_url(web, add(web, web.deploy(SITE)))
    with httpx.Client(trust_env=False, follow_redirects=True) as browser:
        page = browser.get(url + "/")
        assert "<form" in page.text and page.headers["content-type"] == "text/html"
        answer = browser.post(url + "/login", data={"who": "ann"})
        assert [step.status_code for step in answer.history] == [303] and str(answer.url) == url + "/hello"
        assert answer.text == "<p>你好 who=ann; seen=1</p>"
