"""The REST interface through Falcon's test client: the real database, code store and recorder, a stand-in for sandboxd."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import re
import time
import uuid
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from falcon import testing
from openapi_spec_validator import OpenAPIV31SpecValidator

from sandbox import errors
from sandbox.errors import InvocationFailed, Refused, SandboxError
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec, Reply
from server.api import calls as calls_module
from server.app import App, create_app
from server.errors import FAILURES
from server.events.wake import DISPATCHER, Mailbox
from server.records.ids import new_request_id
from server.records.model import Filter
from server.store.times import epoch

TOKEN = "a-credential"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
HELLO = "/v1/functions/hello"
SERVED_BY = {"image": "host", "runtime": "Python3.11"}
CALL = f"{HELLO}/invocations"

Behaviour = Callable[[FunctionSpec, bytes, str], Awaitable[Reply]]


def reply(request_id: str, **changes: Any) -> Reply:
    values: dict[str, Any] = {
        "request_id": request_id,
        "start": "warm",
        "why_cold": "",
        "body": b'{"answer": 42}',
        "error": None,
        "log": b"",
        "started_at": time.time(),
        "ended_at": time.time(),
        "start_ms": 0.2,
        "run_ms": 1.25,
        "memory_bytes": 1000,
        "sandbox": "s1",
        "runtime": "Python3.11",
        "tree_dead": False,
    }
    return Reply(**{**values, **changes})


class FakeClient:
    """sandboxd's stand-in: `behaviour` answers calls, what is told is kept."""

    def __init__(self) -> None:
        self.connected = True
        self.on_change: Callable[[str | None], None] = lambda _: None
        self.behaviour: Behaviour = self.succeed
        self.specs: list[FunctionSpec] = []
        self.hops: list[int] = []
        self.events: list[bytes] = []
        self.retired: list[tuple[str, int | None]] = []
        self.announced: list[str] = []
        self.quotas: list[tuple[str, int, str, bool]] = []
        self.provisioned: dict[str, tuple[FunctionSpec, int, int]] = {}
        self.temporary: dict[str, dict[str, Any]] = {}
        self.sandboxes: list[dict[str, Any]] = [{"id": "s1", "state": "leased", "memory_bytes": 5}, {"id": "s2", "state": "idle"}]

    async def start(self) -> None:
        self.started = True

    async def close(self) -> None:
        self.connected = False

    async def succeed(self, spec: FunctionSpec, event: bytes, request_id: str) -> Reply:
        return reply(request_id)

    def begin(
        self, spec: FunctionSpec, event: bytes, *, request_id: str, ended: Callable[[Reply | SandboxError], None], hops: int = 0
    ) -> Any:
        self.specs.append(spec)
        self.hops.append(hops)
        self.events.append(event)
        asyncio.get_running_loop().create_task(self._run(spec, event, request_id, ended))

    async def _run(self, spec: FunctionSpec, event: bytes, request_id: str, ended: Callable[[Reply | SandboxError], None]) -> None:
        try:
            came: Reply | SandboxError = await self.behaviour(spec, event, request_id)
        except SandboxError as error:
            came = error
        ended(came)

    def _check(self) -> None:
        if not self.connected:
            raise errors.Unavailable("sandboxd is away", retry_after_seconds=3)

    async def retire(self, function_id: str, generation: int | None) -> None:
        self._check()
        self.retired.append((function_id, generation))

    async def announce(self, function_id: str) -> None:
        self._check()
        self.announced.append(function_id)

    async def resolve(self, runtime: str) -> dict[str, Any]:
        self._check()
        return dict(SERVED_BY)

    async def credential(self, secret_id: str) -> dict[str, Any] | None:
        self._check()
        return self.temporary.get(secret_id)

    async def quota(self, namespace: str, epoch: int, family: str = "", *, is_reserved: bool = False) -> None:
        self._check()
        self.quotas.append((namespace, epoch, family, is_reserved))

    async def provision(
        self, spec: FunctionSpec, number: int, *, purpose: str = "provisioned", revision: int = 0, seconds: float | None = None
    ) -> None:
        self._check()
        self.provisioned[spec.function_id] = (spec, number, revision)

    async def unprovision(self, function_id: str, *, purpose: str = "provisioned", revision: int = 0) -> None:
        self._check()
        self.provisioned.pop(function_id, None)

    async def provisions(self) -> list[dict[str, Any]]:
        self._check()
        said = {"purposes": ["provisioned"], "available": 1, "status": "failed", "reason": "it \u00e9 broke"}
        return [
            {"function_id": function_id, "allocated": number, "revision": revision, **said}
            for function_id, (_, number, revision) in self.provisioned.items()
        ]

    async def describe(self) -> dict[str, Any]:
        self._check()
        return {
            "sandboxes": self.sandboxes,
            "images": [{"name": "host"}],
            "capacity": {"capacity_bytes": 7},
            "counters": {"cold": 3, "descriptors": 9},
        }

    def raises(self, error: SandboxError) -> None:
        async def behave(spec: FunctionSpec, event: bytes, request_id: str) -> Reply:
            raise error

        self.behaviour = behave

    def fails(self, error: InvocationFailed, **changes: Any) -> None:
        async def behave(spec: FunctionSpec, event: bytes, request_id: str) -> Reply:
            return reply(request_id, error=error, body=b"", **changes)

        self.behaviour = behave


def zipped(content: str = "def main_handler(event, context): return event\n", name: str = "index.py") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


def creation(**changes: Any) -> dict[str, Any]:
    code = {"zip": base64.b64encode(zipped()).decode()}
    return {"name": "hello", "runtime": "python3", "handler": "index.main_handler", "code": code, **changes}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=str(tmp_path), limit_event_bytes=1000, limit_code_bytes=20_000, limit_async_event_bytes=500, limit_queued_events=20
    )


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def app(settings: Settings, client: FakeClient) -> App:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    return create_app(settings, client=client, environ={"HEARTH_TOKEN_SHA256": digest}, writer=lambda _: None)


@pytest.fixture
async def api(app: App) -> AsyncIterator[testing.ASGIConductor]:
    async with testing.ASGIConductor(app, headers=AUTHORIZED) as conductor:
        yield conductor


@pytest.fixture
async def hello(api: testing.ASGIConductor) -> dict[str, Any]:
    result = await api.simulate_post("/v1/functions", json=creation())
    assert result.status_code == 201, result.text
    function: dict[str, Any] = result.json
    return function


def problem(result: testing.Result, status: int, code: str = "") -> dict[str, Any]:
    assert result.status_code == status, result.text
    assert result.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = result.json
    assert (
        document["status"] == status and document["title"] and document["detail"] and document["type"] == f"urn:hearth:{document['code']}"
    )
    assert not code or document["code"] == code
    return document


async def record_of(api: testing.ASGIConductor, result: testing.Result) -> dict[str, Any]:
    found = await api.simulate_get(f"/v1/invocations/{result.headers['x-scf-request-id']}", params={"wait": "5"})
    assert found.status_code == 200, found.text
    record: dict[str, Any] = found.json
    return record


# Calling --------------------------------------------------------------------------------------------------------------------


