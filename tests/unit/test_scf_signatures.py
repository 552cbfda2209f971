"""Signatures as SCF's own SDKs make them, and hostile ones: whatever comes, the answer is a ScfError or no."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from QcloudApi.common.sign import Sign as OldSign
from tencentcloud.common import credential
from tencentcloud.common.http.request import RequestInternal
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.scf.v20180416.scf_client import ScfClient

from server.scf.errors import ScfError
from server.scf.parameters import read_flat
from server.scf.signatures import Tc3Claim, old_matches, read_old, read_tc3, tc3_matches

ID, KEY, HOST = "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE", "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE", "127.0.0.1:9000"


def signed(method: str, params: Mapping[str, Any], *, scheme: str = "TC3-HMAC-SHA256", unsigned: bool = False) -> RequestInternal:
    """A request as the SDK builds it, not sent."""
    http = HttpProfile(protocol="http", endpoint=HOST, reqMethod=method)
    profile = ClientProfile(scheme, http)
    profile.unsignedPayload = unsigned
    client = ScfClient(credential.Credential(ID, KEY), "r", profile)
    request = RequestInternal(HOST, method, "/")
    client._build_req_inter("Invoke", dict(params), request)
    return request


def headers_of(values: Mapping[str, str]) -> Callable[[str], str | None]:
    lower = {name.lower(): value for name, value in values.items()}
    return lower.get


def check(request: RequestInternal, key: str = KEY, **changes: Any) -> bool:
    header = headers_of({**request.header, **changes.pop("headers", {})})
    claim = read_tc3(header("authorization") or "", header)
    assert claim.secret_id == ID and abs(claim.timestamp - time.time()) < 10
    post = request.method == "POST"
    body = request.data.encode() if post else b""
    values = {"method": request.method, "path": "/", "query": "" if post else request.data, "body": body, **changes}
    return tc3_matches(claim, key, header=header, **values)


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("unsigned", [False, True])
def test_what_the_sdk_signs_is_right_and_nothing_else_is(method: str, unsigned: bool) -> None:
    request = signed(method, {"FunctionName": "hallo wörld", "Filters": [{"Name": "a+b", "Values": ["x y"]}]}, unsigned=unsigned)
    assert check(request)
    assert not check(request, key=KEY[:-1] + "X")
    assert not check(request, path="/v2")
    assert not check(request, method="PUT")
    assert not check(request, headers={"Host": "other"})
    assert not check(request, headers={"Content-Type": "text/plain"})
    assert not check(request, headers={"X-TC-Timestamp": str(int(time.time()) + 1)})
    if method == "POST":
        assert check(request, body=b"{}") is unsigned
    else:
        assert not check(request, query="a=b")


def test_further_signed_headers_count_whether_their_values_are_lowered_or_not() -> None:
    # Built here after the document, whose example signs the action in lower case and the other values as they are.
    import hashlib
    import hmac

    now = int(time.time())
    date = time.strftime("%Y-%m-%d", time.gmtime(now))
    sent = {
        "Host": "Example.COM",
        "Content-Type": "application/json; charset=UTF-8",
        "X-TC-Action": "ListFunctions",
        "X-TC-Timestamp": str(now),
    }
    for lowered in ({"x-tc-action"}, {"host", "content-type", "x-tc-action"}, set()):
        names = ("content-type", "host", "x-tc-action")
        values = {name.lower(): value for name, value in sent.items()}
        lines = "".join(f"{name}:{values[name].lower() if name in lowered else values[name]}\n" for name in names)
        canonical = f"POST\n/\n\n{lines}\n{';'.join(names)}\n{hashlib.sha256(b'{}').hexdigest()}"
        text = f"TC3-HMAC-SHA256\n{now}\n{date}/scf/tc3_request\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"TC3{KEY}".encode()
        for part in (date, "scf", "tc3_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        scope = f"Credential={ID}/{date}/scf/tc3_request,SignedHeaders={';'.join(names)},Signature={signature}"
        header = headers_of({**sent, "Authorization": f"TC3-HMAC-SHA256 {scope}"})
        claim = read_tc3(header("authorization") or "", header)
        assert tc3_matches(claim, KEY, method="POST", path="/", query="", header=header, body=b"{}")
        other = headers_of({**sent, "X-TC-Action": "DeleteFunction"})
        assert not tc3_matches(claim, KEY, method="POST", path="/", query="", header=other, body=b"{}")


@pytest.mark.parametrize("scheme", ["HmacSHA1", "HmacSHA256"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_the_older_signatures_of_3_0(scheme: str, method: str) -> None:
    request = signed(method, {"FunctionName": "ä b+c&d", "Namespace": "", "Under_Score": "1"}, scheme=scheme)
    pairs = read_flat(request.data)
    claim = read_old(pairs)
    assert claim.secret_id == ID and claim.nonce == pairs["Nonce"]
    known = {"method": method, "hosts": ("http://x", HOST), "path": "/", "skip_files": False}
    assert old_matches(claim, KEY, parameters=pairs, **known)
    assert not old_matches(claim, KEY + "x", parameters=pairs, **known)
    assert not old_matches(claim, KEY, parameters={**pairs, "FunctionName": "other"}, **known)
    assert not old_matches(claim, KEY, parameters={**pairs, "More": "1"}, **known)
    assert not old_matches(claim, KEY, parameters=pairs, **{**known, "hosts": ("other",)})


@pytest.mark.parametrize("scheme", ["HmacSHA1", "HmacSHA256"])
def test_in_2_0_a_file_is_not_signed_when_posted(scheme: str) -> None:
    params = {"Action": "X", "Nonce": 1, "Timestamp": 5, "SecretId": ID, "SignatureMethod": scheme, "code": "@UEs=", "a_b": "1"}
    for method in ("POST", "GET"):
        made = OldSign(ID, KEY).make(HOST, "/v2/index.php", params, method, scheme)
        pairs = {name: str(value) for name, value in params.items()} | {"Signature": made}
        known = {"method": method, "hosts": (HOST,), "path": "/v2/index.php", "skip_files": method == "POST"}
        assert old_matches(read_old(pairs), KEY, parameters=pairs, **known)
        changed = {**pairs, "code": "@other"}
        assert old_matches(read_old(changed), KEY, parameters=changed, **known) is (method == "POST")


def authorization(**changes: str) -> str:
    date = time.strftime("%Y-%m-%d", time.gmtime())
    parts = {"Credential": f"{ID}/{date}/scf/tc3_request", "SignedHeaders": "content-type;host", "Signature": "0" * 64, **changes}
    return "TC3-HMAC-SHA256 " + ", ".join(f"{name}={value}" for name, value in parts.items() if value is not None)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("SKIP", "SignatureFailure"),
        ("", "SignatureFailure"),
        ("Bearer x", "SignatureFailure"),
        ("TC3-HMAC-SHA256", "SignatureFailure"),
        ("TC3-HMAC-SHA256 ,,,===", "SignatureFailure"),
        (authorization(Signature="zz"), "SignatureFailure"),
        (authorization(Signature="0" * 63), "SignatureFailure"),
        (authorization(SignedHeaders="content-type"), "SignatureFailure"),
        (authorization(SignedHeaders=""), "SignatureFailure"),
        (authorization(SignedHeaders="host;" * 1000), "SignatureFailure"),
        (authorization(SignedHeaders="host;a b"), "SignatureFailure"),
        (authorization(Credential=f"{ID}/2019-02-25/scf/tc3_request"), "SignatureFailure"),
        (authorization(Credential=f"{ID}/{time.strftime('%Y-%m-%d', time.gmtime())}/cvm/tc3_request"), "SignatureFailure"),
        (authorization(Credential=f"a b/{time.strftime('%Y-%m-%d', time.gmtime())}/scf/tc3_request"), "InvalidSecretId"),
        (authorization(Credential=f"/{time.strftime('%Y-%m-%d', time.gmtime())}/scf/tc3_request"), "InvalidSecretId"),
    ],
)
def test_what_is_no_signature_is_refused(header: str, code: str) -> None:
    with pytest.raises(ScfError) as raised:
        read_tc3(header, headers_of({"X-TC-Timestamp": str(int(time.time()))}))
    assert raised.value.code == f"AuthFailure.{code}"


@pytest.mark.parametrize("timestamp", ["", "now", "-1", "1e9", "٣", "9" * 12, "1.5", " 1"])
def test_a_timestamp_is_a_whole_number(timestamp: str) -> None:
    with pytest.raises(ScfError, match="X-TC-Timestamp"):
        read_tc3(authorization(), headers_of({"X-TC-Timestamp": timestamp}))


@pytest.mark.parametrize(
    "change", [{"Nonce": "x"}, {"Nonce": "1" * 21}, {"SignatureMethod": "HmacMD5"}, {"Timestamp": "x"}, {"Signature": ""}]
)
def test_an_older_claim_has_all_its_parts(change: dict[str, str]) -> None:
    with pytest.raises(ScfError):
        read_old({"SecretId": ID, "Signature": "x", "Timestamp": "1", "Nonce": "1", **change})


@given(st.text(), st.text(), st.binary(max_size=50))
def test_no_header_makes_it_fail_otherwise(header: str, timestamp: str, body: bytes) -> None:
    values = headers_of({"X-TC-Timestamp": timestamp, "Host": header})
    with pytest.raises(ScfError):
        read_tc3(header, values)
    claim = Tc3Claim(ID, "", 1, header, date=timestamp, signed_headers=("host", header))
    with_signature = Tc3Claim(ID, "", 1, "0" * 64, date="2020-01-01", signed_headers=("host",))
    assert not tc3_matches(with_signature, KEY, method="POST", path="/", query="", header=values, body=body)
    assert claim.signature == header


@given(st.binary(max_size=300))
def test_no_form_makes_it_fail_otherwise(form: bytes) -> None:
    try:
        pairs = read_flat(form) | {"SecretId": ID, "Timestamp": "1", "Nonce": "1"}
        pairs.setdefault("Signature", "x")
        claim = read_old(pairs)
    except ScfError:
        return
    assert not old_matches(claim, KEY, method="POST", hosts=(HOST,), path="/", parameters=pairs, skip_files=True)
    assert dict(parse_qsl(form.decode(), keep_blank_values=True)).keys() <= pairs.keys()
