"""Signatures and chunk framing of the bucket service: what stock signers make is taken, anything changed in it is not."""

from __future__ import annotations

import base64
import calendar
import hashlib
import hmac
import time
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import HmacV1Auth, S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from qcloud_cos.cos_auth import CosS3Auth

from server.buckets import signing
from server.buckets.call import Call, read_call
from server.buckets.chunks import ChunkDecoder
from server.buckets.errors import CODES, BucketError
from server.buckets.signing.model import ChunkKey, Payload
from server.buckets.signing.sigv4 import signing_key

SECRET = "a-secret"
HOST = "bucket.localhost:9002"
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda key: "\n" not in key and "\r" not in key)


def call(method: str, url: str, headers: dict[str, str]) -> Call:
    parts = urlsplit(url)
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in {"host": parts.netloc, **headers}.items()]
    raw_path, query = parts.path.encode(), parts.query.encode()
    return read_call({"method": method, "raw_path": raw_path, "query_string": query, "headers": pairs})


def signed(scheme: str, key: str, method: str = "PUT", query: str = "uploads=") -> Call:
    url = f"http://{HOST}/{quote(key, safe='/-_.~')}?{query}"
    if scheme == "qsign":
        config: Any = SimpleNamespace(_secret_id="AK", _secret_key=SECRET, _anonymous=False, _sign_params=True, _sign_host=True)
        headers = {"Content-Type": "a/b", "x-cos-meta-a": "ü ?"}
        request = SimpleNamespace(method=method, url=url, headers=headers)
        params = dict(pair.split("=") for pair in query.split("&") if pair)
        CosS3Auth(config, key, params)(request)
        return call(method, url, {name: value.encode().decode("latin-1") for name, value in request.headers.items()})
    credentials = Credentials("AK", SECRET)
    request = AWSRequest(
        method=method, url=url, data=b"" if scheme == "query" else b"body", headers={"Content-Type": "a/b", "x-amz-meta-a": "v  w"}
    )
    if scheme == "sigv2":
        request.auth_path = f"/bucket{urlsplit(url).path}"  # what botocore sets for a bucket in the host
        HmacV1Auth(credentials).add_auth(request)
    elif scheme == "query":
        S3SigV4QueryAuth(credentials, "s3", "eu-west-1").add_auth(request)
    else:
        S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(request)
    return call(method, request.url, {name: str(value) for name, value in request.headers.items()})


def check(found: Call, secret: str = SECRET, now: float | None = None) -> Payload:
    claim = signing.read(found)
    assert claim is not None and claim.secret_id == "AK"
    return claim.check(secret, found, "bucket", now or time.time())


def refusal(found: Call, **more: Any) -> str:
    with pytest.raises(BucketError) as caught:
        check(found, **more)
    return caught.value.code


SCHEMES = ["header", "query", "qsign", "sigv2"]


@pytest.mark.parametrize("scheme", SCHEMES)
@given(key=KEYS)
def test_what_stock_signers_make_is_taken(scheme: str, key: str) -> None:
    if scheme == "qsign":
        key = key.lstrip("/") or "k"  # the SDK takes one away
    check(signed(scheme, key))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_change_anywhere_is_refused(scheme: str) -> None:
    found = signed(scheme, "folder/key")
    fields = {name: getattr(found, name) for name in Call.__slots__}
    headers = dict(found.headers)
    other: list[dict[str, Any]] = [
        {"method": "GET"},
        {"path": "/folder/kez", "raw_path": "/folder/kez"},
        {
            "query": tuple(pair for pair in found.query if pair[0] != "uploads"),
            "params": {k: v for k, v in found.params.items() if k != "uploads"},
        },
        {"headers": {**headers, "content-type": "a/c"}},
    ]
    if scheme != "sigv2":
        other.append({"headers": {**headers, "host": "other.localhost:9002"}})
    for change in other:
        assert refusal(Call(**fields | change)) in ("SignatureDoesNotMatch", "AccessDenied"), change
    assert refusal(found, secret="another") == "SignatureDoesNotMatch"
    later = 4 * 24 * 3600
    assert refusal(found, now=time.time() + later) in ("RequestTimeTooSkewed", "AccessDenied")
    assert refusal(found, now=time.time() - later) in ("RequestTimeTooSkewed", "AccessDenied")


@pytest.mark.parametrize("scheme", ["header", "query"])
def test_what_is_to_be_done_must_be_signed(scheme: str) -> None:
    found = signed(scheme, "key")
    fields = {name: getattr(found, name) for name in Call.__slots__}
    added = {**found.headers, "x-amz-copy-source": "/other/key"}
    assert refusal(Call(**fields | {"headers": added})) == "AccessDenied"


@given(text=st.text(max_size=200), where=st.sampled_from(["header", "query", "cos"]))
def test_garbage_is_refused_and_never_a_fault(text: str, where: str) -> None:
    value = "".join(character for character in text if character.isprintable()).encode().decode("latin-1")
    prefix = {"header": "AWS4-HMAC-SHA256 ", "cos": "q-sign-algorithm=sha1&", "query": ""}[where]
    query = f"?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={quote(text)}&X-Amz-Expires={quote(text)}" if where == "query" else ""
    found = call("GET", f"http://{HOST}/k{query}", {"authorization": prefix + value} if prefix else {})
    try:
        claim = signing.read(found)
        if claim is not None:
            claim.check(SECRET, found, "", time.time())
    except BucketError as error:
        assert error.code in CODES
    else:
        assert claim is None