async def test_a_reply_is_the_functions_value_verbatim_with_what_the_call_cost(api: Any, hello: Any, client: FakeClient) -> None:
    async def behave(spec: FunctionSpec, event: bytes, request_id: str) -> Reply:
        return reply(request_id, start="cold", body=b'{"a":  1.0}', log=b"x" * 5000 + b"end")

    client.behaviour = behave
    result = await api.simulate_post(CALL, body=b'{"k": 1}', params={"logType": "tail"})
    assert (result.status_code, result.content, result.headers["content-type"]) == (200, b'{"a":  1.0}', "application/json")
    assert client.events == [b'{"k": 1}'] and client.specs[0].function_id == hello["function_id"]
    headers = result.headers
    assert uuid.UUID(headers["x-scf-request-id"]).version == 7
    expected = {"status": "200", "start": "cold", "duration-ms": "1.250", "billed-ms": "2", "memory-bytes": "1000"}
    assert {key: headers[f"x-scf-{key}"] for key in expected} == expected
    assert base64.b64decode(headers["x-scf-log"]) == (b"x" * 5000 + b"end")[-4096:]


async def test_the_log_is_left_out_unless_it_is_asked_for(api: Any, hello: Any) -> None:
    assert "x-scf-log" not in (await api.simulate_post(CALL)).headers


async def test_an_empty_body_is_the_empty_object(api: Any, hello: Any, client: FakeClient) -> None:
    assert (await api.simulate_post(CALL)).status_code == 200
    assert client.events == [b"{}"]


@pytest.mark.parametrize("event", [b"{", b"NaN", b'{"a": Infinity}', b'"\xff"', b"  ", "{}".encode("utf-16"), b"[" * 900])
async def test_an_event_that_is_not_json_is_refused_and_runs_nothing(api: Any, hello: Any, client: FakeClient, event: bytes) -> None:
    result = await api.simulate_post(CALL, body=event)
    problem(result, 400, "invalid_json")
    assert result.headers["x-scf-status"] == "400" and client.events == []


@pytest.mark.parametrize("event", [b'"\\ud800"', b"1" + b"0" * 400, b"null", b"0", '"é😀"'.encode(), b"[" * 500 + b"]" * 500])
async def test_every_json_text_is_an_event_and_arrives_unchanged(api: Any, hello: Any, client: FakeClient, event: bytes) -> None:
    assert (await api.simulate_post(CALL, body=event)).status_code == 200
    assert client.events == [event]


async def test_an_event_over_the_limit_is_413_and_scf_406(api: Any, hello: Any, client: FakeClient) -> None:
    result = await api.simulate_post(CALL, body=b'"' + b"x" * 1000 + b'"')
    problem(result, 413)
    assert result.headers["x-scf-status"] == "406" and client.events == []
    assert (await api.simulate_post(CALL, body=b'"' + b"x" * 998 + b'"')).status_code == 200


async def test_an_unknown_function_is_404_and_scf_435(api: Any) -> None:
    result = await api.simulate_post("/v1/functions/nobody/invocations", body=b"{}")
    problem(result, 404, "function_not_found")
    assert result.headers["x-scf-status"] == "435" and result.headers["x-scf-request-id"]


async def test_an_unknown_qualifier_is_404_and_scf_442(api: Any, hello: Any) -> None:
    result = await api.simulate_post(CALL, params={"qualifier": "7"})
    problem(result, 404)
    assert result.headers["x-scf-status"] == "442"
    assert (await api.simulate_post(CALL, params={"qualifier": "$LATEST"})).status_code == 200


@pytest.mark.parametrize(
    "given", [{"params": {"invokeType": "event"}}, {"headers": {"X-Scf-Invoke-Type": "Event"}}, {"headers": {"invokeType": "Event"}}]
)
async def test_an_event_is_acknowledged_once_it_is_in_the_queue(
    api: Any, hello: Any, app: App, client: FakeClient, given: dict[str, Any]
) -> None:
    result = await api.simulate_post(CALL, body=b'{"a": 1}', **given)
    assert result.status_code == 202 and result.headers["x-scf-request-id"] == result.json["request_id"]
    event = app.services.queue.get(result.json["request_id"])
    assert event is not None and (event.payload, event.function, event.qualifier) == (b'{"a": 1}', "hello", "$LATEST")
    record = (await api.simulate_get(f"/v1/invocations/{event.request_id}")).json
    assert (record["state"], record["type"], record["status"], record["source"]) == ("queued", "async", 202, "client")
    assert client.events == []


async def test_an_idempotency_key_gives_the_first_events_id(api: Any, hello: Any, app: App) -> None:
    keys = ["a", "b", "a", "a"]
    given = [{"Idempotency-Key": key, "invokeType": "Event"} for key in keys]
    ids = [(await api.simulate_post(CALL, headers=headers)).json["request_id"] for headers in given]
    assert ids[0] == ids[2] == ids[3] != ids[1] and len(app.services.queue.search(Filter(), 10)) == 2
    problem(await api.simulate_post(CALL, headers={"Idempotency-Key": "a b", "invokeType": "Event"}), 400)


async def test_an_event_has_a_limit_of_its_own(api: Any, hello: Any, settings: Settings) -> None:
    most = settings.limit_async_event_bytes
    result = await api.simulate_post(CALL, body=b'"' + b"a" * (most - 1) + b'"', params={"invokeType": "Event"})
    assert result.status_code == 413 and result.headers["x-scf-status"] == "406"
    fits = await api.simulate_post(CALL, body=b'"' + b"a" * (most - 2) + b'"', params={"invokeType": "Event"})
    assert fits.status_code == 202


async def test_a_full_queue_refuses_with_503(api: Any, hello: Any, settings: Settings) -> None:
    answers = [await api.simulate_post(CALL, params={"invokeType": "Event"}) for _ in range(settings.limit_queued_events + 1)]
    assert [answer.status_code for answer in answers] == [202] * settings.limit_queued_events + [503]
    assert problem(answers[-1], 503, "queue_full") and answers[-1].headers["retry-after"] == "1"


async def test_a_delayed_event_says_when_it_is_due(api: Any, hello: Any) -> None:
    for given in (
        {"params": {"invokeType": "Event", "delaySeconds": "90"}},
        {"headers": {"invokeType": "Event", "X-Scf-Delay-Seconds": "90"}},
    ):
        made = (await api.simulate_post(CALL, **given)).json["request_id"]
        record = (await api.simulate_get(f"/v1/invocations/{made}")).json
        assert 85 < epoch(record["due_at"]) - epoch(record["created_at"]) <= 90.01
    problem(await api.simulate_post(CALL, params={"invokeType": "Event", "delaySeconds": "-1"}), 400)


async def test_a_waiting_event_can_be_cancelled_once(api: Any, hello: Any) -> None:
    made = (await api.simulate_post(CALL, params={"invokeType": "Event"})).json["request_id"]
    cancelled = await api.simulate_delete(f"/v1/invocations/{made}")
    assert (cancelled.status_code, cancelled.json["state"], cancelled.json["status"]) == (200, "cancelled", 499)
    problem(await api.simulate_delete(f"/v1/invocations/{made}"), 409, "not_cancellable")
    problem(await api.simulate_delete("/v1/invocations/nobody"), 404)


async def test_lists_hold_pending_and_final_calls_newest_first(api: Any, hello: Any) -> None:
    first = (await api.simulate_post(CALL, params={"invokeType": "Event"})).json["request_id"]
    second = (await api.simulate_post(CALL)).headers["x-scf-request-id"]
    third = (await api.simulate_post(CALL, params={"invokeType": "Event"})).json["request_id"]

    async def ids(path: str, **params: str) -> list[str]:
        return [row["request_id"] for row in (await api.simulate_get(path, params=params)).json["invocations"]]

    assert await ids(CALL) == await ids("/v1/invocations") == [third, second, first]
    assert await ids(CALL, type="async") == await ids("/v1/invocations", state="queued", function="hello") == [third, first]
    assert await ids(CALL, type="sync") == await ids(CALL, state="succeeded") == [second]
    assert await ids(CALL, until="2020-01-01T00:00:00Z") == await ids("/v1/invocations", function="other") == []
    assert await ids(CALL, since="2020-01-01T00:00:00Z", limit="2") == [third, second]
    problem(await api.simulate_get(CALL, params={"since": "yesterday"}), 400)


