"""Functions on the built-in buckets with the credentials in their environment and the stock SDKs: what they reach, and where loops end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.config import Config

from server.buckets.access import OPERATOR_ID, operator_key
from tests.integration.bucketserver import free_port
from tests.integration.instance import Instance, packed, wait_until
from tests.integration.packages import BOTO3, COS, TENCENTCLOUD, files_of

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids", "nft"), pytest.mark.shares_host]

APPID = "1250000000"
#: A number of calls that led to each other is at most this.
MOST = 16

FUNCTION = """
import json, os, urllib.error, urllib.request

OWN = [os.environ["TENCENTCLOUD_" + name] for name in ("SECRETID", "SECRETKEY", "SESSIONTOKEN")]

def cos(event):
    from qcloud_cos import CosConfig, CosS3Client
    pair = event.get("pair") or OWN
    config = CosConfig(Region=os.environ["TENCENTCLOUD_REGION"], SecretId=pair[0], SecretKey=pair[1], Token=pair[2])
    return CosS3Client(config, retry=0)

def s3(event):
    import boto3
    pair = event.get("pair") or OWN
    return boto3.client("s3", endpoint_url="http://" + os.environ["TENCENTCLOUD_COS_ENDPOINT"], region_name="local",
                        aws_access_key_id=pair[0], aws_secret_access_key=pair[1], aws_session_token=pair[2])

def put(event, bucket, key, body):
    (cos if event.get("by") == "cos" else s3)(event).put_object(Bucket=bucket, Key=key, Body=body)

def get(event, bucket, key):
    body = (cos if event.get("by") == "cos" else s3)(event).get_object(Bucket=bucket, Key=key)["Body"]
    return (body.get_raw_stream() if event.get("by") == "cos" else body).read().decode()

def invoke(name, event, kind):
    from tencentcloud.common import credential
    from tencentcloud.scf.v20180416 import models, scf_client
    request = models.InvokeRequest()
    request.FunctionName, request.ClientContext, request.InvocationType = name, json.dumps(event), kind
    scf_client.ScfClient(credential.Credential(*OWN), "local").Invoke(request)

def raw(event):
    import socket
    host, port = os.environ["TENCENTCLOUD_COS_ENDPOINT"].split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        head = "{} {} HTTP/1.1\\r\\nHost: {}\\r\\nConnection: close\\r\\n\\r\\n"
        connection.sendall(head.format(event.get("method", "GET"), event["target"], event["host"]).encode())
        return int(connection.makefile("rb").readline().split()[1])

def do(event):
    if event["do"] == "put":
        return put(event, event["bucket"], event["key"], event["body"].encode())
    if event["do"] == "get":
        return get(event, event["bucket"], event["key"])
    if event["do"] == "fetch":
        try:
            return urllib.request.urlopen("http://" + os.environ["TENCENTCLOUD_COS_ENDPOINT"] + event["path"], timeout=5).status
        except urllib.error.HTTPError as error:
            return error.code
    if event["do"] == "raw":
        return raw(event)
    if event["do"] == "pair":
        return OWN

def main_handler(event, context):
    if "do" in event:
        try:
            return {"answer": do(event)}
        except Exception as error:
            return {"error": getattr(error, "get_error_code", lambda: type(error).__name__)(), "text": str(error)}
    target = os.environ["TARGET"]
    if os.environ["BY"] in ("Event", "RequestResponse"):
        return invoke(target, {}, os.environ["BY"])
    put({"by": os.environ["BY"]}, target, context["request_id"], b"again")