# Chunks ---------------------------------------------------------------------------------------------------------------------

KEY = ChunkKey(signing_key(SECRET, "20261123/eu/s3/aws4_request"), "20261123T000000Z", "20261123/eu/s3/aws4_request", "0" * 64)
EMPTY = hashlib.sha256(b"").hexdigest()


def mac(previous: str, what: str, rest: str) -> str:
    text = f"AWS4-HMAC-SHA256-{what}\n{KEY.timestamp}\n{KEY.scope}\n{previous}\n{rest}"
    return hmac.new(KEY.key, text.encode(), hashlib.sha256).hexdigest()


def framed(chunks: list[bytes], *, is_signed: bool, trailer: bool) -> bytes:
    """As the AWS documents have it, written anew here."""
    out, previous = b"", KEY.seed
    for chunk in [*chunks, b""]:
        extension = ""
        if is_signed:
            previous = mac(previous, "PAYLOAD", f"{EMPTY}\n{hashlib.sha256(chunk).hexdigest()}")
            extension = f";chunk-signature={previous}"
        out += f"{len(chunk):x}{extension}\r\n".encode() + chunk + (b"\r\n" if chunk else b"")
    if trailer:
        line = "x-amz-checksum-crc32:AAAAAA=="
        out += f"{line}\r\n".encode()
        if is_signed:
            out += (
                f"x-amz-trailer-signature:{mac(previous, 'TRAILER', hashlib.sha256(f'{line}{chr(10)}'.encode()).hexdigest())}\r\n".encode()
            )
    return out + b"\r\n"


def decoded(data: bytes, sizes: list[int], length: int, *, is_signed: bool, trailer: bool) -> tuple[bytes, dict[str, str]]:
    decoder = ChunkDecoder(Payload(chunked=True, trailer=trailer, chunk_key=KEY if is_signed else None), length)
    out = b""
    while data:
        size = sizes.pop() if sizes else len(data)
        out += b"".join(decoder.feed(data[:size]))
        data = data[size:]
    decoder.finish()
    return out, decoder.trailers


CHUNKS = st.lists(st.binary(min_size=1, max_size=50), max_size=4)
SIZES = st.lists(st.integers(1, 30), max_size=20)


@given(chunks=CHUNKS, sizes=SIZES, is_signed=st.booleans(), trailer=st.booleans())
def test_chunks_are_taken_apart_however_they_arrive(chunks: list[bytes], sizes: list[int], is_signed: bool, trailer: bool) -> None:
    body = b"".join(chunks)
    data = framed(chunks, is_signed=is_signed, trailer=trailer)
    found, trailers = decoded(data, sizes, len(body), is_signed=is_signed, trailer=trailer)
    assert found == body
    assert trailers == ({"x-amz-checksum-crc32": "AAAAAA=="} if trailer else {})


@given(chunks=CHUNKS, sizes=SIZES, at=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255), trailer=st.booleans())
def test_a_changed_byte_in_signed_chunks_is_refused(chunks: list[bytes], sizes: list[int], at: float, change: int, trailer: bool) -> None:
    data = bytearray(framed(chunks, is_signed=True, trailer=trailer))
    place = int(at * len(data))
    before, data[place] = data[place], data[place] ^ change
    if bytes([before]).lower() == bytes([data[place]]).lower():
        return  # a digit of the size or a trailer's name in the other case
    with pytest.raises(BucketError):
        decoded(bytes(data), sizes, sum(map(len, chunks)), is_signed=True, trailer=trailer)


@given(chunks=CHUNKS, sizes=SIZES, cut=st.integers(1, 60), is_signed=st.booleans())
def test_half_a_body_is_none(chunks: list[bytes], sizes: list[int], cut: int, is_signed: bool) -> None:
    data = framed(chunks, is_signed=is_signed, trailer=False)
    with pytest.raises(BucketError):
        decoded(data[: -min(cut, len(data))], sizes, sum(map(len, chunks)), is_signed=is_signed, trailer=False)


def test_the_example_of_the_aws_documents() -> None:
    """GET Object of "Signature Calculations for the Authorization Header": the signature that the document gives."""
    headers = {
        "Host": "examplebucket.s3.amazonaws.com",
        "Range": "bytes=0-9",
        "x-amz-content-sha256": EMPTY,
        "x-amz-date": "20130524T000000Z",
        "Authorization": "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    }
    found = call("GET", "http://examplebucket.s3.amazonaws.com/test.txt", {name: headers[name] for name in headers if name != "Host"})
    claim = signing.read(found)
    assert claim is not None
    now = calendar.timegm(time.strptime("20130524T000000Z", "%Y%m%dT%H%M%SZ"))
    assert claim.check("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", found, "", now) == Payload(sha256=EMPTY)


def test_base64_of_nothing_is_no_digest() -> None:
    from server.buckets.body import content_md5

    good = base64.b64encode(hashlib.md5(b"").digest()).decode()
    assert content_md5(call("PUT", f"http://{HOST}/k", {"content-md5": good})) == hashlib.md5(b"").hexdigest()
    for bad in ("x", "AAAA", "ü"):
        with pytest.raises(BucketError, match="InvalidDigest"):
            content_md5(call("PUT", f"http://{HOST}/k", {"content-md5": bad}))