@pytest.mark.parametrize("params", [{"invokeType": "Sometimes"}, {"logType": "Head"}])
async def test_a_wrong_option_is_refused_with_what_there_is(api: Any, hello: Any, params: dict[str, str]) -> None:
    assert "one of" in problem(await api.simulate_post(CALL, params=params), 400)["hint"]


async def test_options_are_read_whatever_their_case(api: Any, hello: Any) -> None:
    result = await api.simulate_post(CALL, params={"invokeType": "requestresponse"}, headers={"X-Scf-Log-Type": "TAIL"})
    assert result.status_code == 200 and result.headers["x-scf-log"] == ""


# Failures -------------------------------------------------------------------------------------------------------------------


def leaves_of(kind: type[SandboxError]) -> list[type[SandboxError]]:
    return [leaf for leaf in errors.leaves() if issubclass(leaf, kind)]


@pytest.mark.parametrize("kind", leaves_of(InvocationFailed))
async def test_a_functions_failure_has_its_status_and_scfs_body(
    api: Any, hello: Any, client: FakeClient, kind: type[InvocationFailed]
) -> None:
    client.fails(kind("it \ud800 failed", stack_trace="Traceback: index.py"))
    result = await api.simulate_post(CALL, body=b"{}")
    row = FAILURES[kind]
    assert result.status_code == row.http and result.headers["content-type"] == "application/json"
    assert result.headers["x-scf-status"] == str(row.scf) and result.headers["x-scf-duration-ms"] == "1.250"
    body = json.loads(result.content)
    assert body == {
        "errorCode": -1,
        "errorMessage": "it \ud800 failed",
        "requestId": result.headers["x-scf-request-id"],
        "stackTrace": "Traceback: index.py",
        "statusCode": row.scf,
    }
    record = await record_of(api, result)
    assert (record["state"], record["status"], record["result"]) == ("failed", row.scf, None)
    assert record["error"] == {"code": kind.code, "message": "it \ud800 failed", "stack_trace": "Traceback: index.py"}


@pytest.mark.parametrize("kind", [leaf for leaf in leaves_of(Refused) if leaf is not errors.StaleFunction])
async def test_a_refused_call_is_a_problem_and_its_record_shows_that_nothing_ran(
    api: Any, hello: Any, client: FakeClient, kind: type[Refused]
) -> None:
    client.raises(kind("no 7", hint="wait", retry_after_seconds=7))
    result = await api.simulate_post(CALL, body=b"{}")
    row = FAILURES[kind]
    document = problem(result, row.http, kind.code)
    assert document["request_id"] == result.headers["x-scf-request-id"] and document["detail"] == "no 7"
    assert result.headers["x-scf-status"] == str(row.scf)
    assert result.headers.get("retry-after") == ("7" if row.retry else None)
    record = await record_of(api, result)
    assert (record["state"], record["status"]) == ("failed", row.scf)
    assert (record["started_at"], record["start"], record["attempts"], record["billed_ms"]) == (None, None, [], 0)


@pytest.mark.parametrize(
    "error", [errors.LaunchError("mounts", "bind /secret", 13), errors.ImageError("/secret is broken"), errors.ConfigError("secret")]
)
async def test_a_fault_of_ours_is_500_and_tells_nothing_of_the_host(api: Any, hello: Any, client: FakeClient, error: SandboxError) -> None:
    client.raises(error)
    result = await api.simulate_post(CALL, body=b"{}")
    problem(result, 500, error.code)
    assert "secret" not in result.text and (await record_of(api, result))["status"] == 500


async def test_a_bug_is_500_without_a_stack(
    api: Any, hello: Any, client: FakeClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(client, "begin", begin)
    result = await api.simulate_post(CALL, body=b"{}")
    problem(result, 500, "internal_error")
    assert "secret" not in result.text and "ZeroDivisionError" in caplog.text
    assert (await record_of(api, result))["status"] == 500


async def test_a_bug_in_a_resource_is_500_without_a_stack(
    api: Any, app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(app.services.functions, "list", broken)
    result = await api.simulate_get("/v1/functions")
    problem(result, 500, "internal_error")
    assert "secret" not in result.text and "ZeroDivisionError" in caplog.text


# Records --------------------------------------------------------------------------------------------------------------------

RECORD_KEYS = set(
    "request_id function namespace qualifier version type trigger caused_by state status result error start why_cold created_at started_at "
    "ended_at queue_ms start_ms run_ms billed_ms memory_bytes attempts log".split()
)


async def test_a_calls_record_has_everything_about_it(api: Any, hello: Any, client: FakeClient) -> None:
    async def behave(spec: FunctionSpec, event: bytes, request_id: str) -> Reply:
        return reply(request_id, start="cold", why_cold="first call", log=b"hi \xff\n", start_ms=3.5)

    client.behaviour = behave
    record = await record_of(api, await api.simulate_post(CALL, body=b"{}"))
    assert set(record) >= RECORD_KEYS
    assert (record["function"], record["version"], record["type"], record["state"], record["status"]) == (
        "hello",
        "$LATEST",
        "sync",
        "succeeded",
        200,
    )
    assert (record["result"], record["error"], record["start"], record["why_cold"]) == ({"answer": 42}, None, "cold", "first call")
    assert (record["start_ms"], record["run_ms"], record["billed_ms"], record["memory_bytes"]) == (3.5, 1.25, 2, 1000)
    assert record["runtime"] == "Python3.11" and record["log"] == "hi \\xff\n" and len(record["attempts"]) == 1
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record[key]) for key in ("created_at", "started_at", "ended_at"))


async def test_a_call_nobody_made_is_404_after_the_patience_for_written_behind_ones(api: Any) -> None:
    began = time.monotonic()
    problem(await api.simulate_get(f"/v1/invocations/{uuid.uuid4()}"), 404, "invocation_not_found")
    assert 0.3 <= time.monotonic() - began < 2


async def test_waiting_ends_when_the_record_comes(api: Any, app: App, hello: Any) -> None:
    request_id = new_request_id()

    async def later() -> None:
        await asyncio.sleep(0.5)
        call = calls_module.Call(request_id, await app.services.cache.find("hello"), reply=reply(request_id))
        app.services.calls.finish(call)

    task = asyncio.ensure_future(later())
    result = await api.simulate_get(f"/v1/invocations/{request_id}", params={"wait": "20"})
    await task
    assert result.status_code == 200 and result.json["state"] == "succeeded"


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "soon"])
async def test_a_wrong_wait_is_refused(api: Any, wait: str) -> None:
    problem(await api.simulate_get("/v1/invocations/x", params={"wait": wait}), 400)


async def test_a_functions_latest_calls_come_newest_first_and_by_state(api: Any, hello: Any, client: FakeClient) -> None:
    first = (await api.simulate_post(CALL)).headers["x-scf-request-id"]
    client.fails(errors.TimeLimit("too long"))
    second = (await api.simulate_post(CALL)).headers["x-scf-request-id"]

    async def ids(**params: str) -> list[str]:
        return [row["request_id"] for row in (await api.simulate_get(CALL, params=params)).json["invocations"]]

    assert await ids() == [second, first]
    assert await ids(limit="1") == [second]
    assert await ids(state="succeeded") == [first]
    problem(await api.simulate_get(CALL, params={"state": "odd"}), 400)
    for limit in ("0", "1001", "x", "+5", "٣"):
        problem(await api.simulate_get(CALL, params={"limit": limit}), 400)
    problem(await api.simulate_get("/v1/functions/nobody/invocations"), 404)