"""


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    instance = start(prepared=2, bucket_listen=f"127.0.0.1:{free_port()}", limit_functions=100, event_retry_seconds=0.2)
    try:
        yield instance
    finally:
        instance.close()


@pytest.fixture(scope="module")
def package() -> dict[str, bytes]:
    return {"index.py": FUNCTION.encode(), **files_of(*COS, *BOTO3, *TENCENTCLOUD)}


def operator_pair(hearth: Instance) -> tuple[str, str]:
    return OPERATOR_ID, operator_key((hearth.home / "credential").read_text().strip())


@contextmanager
def operator(hearth: Instance) -> Iterator[Any]:
    secret_id, secret_key = operator_pair(hearth)
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{hearth.environment['HEARTH_BUCKET_LISTEN']}",
        aws_access_key_id=secret_id,
        aws_secret_access_key=secret_key,
        region_name="local",
        config=Config(retries={"max_attempts": 1}),
    )
    try:
        yield client
    finally:
        client.close()


def bucket(hearth: Instance, name: str) -> str:
    with operator(hearth) as client:
        client.create_bucket(Bucket=f"{name}-{APPID}")
    return f"{name}-{APPID}"


def make(hearth: Instance, package: dict[str, bytes], name: str, **more: Any) -> str:
    return hearth.deploy(package, name=name, timeout=30, memory=256, **more)


def trigger(hearth: Instance, function: str, bucket: str) -> None:
    body = {"name": bucket, "type": "cos", "config": {"bucket": bucket, "event": "cos:ObjectCreated:*"}}
    answer = hearth.request("POST", f"/v1/functions/{function}/triggers", json=body)
    assert answer.status == 201, answer.content


@pytest.fixture(scope="module")
def user(hearth: Instance, package: dict[str, bytes]) -> str:
    return make(hearth, package, "user")


@pytest.fixture(scope="module")
def photos(hearth: Instance) -> str:
    return bucket(hearth, "photos")


@pytest.mark.parametrize("by", ["cos", "s3"])
def test_a_function_reads_and_writes_with_its_own_credentials(hearth: Instance, user: str, photos: str, by: str) -> None:
    with operator(hearth) as client:
        client.put_object(Bucket=photos, Key="in/ü.txt", Body=b"from outside")
        seen = hearth.call(user, {"do": "get", "by": by, "bucket": photos, "key": "in/ü.txt"}).ok()
        assert seen == {"answer": "from outside"}
        assert hearth.call(user, {"do": "put", "by": by, "bucket": photos, "key": by, "body": "from within"}).ok() == {"answer": None}
        assert client.get_object(Bucket=photos, Key=by)["Body"].read() == b"from within"


@pytest.mark.parametrize("by", ["cos", "s3"])
def test_a_forged_token_opens_nothing(hearth: Instance, user: str, photos: str, by: str) -> None:
    pair = hearth.call(user, {"do": "pair"}).ok()["answer"]
    # the SDK leads to this host only for the sandbox's own id
    answer = hearth.call(user, {"do": "get", "by": by, "bucket": photos, "key": "x", "pair": [*pair[:2], pair[2] + "x"]}).ok()
    assert "AccessDenied" in answer["error"] + answer["text"]
    wrong = hearth.call(user, {"do": "get", "by": by, "bucket": photos, "key": "x", "pair": [pair[0], "no", pair[2]]}).ok()
    assert "SignatureDoesNotMatch" in wrong["error"] + wrong["text"]


def test_another_namespaces_buckets_are_closed(hearth: Instance, package: dict[str, bytes], photos: str) -> None:
    assert hearth.request("POST", "/v1/namespaces", json={"name": "alice"}).status == 201
    code = {"zip": packed(package)}
    body = {"name": "hers", "runtime": "python3", "handler": "index.main_handler", "code": code, "timeout": 30, "memory": 256}
    assert hearth.request("POST", "/v1/functions?namespace=alice", json=body).status == 201
    answer = hearth.call("hers", {"do": "get", "by": "s3", "bucket": photos, "key": "s3"}, query="?namespace=alice").ok()
    assert "AccessDenied" in answer["text"]


def test_credentials_end_with_their_sandbox(hearth: Instance, package: dict[str, bytes], user: str, photos: str) -> None:
    doomed = make(hearth, package, "doomed")
    pair = hearth.call(doomed, {"do": "pair"}).ok()["answer"]
    with_it = {"do": "get", "by": "s3", "bucket": photos, "key": "nothing", "pair": pair}
    hearth.delete(doomed)
    wait_until(lambda: not hearth.sandboxes(doomed), "its sandboxes are gone")
    assert "AccessDenied" in hearth.call(user, with_it).ok()["text"]


def test_nothing_but_what_is_signed_is_served_to_functions(hearth: Instance, user: str) -> None:
    for path in ("/-/healthz", "/-/metrics", "/", "/v1/functions"):
        assert hearth.call(user, {"do": "fetch", "path": path}).ok() == {"answer": 403}


def test_the_operators_key_is_good_outside_alone(hearth: Instance, user: str, photos: str) -> None:
    pair = [*operator_pair(hearth), None]
    answer = hearth.call(user, {"do": "get", "by": "s3", "bucket": photos, "key": "x", "pair": pair}).ok()
    assert "operator" in answer["text"]


def test_what_is_the_hosts_is_the_hosts_whatever_the_request_line_and_the_host_header_say(hearth: Instance, user: str, photos: str) -> None:
    for event in (
        {"target": f"http://{photos}.cos.local.myqcloud.com/x", "host": "localhost"},
        {"target": "http://localhost/-/metrics", "host": photos},
        {"target": "http://127.0.0.1:9000/healthz", "host": "127.0.0.1:9000"},
        {"target": "*", "host": "localhost", "method": "OPTIONS"},
        {"target": "127.0.0.1:9000", "host": "127.0.0.1:9000", "method": "CONNECT"},
        {"target": "http://operator@localhost/", "host": "localhost"},
    ):
        assert hearth.call(user, {"do": "raw", **event}).ok()["answer"] in (400, 403, 404, 405), event


def test_a_function_without_a_network_has_no_way_to_buckets(hearth: Instance, package: dict[str, bytes]) -> None:
    name = hearth.deploy(
        "import os\ndef main_handler(event, context):\n    return os.environ.get('TENCENTCLOUD_COS_ENDPOINT')\n", network="none"
    )
    assert hearth.call(name).ok() is None


def dead_letter(hearth: Instance, functions: set[str]) -> dict[str, Any]:
    def find() -> dict[str, Any] | None:
        letters = hearth.request("GET", "/v1/dead-letters?limit=100").body["dead_letters"]
        return next((letter for letter in letters if letter["function"] in functions), None)

    found = wait_until(find, "the loop has ended", 120)
    assert found is not None
    return found


def runs(hearth: Instance, *functions: str) -> list[dict[str, Any]]:
    return [row for name in functions for row in hearth.records(name) if row["start"] is not None]


def check_chain(hearth: Instance, functions: tuple[str, ...], ran: int) -> None:
    """So many ran, each but the first caused by another of them, and the last one's record and dead letter say why it is the last."""
    letter = dead_letter(hearth, set(functions))
    record = hearth.record(letter["request_id"])
    assert (record["state"], record["error"]["code"], record["hops"]) == ("failed", "too_many_hops", MOST)
    found = wait_until(lambda: (rows := runs(hearth, *functions)) and len(rows) >= ran and rows, "their records are there")
    assert found is not None
    assert [row["state"] for row in found] == ["succeeded"] * ran
    known = {row["request_id"] for row in found}
    causes = [row["caused_by"] for row in found]
    assert causes.count(None) == 1
    assert {cause for cause in causes if cause} | {record["caused_by"]} == known


