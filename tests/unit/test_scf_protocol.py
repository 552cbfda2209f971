"""SCF's interfaces through Falcon's test client: envelope, authentication and its state, rights, errors, parameters."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from falcon import testing
from tencentcloud.common import credential
from tencentcloud.common.http.request import RequestInternal
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.scf.v20180416.scf_client import ScfClient

from sandbox.errors import SandboxError, leaves
from sandbox.settings import Settings
from server import errors as api_errors
from server.app import App, create_app
from server.errors import ApiError, BadRequest
from server.keys.credentials import Credential
from server.scf import table
from server.scf.actions.model import Action, Ask
from server.scf.authentication import LARGE_FORMS
from server.scf.errors import CLASSES, STATUSES, ScfError, scf_error
from server.scf.parameters import Parameters, unflatten
from tests.unit.test_api import AUTHORIZED, TOKEN, FakeClient

HOST = "falconframework.org"
KEY = base64.urlsafe_b64encode(bytes(32)).decode()


@pytest.fixture
def app(tmp_path: Path) -> App:
    environ = {"HEARTH_TOKEN_SHA256": hashlib.sha256(TOKEN.encode()).hexdigest(), "HEARTH_SECRETS_KEY": KEY}
    return create_app(Settings(home=str(tmp_path)), client=FakeClient(), environ=environ, writer=lambda _: None)


@pytest.fixture
async def api(app: App) -> AsyncIterator[testing.ASGIConductor]:
    async with testing.ASGIConductor(app) as conductor:
        yield conductor


@pytest.fixture
async def pair(api: Any) -> dict[str, str]:
    made = await api.simulate_post("/v1/keys", headers=AUTHORIZED)
    assert made.status_code == 201, made.text
    return dict(made.json)


def build(
    pair: dict[str, str], action: str, params: dict[str, Any], *, method: str = "POST", scheme: str = "TC3-HMAC-SHA256"
) -> RequestInternal:
    http = HttpProfile(protocol="http", endpoint=HOST, reqMethod=method)
    signer = credential.Credential(pair["secret_id"], pair["secret_key"], pair.get("token"))
    client = ScfClient(signer, "ap-guangzhou", ClientProfile(scheme, http))
    request = RequestInternal(HOST, method, "/")
    client._build_req_inter(action, params, request)
    return request


async def send(api: Any, request: RequestInternal) -> dict[str, Any]:
    """What an SDK would take from the answer; the envelope is checked on the way."""
    headers = {name: value for name, value in request.header.items() if name != "Host"}
    if request.method == "GET":
        result = await api.simulate_get("/", query_string=request.data, headers=headers)
    else:
        result = await api.simulate_post("/", body=request.data, headers=headers)
    assert result.status_code == 200 and result.headers["content-type"] == "application/json", result.text
    response = result.json["Response"]
    assert set(result.json) == {"Response"} and response["RequestId"]
    return dict(response)


def code(response: dict[str, Any]) -> str:
    return str(response.get("Error", {}).get("Code", ""))


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """An action that answers with what it was asked."""

    async def run(ask: Ask) -> dict[str, Any]:
        values = ask.parameters
        return {
            "Text": values.text("Text"),
            "Number": values.integer("Number", 7),
            "Flag": values.flag("Flag"),
            "Namespace": ask.namespace(),
        }

    monkeypatch.setattr("server.scf.api3.ACTIONS", {**table.ACTIONS, "Echo": Action(run, "read")})


SCHEMES = ("TC3-HMAC-SHA256", "HmacSHA1", "HmacSHA256")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_every_signature_is_taken_and_parameters_arrive_as_what_they_are(
    api: Any, pair: Any, echo: None, scheme: str, method: str
) -> None:
    request = build(
        pair, "Echo", {"Text": "größe & 100 %", "Number": 42, "Flag": True, "Unknown": {"a": [1]}}, method=method, scheme=scheme
    )
    response = await send(api, request)
    assert {**response, "RequestId": ""} == {"Text": "größe & 100 %", "Number": 42, "Flag": True, "Namespace": "default", "RequestId": ""}


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_wrong_key_an_unknown_id_and_no_signature(api: Any, pair: dict[str, str], echo: None, scheme: str) -> None:
    assert code(await send(api, build({**pair, "secret_key": "x"}, "Echo", {}, scheme=scheme))) == "AuthFailure.SignatureFailure"
    unknown = {**pair, "secret_id": "AKID" + "x" * 32}
    assert code(await send(api, build(unknown, "Echo", {}, scheme=scheme))) == "AuthFailure.SecretIdNotFound"
    assert code(await send(api, build({**unknown, "token": "t"}, "Echo", {}, scheme=scheme))) == "AuthFailure.TokenFailure"
    request = build(pair, "Echo", {}, scheme=scheme)
    request.header.pop("Authorization", None)
    request.data = request.data.replace("Signature=", "Sig=") if "Signature=" in request.data else request.data
    assert code(await send(api, request)) == "AuthFailure.SignatureFailure"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("apart", "answer"), [(-330, "AuthFailure.SignatureExpire"), (330, "AuthFailure.SignatureExpire"), (-270, ""), (270, "")]
)
async def test_a_wrong_clock(
    api: Any, pair: Any, echo: None, monkeypatch: pytest.MonkeyPatch, scheme: str, apart: int, answer: str
) -> None:
    now = time.time()
    monkeypatch.setattr("tencentcloud.common.abstract_client.time.time", lambda: now + apart)
    request = build(pair, "Echo", {}, scheme=scheme)
    monkeypatch.undo()
    if answer:
        assert code(await send(api, request)) == answer
    else:  # `echo` was undone with the clock: what is asked for then does not exist, but its signature was taken
        assert code(await send(api, request)) == "InvalidAction"


@pytest.mark.parametrize("scheme", ["HmacSHA1", "HmacSHA256"])
async def test_a_request_with_a_nonce_is_good_once(api: Any, pair: Any, echo: None, scheme: str) -> None:
    request = build(pair, "Echo", {}, scheme=scheme)
    forged = build({**pair, "secret_key": "x"}, "Echo", {}, scheme=scheme)
    forged.data = urlencode({**dict(part.split("=", 1) for part in forged.data.split("&")), "Nonce": "77"})
    assert code(await send(api, forged)) == "AuthFailure.SignatureFailure"
    assert code(await send(api, request)) == ""
    assert code(await send(api, request)) == "AuthFailure.SignatureExpire"


async def test_a_revoked_key_is_unknown_at_once(api: Any, pair: Any, echo: None) -> None:
    assert code(await send(api, build(pair, "Echo", {}))) == ""
    gone = await api.simulate_delete(f"/v1/keys/{pair['secret_id']}", headers=AUTHORIZED)
    assert gone.status_code == 204
    assert code(await send(api, build(pair, "Echo", {}))) == "AuthFailure.SecretIdNotFound"


async def test_keys_are_listed_without_secrets_and_need_the_bearer_credential(api: Any, pair: dict[str, str]) -> None:
    listed = await api.simulate_get("/v1/keys", headers=AUTHORIZED)
    assert [row["secret_id"] for row in listed.json["keys"]] == [pair["secret_id"]] and pair["secret_key"] not in listed.text
    for answer in (await api.simulate_get("/v1/keys"), await api.simulate_post("/v1/keys"), await api.simulate_delete("/v1/keys/x")):
        assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/v1/functions", "//", "/v1/", "/v2", "/index.php", "/scf", "/scf/codes", "/%2F", "/v2/index.php/x"])
async def test_no_other_path_is_open(api: Any, path: str) -> None:
    assert (await api.simulate_get(path)).status_code == 401


async def test_temporary_credentials_come_through_the_resolver(app: App, api: Any, pair: Any, echo: None) -> None:
    async def resolve(secret_id: str, token: str) -> Credential | None:
        return Credential(secret_id, "k", "read", "") if token == "good" else None

    app.services.credentials.resolve = resolve
    own = {"secret_id": "AKIDtemporary", "secret_key": "k", "token": "good"}
    for scheme in SCHEMES:
        assert code(await send(api, build(own, "Echo", {}, scheme=scheme))) == ""
        assert code(await send(api, build({**own, "token": "bad"}, "Echo", {}, scheme=scheme))) == "AuthFailure.TokenFailure"
        assert code(await send(api, build({**own, "secret_key": "x"}, "Echo", {}, scheme=scheme))) == "AuthFailure.SignatureFailure"


# Rights ---------------------------------------------------------------------------------------------------------------------


async def made(api: Any, **wishes: str) -> dict[str, str]:
    return dict((await api.simulate_post("/v1/keys", headers=AUTHORIZED, json=wishes)).json)


@pytest.mark.parametrize(("scope", "allowed"), [("all", {"Echo", "CreateFunction", "Invoke"}), ("read", {"Echo"}), ("invoke", {"Invoke"})])
async def test_a_key_does_what_its_scope_says(api: Any, monkeypatch: pytest.MonkeyPatch, scope: str, allowed: set[str]) -> None:
    async def run(ask: Ask) -> dict[str, Any]:
        return {}

    actions = {"Echo": Action(run, "read"), "CreateFunction": Action(run), "Invoke": Action(run, "invoke")}
    monkeypatch.setattr("server.scf.api3.ACTIONS", actions)
    own = await made(api, scope=scope)
    answers = {name: code(await send(api, build(own, name, {}))) for name in actions}
    assert answers == {name: "" if name in allowed else "UnauthorizedOperation" for name in actions}


async def test_a_key_of_a_namespace_is_good_there_and_nowhere_else(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(ask: Ask) -> dict[str, Any]:
        return {"Namespace": ask.namespace()}

    actions = {"Echo": Action(run), "Copy": Action(run, namespaces=("Namespace", "TargetNamespace")), "Whole": Action(run, namespaces=())}
    monkeypatch.setattr("server.scf.api3.ACTIONS", actions)
    alice = await made(api, namespace="alice")
    assert (await send(api, build(alice, "Echo", {})))["Namespace"] == "alice"
    assert (await send(api, build(alice, "Echo", {"Namespace": "alice"})))["Namespace"] == "alice"
    refused = [("Echo", {"Namespace": "default"}), ("Copy", {"TargetNamespace": "bob"}), ("Whole", {}), ("Whole", {"Namespace": "alice"})]
    for name, params in refused:
        assert code(await send(api, build(alice, name, params))) == "UnauthorizedOperation"


# Actions --------------------------------------------------------------------------------------------------------------------


async def test_versions_and_actions_that_do_not_exist(api: Any, pair: Any) -> None:
    assert code(await send(api, build(pair, "MakeCoffee", {}))) == "InvalidAction"
    request = build(pair, "ListFunctions", {})
    request.header["X-TC-Version"] = "2017-03-12"
    assert code(await send(api, request)) == "NoSuchVersion"
    del request.header["X-TC-Action"]
    assert code(await send(api, request)) == "MissingParameter"


def test_every_action_of_the_sdk_is_known() -> None:
    methods = {name for name in vars(ScfClient) if name[0].isupper()}
    assert methods <= set(table.ACTIONS)
    assert len(methods) == 52


async def test_custom_domains_are_refused_with_the_reason(api: Any, pair: Any) -> None:
    response = await send(api, build(pair, "CreateCustomDomain", {}))
    assert code(response) == "UnsupportedOperation" and "reverse proxy" in response["Error"]["Message"]


# Errors ---------------------------------------------------------------------------------------------------------------------


def descendants(cls: type[Exception]) -> list[type[Exception]]:
    below = cls.__subclasses__()
    return [leaf for child in below for leaf in descendants(child)] if below else [cls]


def test_every_error_has_a_code() -> None:
    own = [cls for cls in descendants(ApiError) if cls.__module__ == api_errors.__name__]
    missing = [cls.__name__ for cls in [*own, *leaves(SandboxError)] if cls not in CLASSES]
    assert missing == []
    assert {"SandboxError", "ApiError"}.isdisjoint(cls.__name__ for cls in CLASSES)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BadRequest("memory: 1 is out of range", field="memory"), "InvalidParameterValue.MemorySize"),
        (BadRequest("x", field="environment", code="environment_reserved"), "InvalidParameterValue.EnvironmentSystemProtect"),
        (BadRequest("x", field="unheard.of"), "InvalidParameterValue"),
        (ApiError(507, "storage_full", "t", "d"), STATUSES[507]),
        (ApiError(418, "teapot", "t", "d"), "FailedOperation"),
        (RuntimeError("path /root/secret"), "InternalError"),
        (ScfError("Own.Code", "m"), "Own.Code"),
    ],
)
def test_an_error_has_the_most_special_code(error: Exception, expected: str) -> None:
    found = scf_error(error)
    assert found.code == expected and "secret" not in found.message


def test_an_action_may_name_errors_itself() -> None:
    error = api_errors.LimitExceeded("namespace default has 20 functions, limit 20")
    assert scf_error(error, {api_errors.LimitExceeded: "LimitExceeded.Function"}).code == "LimitExceeded.Function"
    assert scf_error(error).code == "LimitExceeded.Quota"


async def test_a_fault_of_ours_is_told_without_its_insides(api: Any, pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(ask: Ask) -> dict[str, Any]:
        raise KeyError("/root/secret")

    monkeypatch.setattr("server.scf.api3.ACTIONS", {"Echo": Action(run)})
    response = await send(api, build(pair, "Echo", {}))
    assert code(response) == "InternalError" and "secret" not in json.dumps(response)


# Parameters -----------------------------------------------------------------------------------------------------------------


def test_flat_parameters_are_folded_up() -> None:
    flat = {"A.1.B": "y", "A.0.B": "x", "C.0": "1", "D.E.F": "z", "G": "g", "H.1": "only"}
    assert unflatten(flat) == {"A": [{"B": "x"}, {"B": "y"}], "C": ["1"], "D": {"E": {"F": "z"}}, "G": "g", "H": {"1": "only"}}


@pytest.mark.parametrize("flat", [{"A": "1", "A.0": "2"}, {"A.0": "2", "A": "1"}, {".".join("x" * 500): "1"}, {"A.0": "1", "A.0.B": "1"}])
def test_flat_parameters_that_fit_no_object_are_refused(flat: dict[str, str]) -> None:
    with pytest.raises(ScfError):
        unflatten(flat)


def test_a_huge_index_makes_no_list() -> None:
    assert unflatten({"A.999999999999": "x"}) == {"A": {"999999999999": "x"}}


def test_flat_values_are_read_as_what_they_must_be() -> None:
    flat = Parameters({"N": "-5", "T": "True", "F": "FALSE", "Bad": "x", "L": {"a": "b"}}, flat=True)
    assert (flat.integer("N"), flat.flag("T"), flat.flag("F"), flat.integer("Absent", 3)) == (-5, True, False, 3)
    for read in (flat.integer, flat.flag, flat.object, flat.objects, flat.texts):
        with pytest.raises(ScfError, match="`Bad`"):
            read("Bad")
    with pytest.raises(ScfError, match=r"`L\.a` is not an integer"):
        flat.object("L").integer("a")  # type: ignore[union-attr]


def test_in_json_a_number_is_a_number() -> None:
    given = Parameters({"Text": "5", "Number": 5, "Bool": True, "Null": None, "List": ["a", 1]})
    for read, name in (
        (given.integer, "Text"),
        (given.integer, "Bool"),
        (given.text, "Number"),
        (given.texts, "List"),
        (given.objects, "List"),
    ):
        with pytest.raises(ScfError):
            read(name)
    assert given.text("Null", "default") == "default" and "Null" not in given
    with pytest.raises(ScfError, match="`Null`"):
        given.required("Null")


@pytest.mark.parametrize("body", ["[]", "{", '"x"', "1", "{}}"])
async def test_a_body_that_is_no_object_is_refused(api: Any, pair: Any, echo: None, body: str) -> None:
    profile = ClientProfile("TC3-HMAC-SHA256", HttpProfile(protocol="http", endpoint=HOST))
    profile.unsignedPayload = True
    request = RequestInternal(HOST, "POST", "/")
    ScfClient(credential.Credential(pair["secret_id"], pair["secret_key"]), "r", profile)._build_req_inter("Echo", {}, request)
    request.data = body
    assert code(await send(api, request)) == "InvalidParameter"


# Bodies ---------------------------------------------------------------------------------------------------------------------


async def test_the_body_of_who_has_no_pair_is_not_read(api: Any, pair: Any, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    async def body(self: Any, limit_bytes: int) -> bytes | None:
        read.append(limit_bytes)
        return b"{}"

    monkeypatch.setattr("server.api.request.Request.body", body)
    assert code(await send(api, build({**pair, "secret_id": "AKIDnobody"}, "ListFunctions", {}))) == "AuthFailure.SecretIdNotFound"
    assert read == []
    await send(api, build(pair, "ListFunctions", {}))
    assert len(read) == 1


async def test_large_forms_of_unknown_senders_are_read_few_at_a_time(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, most, all_begun = 0, 0, asyncio.Event()

    async def body(self: Any, limit_bytes: int) -> bytes | None:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        if reading == LARGE_FORMS:
            all_begun.set()
        await all_begun.wait()
        await asyncio.sleep(0)
        reading -= 1
        return b"a=b"

    monkeypatch.setattr("server.api.request.Request.body", body)
    monkeypatch.setattr("server.scf.authentication.LARGE_FORM_BYTES", 100)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answers = await asyncio.gather(*(api.simulate_post("/", body="x" * 200, headers=headers) for _ in range(3 * LARGE_FORMS)))
    assert {code(answer.json["Response"]) for answer in answers} == {"AuthFailure.SignatureFailure"}
    assert most == LARGE_FORMS


async def test_what_is_too_large_is_told_in_the_envelope(api: Any, pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.scf.authentication.Authentication._body", _too_large)
    assert code(await send(api, build(pair, "ListFunctions", {}))) == "InvalidParameter.RequestTooLarge"


async def _too_large(self: Any, req: Any) -> bytes:
    raise api_errors.PayloadTooLarge("the request is over the limit")