async def test_usage_sums_calls_and_gb_seconds(api: Any, hello: Any, client: FakeClient) -> None:
    async def behave(spec: FunctionSpec, event: bytes, request_id: str) -> Reply:
        return reply(request_id, run_ms=1000.0)

    client.behaviour = behave
    await api.simulate_post(CALL)
    client.raises(errors.Throttled("20 run"))
    await api.simulate_post(CALL)
    (row,) = (await api.simulate_get("/v1/usage")).json["usage"]
    assert (row["function"], row["calls"], row["throttled"], row["billed_ms"]) == ("hello", 1, 1, 1000)
    assert row["gb_seconds"] == pytest.approx(0.125)
    assert (await api.simulate_get("/v1/usage", params={"from": "2001-01-01", "to": "2001-01-02"})).json == {"usage": []}


@pytest.mark.parametrize("params", [{"from": "20261123"}, {"to": "2026-13-01"}, {"from": "2026-02-02", "to": "2026-02-01"}])
async def test_a_wrong_day_is_refused(api: Any, params: dict[str, str]) -> None:
    problem(await api.simulate_get("/v1/usage", params=params), 400)


# Logs -----------------------------------------------------------------------------------------------------------------------


def writes(client: FakeClient, text: bytes) -> None:
    async def behave(spec: FunctionSpec, event: bytes, request_id: str) -> Reply:
        return reply(request_id, log=text)

    client.behaviour = behave


async def test_logs_come_oldest_first_and_go_on_behind_a_cursor(api: Any, hello: Any, client: FakeClient) -> None:
    for text in (b"one", b"two", b"three"):
        writes(client, text)
        await api.simulate_post(CALL)
    entries = (await api.simulate_get(f"{HELLO}/logs")).json["logs"]
    assert [entry["log"] for entry in entries] == ["one", "two", "three"]
    assert set(entries[0]) >= {"request_id", "time", "log"}
    newest = (await api.simulate_get(f"{HELLO}/logs", params={"limit": "2"})).json["logs"]
    assert [entry["log"] for entry in newest] == ["two", "three"]
    behind = (await api.simulate_get(f"{HELLO}/logs", params={"after": str(entries[1]["cursor"])})).json["logs"]
    assert [entry["log"] for entry in behind] == ["three"]
    problem(await api.simulate_get(f"{HELLO}/logs", params={"after": "x"}), 400)
    problem(await api.simulate_get("/v1/functions/nobody/logs"), 404)
    problem(await api.simulate_get("/v1/functions/nobody/logs", params={"follow": "1"}), 404)


@pytest.fixture
def short_keep_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Falcon's test client is told of the end of a stream only when something is sent."""
    monkeypatch.setattr("server.api.records.KEEP_ALIVE_SECONDS", 0.1)


async def events(stream: Any, count: int) -> list[tuple[int, dict[str, Any]]]:
    """The next `count` events: (id, data)."""
    text, found = "", []
    async with asyncio.timeout(10):
        while len(found) < count:
            text += (await stream.read()).decode()
            found = re.findall(r"id: (\d+)\n.*?data: (.*?)\n\n", text.replace("\r", ""), re.DOTALL) or [
                (number, data) for data, number in re.findall(r"data: (.*?)\nid: (\d+)", text, re.DOTALL)
            ]
    return [(int(number), json.loads(data)) for number, data in found]


@pytest.mark.usefixtures("short_keep_alive")
async def test_following_sends_what_comes_and_other_requests_are_served_meanwhile(api: Any, hello: Any, client: FakeClient) -> None:
    writes(client, b"before")
    await api.simulate_post(CALL)
    async with api.simulate_get_stream(f"{HELLO}/logs", params={"follow": "1", "limit": "5"}) as result:
        assert result.headers["content-type"].startswith("text/event-stream")
        ((first, entry),) = await events(result.stream, 1)
        assert entry["log"] == "before"
        writes(client, b"after\nlines")
        await api.simulate_post(CALL)
        ((second, entry),) = await events(result.stream, 1)
        assert entry["log"] == "after\nlines" and second > first
    async with api.simulate_get_stream(f"{HELLO}/logs", params={"follow": "1"}, headers={"Last-Event-ID": str(first)}) as result:
        assert [number for number, _ in await events(result.stream, 1)] == [second]


@pytest.mark.usefixtures("short_keep_alive")
async def test_following_begins_with_what_comes_now(api: Any, hello: Any, client: FakeClient) -> None:
    writes(client, b"old")
    await record_of(api, await api.simulate_post(CALL))
    await api.simulate_get(f"{HELLO}/logs")  # flushed
    async with api.simulate_get_stream(f"{HELLO}/logs", params={"follow": "1"}) as result:
        writes(client, b"new")
        await api.simulate_post(CALL)
        ((_, entry),) = await events(result.stream, 1)
        assert entry["log"] == "new"


async def test_following_ends_when_the_service_stops(api: Any, app: App, hello: Any) -> None:
    async with api.simulate_get_stream(f"{HELLO}/logs", params={"follow": "1"}) as result:
        app.services.stopping.set()
        async with asyncio.timeout(5):
            while await result.stream.read():
                continue


# Functions ------------------------------------------------------------------------------------------------------------------


async def test_a_function_is_created_read_listed_changed_and_deleted(api: Any, hello: Any, client: FakeClient) -> None:
    assert (hello["name"], hello["memory"], hello["generation"]) == ("hello", 128, 1)
    assert (await api.simulate_get(HELLO)).json == {**hello, "served_by": SERVED_BY}
    assert (await api.simulate_get("/v1/functions")).json == {"functions": [hello]}
    changed = await api.simulate_patch(HELLO, json={"memory": 256})
    assert changed.status_code == 200 and (changed.json["memory"], changed.json["generation"]) == (256, 2)
    deleted = await api.simulate_delete(HELLO)
    assert (deleted.status_code, deleted.content) == (204, b"")
    problem(await api.simulate_get(HELLO), 404, "function_not_found")
    assert client.retired == [(hello["function_id"], 2), (hello["function_id"], None)]


async def test_creation_says_where_the_function_is(api: Any) -> None:
    assert (await api.simulate_post("/v1/functions", json=creation())).headers["location"] == HELLO


async def test_code_is_replaced_by_a_zip_and_by_json(api: Any, hello: Any, client: FakeClient) -> None:
    package = zipped("x = 1\n")
    result = await api.simulate_put(f"{HELLO}/code", body=package, headers={"Content-Type": "application/zip"})
    assert result.status_code == 200, result.text
    assert (result.json["generation"], result.json["code_sha256"]) == (2, hashlib.sha256(package).hexdigest())
    other = base64.b64encode(zipped("y = 1\n", "other.py")).decode()
    problem(await api.simulate_put(f"{HELLO}/code", json={"zip": other}), 400, "handler_file_missing")
    for body in ({"zip": other, "handler": "other.main"}, {"code": {"zip": other}, "handler": "other.main"}):
        result = await api.simulate_put(f"{HELLO}/code", json=body)
        assert result.status_code == 200 and result.json["handler"] == "other.main", result.text
    assert client.retired == [(hello["function_id"], generation) for generation in (2, 3, 4)]