@pytest.mark.parametrize("by", ["cos", "s3"])
def test_a_function_that_writes_into_its_own_bucket_runs_sixteen_times(hearth: Instance, package: dict[str, bytes], by: str) -> None:
    looping = bucket(hearth, f"loop{by}")
    name = make(hearth, package, f"loop{by}", environment={"TARGET": looping, "BY": by})
    trigger(hearth, name, looping)
    with operator(hearth) as client:
        client.put_object(Bucket=looping, Key="begin", Body=b"")
    check_chain(hearth, (name,), MOST)


def test_a_loop_over_two_functions_and_two_buckets_ends_too(hearth: Instance, package: dict[str, bytes]) -> None:
    one, two = bucket(hearth, "one"), bucket(hearth, "two")
    names = (
        make(hearth, package, "one", environment={"TARGET": two, "BY": "s3"}),
        make(hearth, package, "two", environment={"TARGET": one, "BY": "cos"}),
    )
    trigger(hearth, names[0], one)
    trigger(hearth, names[1], two)
    with operator(hearth) as client:
        client.put_object(Bucket=one, Key="begin", Body=b"")
    check_chain(hearth, names, MOST)


def test_a_loop_through_invocations_and_a_bucket_ends_too(hearth: Instance, package: dict[str, bytes]) -> None:
    place = bucket(hearth, "mixed")
    writer = make(hearth, package, "writer", environment={"TARGET": place, "BY": "s3"})
    caller = make(hearth, package, "caller", environment={"TARGET": writer, "BY": "RequestResponse"})
    trigger(hearth, caller, place)
    with operator(hearth) as client:
        client.put_object(Bucket=place, Key="begin", Body=b"")
    check_chain(hearth, (writer, caller), MOST)


def test_a_function_that_invokes_itself_asynchronously_runs_sixteen_times(hearth: Instance, package: dict[str, bytes]) -> None:
    name = make(hearth, package, "itself", environment={"TARGET": "itself", "BY": "Event"})
    hearth.call(name, {}).ok()
    check_chain(hearth, (name,), MOST)