async def test_code_and_configuration_are_one_change(api: Any, hello: Any, client: FakeClient) -> None:
    other = base64.b64encode(zipped("y = 1\n", "other.py")).decode()
    body = {"zip": other, "configuration": {"handler": "other.main", "memory": 256, "environment": {"A": "ü"}}}
    changed = await api.simulate_put(f"{HELLO}/code", json=body)
    assert changed.status_code == 200, changed.text
    assert [changed.json[key] for key in ("generation", "handler", "memory", "environment")] == [2, "other.main", 256, {"A": "ü"}]
    assert client.retired == [(hello["function_id"], 2)]
    for wrong in ({"memory": 5}, {"odd": 1}, {"code": {"zip": other}}, {"name": "x"}, [], "x", {"handler": "nowhere.main"}):
        problem(await api.simulate_put(f"{HELLO}/code", json={"code": {"zip": other}, "configuration": wrong}), 400)
    two = {"zip": other, "handler": "other.a", "configuration": {"handler": "other.b"}}
    problem(await api.simulate_put(f"{HELLO}/code", json=two), 400)
    shown = (await api.simulate_get(HELLO)).json
    assert (shown["generation"], shown["code_sha256"], shown["memory"]) == (2, changed.json["code_sha256"], 256)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"no zip", "application/zip", 400),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"zip": 1}', "application/json", 400),
        (b'{"zip": "", "odd": 1}', "application/json", 400),
        (b'{"code": {"zip": ""}, "odd": 1}', "application/json", 400),
        (b'{"zip": "", "handler": 1}', "application/json", 400),
        (b"x" * 20_001, "application/zip", 413),
        (b"x" * 200_000, "application/json", 413),
        (b"x", "text/plain", 415),
    ],
)
async def test_code_that_cannot_be_is_refused(api: Any, hello: Any, client: FakeClient, body: bytes, kind: str, status: int) -> None:
    problem(await api.simulate_put(f"{HELLO}/code", body=body, headers={"Content-Type": kind}), status)
    assert client.retired == [] and (await api.simulate_get(HELLO)).json == {**hello, "served_by": SERVED_BY}


async def test_wrong_creations_and_changes_are_refused(api: Any, hello: Any) -> None:
    problem(await api.simulate_post("/v1/functions", json=creation()), 409, "function_exists")
    problem(await api.simulate_post("/v1/functions", json=creation(name="other", memory=100)), 400)
    problem(await api.simulate_post("/v1/functions", body=b"{"), 400, "invalid_json")
    problem(await api.simulate_patch(HELLO, json={"odd": 1}), 400)
    problem(await api.simulate_patch(HELLO, body=b'{"description": "' + b"x" * 70_000 + b'"}'), 413)
    problem(await api.simulate_patch("/v1/functions/nobody", json={}), 404)
    problem(await api.simulate_delete("/v1/functions/nobody"), 404)


async def test_a_change_is_made_though_sandboxd_is_away(api: Any, hello: Any, client: FakeClient) -> None:
    client.connected = False
    assert (await api.simulate_patch(HELLO, json={"memory": 256})).status_code == 200
    client.connected = True
    await api.simulate_post(CALL)
    assert client.specs[-1].memory_mb == 256


async def test_the_next_call_uses_what_was_changed(api: Any, hello: Any, client: FakeClient) -> None:
    await api.simulate_post(CALL)
    await api.simulate_patch(HELLO, json={"timeout": 7})
    await api.simulate_post(CALL)
    assert [(spec.generation, spec.timeout_seconds) for spec in client.specs] == [(1, 3), (2, 7)]


async def test_a_change_in_another_process_is_known_when_sandboxd_says_so(api: Any, app: App, hello: Any, client: FakeClient) -> None:
    await api.simulate_post(CALL)
    app.services.functions.update("hello", {"timeout": 7})
    client.on_change(hello["function_id"])
    await api.simulate_post(CALL)
    assert [spec.generation for spec in client.specs] == [1, 2]


async def test_a_stale_call_is_looked_up_again_and_runs_once(api: Any, app: App, hello: Any, client: FakeClient) -> None:
    async def behave(spec: FunctionSpec, event: bytes, request_id: str) -> Reply:
        if spec.generation == 1:
            raise errors.StaleFunction("generation 1, now 2")
        return reply(request_id)

    await api.simulate_post(CALL)
    app.services.functions.update("hello", {"timeout": 7})  # and nobody says so
    client.behaviour = behave
    result = await api.simulate_post(CALL)
    assert result.status_code == 200 and [spec.generation for spec in client.specs] == [1, 1, 2]


async def test_a_call_that_stays_stale_is_503_at_last(api: Any, hello: Any, client: FakeClient) -> None:
    client.raises(errors.StaleFunction("never right"))
    result = await api.simulate_post(CALL)
    problem(result, 503, "stale_function")
    assert len(client.specs) == calls_module.STALE_RETRIES + 1 and result.headers["retry-after"] == "1"


async def test_a_function_deleted_under_a_call_is_404(api: Any, app: App, hello: Any, client: FakeClient) -> None:
    await api.simulate_post(CALL)
    app.services.functions.delete("hello")
    client.raises(errors.StaleFunction("deleted"))
    result = await api.simulate_post(CALL)
    problem(result, 404, "function_not_found")
    assert result.headers["x-scf-status"] == "435"


# Clients that leave -----------------------------------------------------------------------------------------------------------


class Wire:
    """One request by hand: `gone` is when the client closes its connection."""

    def __init__(self, body: list[dict[str, Any]] | None = None) -> None:
        self.events = body or [{"type": "http.request", "body": b"{}"}]
        self.gone = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        if self.events:
            return self.events.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    async def post(self, app: App, path: str = CALL, headers: dict[str, str] | None = None) -> None:
        scope = testing.create_scope(path, method="POST", headers={**AUTHORIZED, **(headers or {})})
        await app(scope, self.receive, self.send)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


def slow(client: FakeClient) -> asyncio.Event:
    """Calls take until the event is set, and say that they took long."""
    release = asyncio.Event()

    async def behave(spec: FunctionSpec, event: bytes, request_id: str) -> Reply:
        await release.wait()
        return reply(request_id, run_ms=5000.0)

    client.behaviour = behave
    return release


async def latest(api: Any) -> dict[str, Any]:
    rows = (await api.simulate_get(CALL)).json["invocations"]
    assert len(rows) == 1
    row: dict[str, Any] = rows[0]
    return row


async def called(client: FakeClient) -> None:
    async with asyncio.timeout(5):
        while not client.events:
            await asyncio.sleep(0.005)


async def test_a_client_that_leaves_changes_only_the_records_status(api: Any, app: App, hello: Any, client: FakeClient) -> None:
    release, wire = slow(client), Wire()
    request = asyncio.ensure_future(wire.post(app))
    await called(client)
    wire.gone.set()
    release.set()
    await request
    record = await latest(api)
    assert (record["status"], record["state"], record["result"], record["billed_ms"]) == (499, "succeeded", {"answer": 42}, 5000)


async def test_a_request_that_is_cancelled_leaves_its_call_running(api: Any, app: App, hello: Any, client: FakeClient) -> None:
    release, wire = slow(client), Wire()
    request = asyncio.ensure_future(wire.post(app))
    await called(client)
    request.cancel()  # gunicorn, three seconds after the client left
    with pytest.raises(asyncio.CancelledError):
        await request
    assert app.busy == 1
    release.set()
    async with asyncio.timeout(5):
        while app.busy:
            await asyncio.sleep(0.005)
    record = await latest(api)
    assert (record["status"], record["state"], record["run_ms"]) == (499, "succeeded", 5000)


async def test_a_slow_call_whose_client_stays_is_200(api: Any, app: App, hello: Any, client: FakeClient) -> None:
    release, wire = slow(client), Wire()
    release.set()
    await wire.post(app)
    assert wire.status == 200 and (await latest(api))["status"] == 200


async def test_half_an_event_never_runs(api: Any, app: App, hello: Any, client: FakeClient) -> None:
    wire = Wire([{"type": "http.request", "body": b"{}", "more_body": True}])
    wire.gone.set()
    await wire.post(app)
    assert client.events == [] and wire.status == 408


async def test_an_event_in_pieces_is_put_together(api: Any, app: App, hello: Any, client: FakeClient) -> None:
    pieces = [{"type": "http.request", "body": piece, "more_body": piece != b"}"} for piece in (b"", b'{"a":', b" 1", b"}")]
    await Wire(pieces).post(app)
    assert client.events == [b'{"a": 1}']


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "200000"}])
async def test_a_body_that_is_too_large_is_read_to_its_end_before_the_answer(
    api: Any, app: App, hello: Any, headers: dict[str, str]
) -> None:
    pieces = [{"type": "http.request", "body": b"x" * 1000, "more_body": n < 199} for n in range(200)]
    wire = Wire(pieces)
    await wire.post(app, headers=headers)
    assert wire.status == 413 and wire.events == []


async def test_no_more_than_eight_megabytes_are_read_of_it(api: Any, app: App, hello: Any) -> None:
    wire = Wire([{"type": "http.request", "body": b"x" * 2**20, "more_body": True} for _ in range(20)])
    await wire.post(app)
    assert wire.status == 413 and len(wire.events) == 11


async def test_a_change_is_told_to_sandboxd_though_its_client_left(api: Any, app: App, hello: Any, client: FakeClient) -> None:
    began = asyncio.Event()
    told = client.retire

    async def retire(function_id: str, generation: int | None) -> None:
        began.set()
        await asyncio.sleep(0.05)
        await told(function_id, generation)

    client.retire = retire  # type: ignore[method-assign]
    wire = Wire([{"type": "http.request", "body": zipped("z = 1\n")}])
    scope = testing.create_scope(f"{HELLO}/code", method="PUT", headers={**AUTHORIZED, "Content-Type": "application/zip"})
    request = asyncio.ensure_future(app(scope, wire.receive, wire.send))
    await began.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await app.services.changes.wait(5)
    assert client.retired == [(hello["function_id"], 2)]


# Who may ask ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9", f"Bearer x {TOKEN}"])
@pytest.mark.parametrize("path", ["/v1/functions", "/v1/usage", "/nowhere", "/healthz/"])
async def test_without_the_credential_every_path_is_401(api: Any, header: str, path: str) -> None:
    result = await api.simulate_get(path, headers={"Authorization": header})
    problem(result, 401, "unauthorized")
    assert result.headers["x-scf-status"] == "401"
    assert result.headers["www-authenticate"].startswith("Bearer") and TOKEN not in result.text


async def test_without_any_header_a_call_is_401_and_runs_nothing(api: Any, app: App, hello: Any, client: FakeClient) -> None:
    wire = Wire()
    await app(testing.create_scope(CALL, method="POST"), wire.receive, wire.send)
    assert wire.status == 401 and client.events == []


async def test_the_scheme_is_read_whatever_its_case(api: Any) -> None:
    assert (await api.simulate_get("/v1/functions", headers={"Authorization": f"bEARER {TOKEN}"})).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json"])
async def test_how_the_service_is_may_be_asked_by_anybody(app: App, api: Any, path: str) -> None:
    wire = Wire()
    await app(testing.create_scope(path), wire.receive, wire.send)
    assert wire.status == 200


def test_no_credential_at_all_is_a_clear_refusal_to_start(settings: Settings, client: FakeClient) -> None:
    with pytest.raises(errors.ConfigError, match="no credential"):
        create_app(settings, client=client, environ={})
    with pytest.raises(errors.ConfigError, match="SHA-256"):
        create_app(settings, client=client, environ={"HEARTH_TOKEN_SHA256": "abc"})


async def test_the_credentials_file_serves_where_it_may_be_read(settings: Settings, client: FakeClient) -> None:
    settings.credential_path.write_text(TOKEN + "\n")
    async with testing.ASGIConductor(create_app(settings, client=client, environ={}, writer=lambda _: None)) as conductor:
        assert (await conductor.simulate_get("/v1/functions", headers=AUTHORIZED)).status_code == 200


# The rest -------------------------------------------------------------------------------------------------------------------


async def test_an_unknown_path_and_a_wrong_method_are_problems(api: Any) -> None:
    problem(await api.simulate_get("/v1/nothing"), 404, "not_found")
    result = await api.simulate_delete("/v1/functions")
    problem(result, 405, "method_not_allowed")
    assert set(result.headers["allow"].split(", ")) >= {"GET", "POST"}


async def test_sandboxes_and_images_are_what_sandboxd_says(api: Any, client: FakeClient) -> None:
    assert (await api.simulate_get("/v1/sandboxes")).json["sandboxes"] == client.sandboxes
    assert (await api.simulate_get("/v1/images")).json == {"images": [{"name": "host"}]}
    client.connected = False
    for path in ("/v1/sandboxes", "/v1/images"):
        result = await api.simulate_get(path)
        problem(result, 503, "unavailable")
        assert result.headers["retry-after"] == "3"


async def test_readiness_names_what_is_missing(api: Any, app: App, client: FakeClient) -> None:
    degraded = await api.simulate_get("/readyz")
    assert (degraded.status_code, degraded.json["reasons"]) == (200, ["no dispatcher runs on this machine: events wait"])
    dispatcher = Mailbox(app.services.settings.wake_dir, DISPATCHER)
    dispatcher.open(lambda _: None)
    assert (await api.simulate_get("/readyz")).json == {"status": "ok"}
    dispatcher.close()
    client.connected = False
    result = await api.simulate_get("/readyz")
    assert (result.status_code, result.json["reasons"]) == (503, ["the runtime is away"])
    assert (await api.simulate_get("/healthz")).status_code == 200
    client.connected = True
    app.services.stopping.set()
    assert (await api.simulate_get("/readyz")).status_code == 503


async def test_metrics_count_calls_and_show_sandboxes(api: Any, hello: Any, client: FakeClient) -> None:
    await api.simulate_post(CALL)
    client.raises(errors.Throttled("20 run"))
    await api.simulate_post(CALL)
    text = (await api.simulate_get("/metrics")).text
    for line in (
        'hearth_invocations_total{function="hello",namespace="default",status="200",version="$LATEST"} 1.0',
        'hearth_invocations_total{function="hello",namespace="default",status="432",version="$LATEST"} 1.0',
        'hearth_throttled_total{function="hello",namespace="default",version="$LATEST"} 1.0',
        'hearth_invocation_duration_seconds_count{function="hello",namespace="default",version="$LATEST"} 1.0',
        "hearth_cold_start_seconds_count 0.0",
        'hearth_sandboxes{state="idle"} 1.0',
        "hearth_running 1.0",
        'hearth_runtime_events_total{event="cold"} 3.0',
        "hearth_runtime_descriptors 9.0",
        "hearth_runtime_up 1.0",
    ):
        assert line in text
    client.connected = False
    assert "hearth_runtime_up 0.0" in (await api.simulate_get("/metrics")).text


async def test_the_openapi_document_has_every_path_with_its_parameters_and_answers(api: Any) -> None:
    document = (await api.simulate_get("/openapi.json")).json
    assert document["openapi"].startswith("3.1")
    names = {(path, method) for path, item in document["paths"].items() for method in item}
    assert names >= {
        *(("/v1/namespaces", method) for method in ("get", "post")),
        *(("/v1/namespaces/{namespace}", method) for method in ("get", "patch", "delete")),
        ("/v1/functions", "get"),
        ("/v1/functions", "post"),
        ("/v1/functions/{name}", "get"),
        ("/v1/functions/{name}", "patch"),
        ("/v1/functions/{name}", "delete"),
        ("/v1/functions/{name}/code", "put"),
        ("/v1/keys", "get"),
        ("/v1/keys", "post"),
        ("/v1/keys/{secret_id}", "delete"),
        ("/v1/functions/{name}/invocations", "post"),
        ("/v1/functions/{name}/invocations", "get"),
        ("/v1/functions/{name}/logs", "get"),
        ("/v1/layers", "get"),
        ("/v1/layers/{layer}/versions", "get"),
        ("/v1/layers/{layer}/versions", "post"),
        ("/v1/layers/{layer}/versions/{layer_version}", "get"),
        ("/v1/layers/{layer}/versions/{layer_version}", "delete"),
        ("/v1/layers/{layer}/versions/{layer_version}/content", "get"),
        ("/v1/functions/{name}/event-config", "get"),
        ("/v1/functions/{name}/event-config", "put"),
        ("/v1/functions/{name}/event-config", "delete"),
        ("/v1/functions/{name}/triggers", "get"),
        ("/v1/functions/{name}/triggers", "post"),
        ("/v1/functions/{name}/triggers/{trigger}", "get"),
        ("/v1/functions/{name}/triggers/{trigger}", "patch"),
        ("/v1/functions/{name}/triggers/{trigger}", "delete"),
        ("/v1/dead-letters", "get"),
        ("/v1/dead-letters", "delete"),
        ("/v1/dead-letters/{request_id}", "get"),
        ("/v1/dead-letters/{request_id}", "delete"),
        ("/v1/dead-letters/{request_id}/resend", "post"),
        ("/v1/invocations", "get"),
        ("/v1/invocations/{request_id}", "get"),
        ("/v1/invocations/{request_id}", "delete"),
        ("/v1/sandboxes", "get"),
        ("/v1/images", "get"),
        ("/v1/usage", "get"),
        ("/v1/account", "get"),
        ("/v1/account", "put"),
        *(("/v1/functions/{name}/concurrency", method) for method in ("get", "put", "delete")),
        *(("/v1/functions/{name}/versions/{version}/provisioned", method) for method in ("get", "put", "delete")),
        ("/healthz", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
        ("/openapi.json", "get"),
    }
    OpenAPIV31SpecValidator(document).validate()
    schemas = document["components"]["schemas"]
    assert set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document))) <= set(schemas)
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    options = {"invokeType", "logType", "qualifier", "X-Scf-Routing-Key"}
    call = document["paths"]["/v1/functions/{name}/invocations"]["post"]
    assert set(call["responses"]) == {"200", "202", *"400 401 404 408 413 414 429 431 500 502 503 504".split()}
    assert {parameter["name"] for parameter in call["parameters"]} == {"name", "namespace", "delaySeconds", "Idempotency-Key", *options}


async def test_the_openapi_schema_of_a_function_and_of_a_record_is_what_is_sent(api: Any, hello: Any) -> None:
    schemas = (await api.simulate_get("/openapi.json")).json["components"]["schemas"]
    assert set(schemas["Function"]["properties"]) == {*hello, "served_by"}
    record = await record_of(api, await api.simulate_post(CALL))
    events_alone = {"source", "hops", "due_at"}
    assert set(schemas["Record"]["properties"]) - events_alone == set(record)


async def test_with_the_database_away_a_request_is_503(api: Any, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import OperationalError

    def away(*_: Any) -> None:
        raise OperationalError("SELECT secret", {}, Exception("disk I/O error"))

    monkeypatch.setattr(app.services.functions, "get", away)
    result = await api.simulate_get(HELLO)
    problem(result, 503, "unavailable")
    assert "secret" not in result.text and result.headers["retry-after"] == "1"


# Layers ---------------------------------------------------------------------------------------------------------------------

NUMPY = "/v1/layers/numpy/versions"


def publication(**changes: Any) -> dict[str, Any]:
    return {"runtimes": ["Python3.9"], "code": {"zip": base64.b64encode(zipped("X = 1", "numpy.py")).decode()}, **changes}


@pytest.fixture
async def numpy(api: testing.ASGIConductor) -> dict[str, Any]:
    result = await api.simulate_post(NUMPY, json=publication())
    assert result.status_code == 201, result.text
    version: dict[str, Any] = result.json
    return version


async def test_a_published_layer_is_found_by_every_path(api: Any, numpy: Any) -> None:
    published = await api.simulate_post(NUMPY, json=publication(description="newer"))
    assert published.headers["location"] == f"{NUMPY}/2"
    latest = (await api.simulate_get(f"{NUMPY}/2")).json
    assert latest == published.json and (await api.simulate_get(f"{NUMPY}/1")).json == numpy
    assert (await api.simulate_get("/v1/layers")).json == {"layers": [latest], "total": 1}
    assert (await api.simulate_get(NUMPY)).json == {"versions": [latest, numpy]}
    content = await api.simulate_get(f"{NUMPY}/1/content")
    assert (content.headers["content-type"], content.content) == ("application/zip", zipped("X = 1", "numpy.py"))
    assert hashlib.sha256(content.content).hexdigest() == numpy["code_sha256"]


async def test_layers_are_filtered_and_come_in_pages(api: Any, numpy: Any) -> None:
    for name in ("pillow", "scipy"):
        await api.simulate_post(f"/v1/layers/{name}/versions", json=publication(runtimes=["python2"]))

    async def listed(**params: str) -> tuple[list[str], int]:
        found = (await api.simulate_get("/v1/layers", params=params)).json
        return [version["name"] for version in found["layers"]], found["total"]

    assert await listed() == (["numpy", "pillow", "scipy"], 3)
    assert await listed(offset="1", limit="1") == (["pillow"], 3)
    assert await listed(search="PY") == (["numpy", "scipy"], 2)
    assert await listed(runtime="Python2.7") == (["pillow", "scipy"], 2)
    assert await listed(namespace="alice") == ([], 0)
    for wrong in ({"limit": "-1"}, {"offset": "x"}, {"runtime": "Cobol"}, {"runtime": ""}, {"namespace": "-"}):
        problem(await api.simulate_get("/v1/layers", params=wrong), 400)
    assert (await api.simulate_get(NUMPY, params={"runtime": "Python2.7"})).json == {"versions": []}


async def test_a_function_takes_layers_and_shows_them(api: Any, numpy: Any, client: FakeClient) -> None:
    wanted = [{"name": "numpy", "version": 1}]
    made = await api.simulate_post("/v1/functions", json=creation(layers=wanted))
    assert (made.status_code, made.json["layers"]) == (201, wanted), made.text
    assert (await api.simulate_get(HELLO)).json["layers"] == wanted
    await api.simulate_post(CALL)
    assert client.specs[-1].layers == (numpy["code_sha256"],)
    changed = await api.simulate_patch(HELLO, json={"layers": []})
    assert (changed.json["layers"], changed.json["generation"]) == ([], 2)
    assert client.retired == [(made.json["function_id"], 2)]
    problem(await api.simulate_patch(HELLO, json={"layers": [{"name": "numpy", "version": 2}]}), 400, "layer_version_not_found")


async def test_a_deleted_version_is_gone(api: Any, numpy: Any) -> None:
    assert (await api.simulate_delete(f"{NUMPY}/1")).status_code == 204
    for result in (await api.simulate_get(f"{NUMPY}/1"), await api.simulate_delete(f"{NUMPY}/1"), await api.simulate_get(NUMPY)):
        problem(result, 404, "layer_not_found")
    assert (await api.simulate_post(NUMPY, json=publication())).json["version"] == 2
    problem(await api.simulate_get(f"{NUMPY}/1/content"), 404, "layer_version_not_found")


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.0", "\u0661", "9" * 30])
async def test_what_is_no_number_is_no_version(api: Any, numpy: Any, number: str) -> None:
    for path in (f"{NUMPY}/{number}", f"{NUMPY}/{number}/content"):
        problem(await api.simulate_get(path), 404, "layer_version_not_found")


async def test_a_layer_that_is_too_large_or_hostile_is_refused(api: Any) -> None:
    large = {"zip": base64.b64encode(b"x" * 20_001).decode()}
    problem(await api.simulate_post(NUMPY, json=publication(code=large)), 413, "code_too_large")
    problem(await api.simulate_post(NUMPY, json=publication(description="x" * 200_000)), 413)
    hostile = {"zip": base64.b64encode(zipped("x", "../x")).decode()}
    assert "leads out" in problem(await api.simulate_post(NUMPY, json=publication(code=hostile)), 400, "invalid_code")["detail"]
    problem(await api.simulate_post("/v1/layers/-/versions", json=publication()), 400)
    problem(await api.simulate_get(NUMPY), 404, "layer_not_found")


# -- event settings, dead letters, triggers --------------------------------------------------------------------------------

CONFIG = f"{HELLO}/event-config"
TRIGGERS = f"{HELLO}/triggers"
TICK = {"name": "tick", "type": "timer", "config": {"cron": "0 */5 * * * * *", "argument": "hi"}}


async def test_event_settings_are_changed_one_by_one_and_reset(api: Any, hello: Any) -> None:
    assert (await api.simulate_get(CONFIG)).json == {"retries": 2, "ttl": 21600, "dead_letter": None}
    target = {"type": "url", "target": "http://127.0.0.1:1/x"}
    assert (await api.simulate_put(CONFIG, json={"retries": 0, "dead_letter": target})).json["dead_letter"] == target
    assert (await api.simulate_put(CONFIG, json={"ttl": 60})).json == {"retries": 0, "ttl": 60, "dead_letter": target}
    assert (await api.simulate_put(CONFIG, json={"retries": None, "dead_letter": None})).json["retries"] == 2
    assert (await api.simulate_delete(CONFIG)).status_code == 204
    assert (await api.simulate_get(CONFIG)).json["ttl"] == 21600
    problem(await api.simulate_get("/v1/functions/nobody/event-config"), 404)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"retries": 3},
        {"retries": True},
        {"ttl": 59},
        {"ttl": 21_601},
        {"other": 1},
        {"dead_letter": {"type": "file", "target": "../x"}},
        {"dead_letter": {"type": "url", "target": "file:///etc/passwd"}},
        {"dead_letter": {"type": "url", "target": "http://["}},
        {"dead_letter": {"type": "function", "target": "hello"}},
        {"dead_letter": {"type": "topic", "target": "x"}},
        {"dead_letter": {"target": "x"}},
    ],
)
async def test_wrong_event_settings_are_refused(api: Any, hello: Any, wrong: Any) -> None:
    problem(await api.simulate_put(CONFIG, json=wrong), 400)
    assert (await api.simulate_get(CONFIG)).json == {"retries": 2, "ttl": 21600, "dead_letter": None}


async def test_a_trigger_is_made_changed_and_removed(api: Any, hello: Any) -> None:
    made = await api.simulate_post(TRIGGERS, json=TICK)
    assert made.status_code == 201 and made.headers["location"] == f"{TRIGGERS}/tick"
    assert made.json["config"] == {"cron": "0 */5 * * * * *", "argument": "hi", "zone": None}
    assert epoch(made.json["next_at"]) % 300 == 0
    assert (await api.simulate_get(TRIGGERS)).json["triggers"] == [made.json] == [(await api.simulate_get(f"{TRIGGERS}/tick")).json]
    rests = (await api.simulate_patch(f"{TRIGGERS}/tick", json={"enabled": False})).json
    assert (rests["enabled"], rests["next_at"], rests["config"]) == (False, None, made.json["config"])
    fires = (await api.simulate_patch(f"{TRIGGERS}/tick", json={"enabled": True, "config": {"cron": "0 0 0 1 1 * 2099"}})).json
    assert fires["next_at"] == "2098-12-31T16:00:00.000Z"  # in UTC+8
    problem(await api.simulate_post(TRIGGERS, json=TICK), 409, "trigger_exists")
    assert (await api.simulate_post(TRIGGERS, json={**TICK, "name": "b"})).status_code == 201
    problem(await api.simulate_post(TRIGGERS, json={**TICK, "name": "c"}), 409, "limit_exceeded")
    assert (await api.simulate_delete(f"{TRIGGERS}/b")).status_code == 204
    problem(await api.simulate_get(f"{TRIGGERS}/b"), 404, "trigger_not_found")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "_1"},
        {"type": "cmq"},
        {"config": {"cron": "never"}},
        {"config": {}},
        {"config": {"cron": "* * * * *", "argument": "x" * 4097}},
        {"config": {"cron": "* * * * *", "zone": "Mars/Base"}},
        {"qualifier": "a b"},
        {"enabled": "OPEN"},
        {"more": 1},
    ],
)
async def test_a_wrong_trigger_is_refused(api: Any, hello: Any, changes: dict[str, Any]) -> None:
    problem(await api.simulate_post(TRIGGERS, json={**TICK, **changes}), 400)
    assert (await api.simulate_get(TRIGGERS)).json == {"triggers": []}


async def test_triggers_come_with_a_creation_and_go_with_the_function(api: Any) -> None:
    problem(await api.simulate_post("/v1/functions", json=creation(triggers=[TICK, {**TICK, "name": "b"}])), 409, "limit_exceeded")
    problem(await api.simulate_post("/v1/functions", json=creation(triggers=[{**TICK, "config": {}}])), 400)
    problem(await api.simulate_get(TRIGGERS), 404)
    assert (await api.simulate_post("/v1/functions", json=creation(triggers=[TICK]))).status_code == 201
    assert len((await api.simulate_get(TRIGGERS)).json["triggers"]) == 1
    await api.simulate_put(CONFIG, json={"retries": 0})
    await api.simulate_delete(HELLO)
    assert (await api.simulate_post("/v1/functions", json=creation())).status_code == 201
    assert (await api.simulate_get(TRIGGERS)).json["triggers"] == [] and (await api.simulate_get(CONFIG)).json["retries"] == 2


async def test_dead_letters_that_are_not_there_are_404(api: Any) -> None:
    for made in (
        api.simulate_get("/v1/dead-letters/x"),
        api.simulate_delete("/v1/dead-letters/x"),
        api.simulate_post("/v1/dead-letters/x/resend"),
    ):
        problem(await made, 404, "dead_letter_not_found")
    assert (await api.simulate_delete("/v1/dead-letters")).json == {"purged": 0}
    problem(await api.simulate_get("/v1/dead-letters", params={"function": "no such"}), 400)


async def test_an_overwritten_functions_triggers_go_with_it(api: Any, hello: Any, app: App) -> None:
    await api.simulate_post("/v1/functions", json=creation(name="other", triggers=[TICK]))
    await app.services.copy("hello", "other", "default", override=True)
    assert (await api.simulate_get("/v1/functions/other/triggers")).json == {"triggers": []}
    assert app.services.triggers.of_kind("timer") == []
