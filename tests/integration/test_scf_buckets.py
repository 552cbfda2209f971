"""Code of functions and layers out of this server's buckets: put there with boto3, named by the official SDK."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.integration.instance import Instance, free_port, leaving_nothing, packed
from tests.integration.scf import Client, Pair, new_pair

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

WHOLE = "packages-1250000000"


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    with leaving_nothing(start(bucket_listen=f"127.0.0.1:{free_port()}", limit_code_bytes=100_000)) as instance:
        yield instance


@pytest.fixture(scope="module")
def pair(hearth: Instance) -> Pair:
    return new_pair(hearth)


@pytest.fixture(scope="module")
def scf(hearth: Instance, pair: Pair) -> Client:
    return Client(hearth, pair)


@contextmanager
def s3(hearth: Instance, pair: Pair) -> Iterator[Any]:
    url = f"http://{hearth.environment['HEARTH_BUCKET_LISTEN']}"
    keys = {"aws_access_key_id": pair["secret_id"], "aws_secret_access_key": pair["secret_key"]}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=Config(retries={"max_attempts": 1}), **keys)
    try:
        yield client
    finally:
        client.close()


def says(text: str) -> str:
    return packed(f"def main_handler(event, context):\n    return {text!r}\n")


@pytest.fixture(scope="module")
def bucket(hearth: Instance, pair: Pair) -> Iterator[Callable[..., None]]:
    """Puts what it is given (base64 or bytes) there."""
    with s3(hearth, pair) as client:
        client.create_bucket(Bucket=WHOLE)

        def put(key: str, data: str | bytes, name: str = WHOLE) -> None:
            client.put_object(Bucket=name, Key=key, Body=base64.b64decode(data) if isinstance(data, str) else data)

        put("path/größe.zip", says("from a bucket"))
        yield put


def said(scf: Client, name: str) -> Any:
    return json.loads(scf.call("Invoke", FunctionName=name)["Result"]["RetMsg"])


def make(scf: Client, name: str, code: dict[str, str], **more: Any) -> str:
    scf.call("CreateFunction", FunctionName=name, Runtime="Python3", Handler="index.main_handler", Code=code, **more)
    return name


def test_a_function_is_made_and_changed_of_objects(scf: Client, bucket: Callable[..., None]) -> None:
    name = make(scf, "of-objects", {"CosBucketName": "packages", "CosObjectName": "/path/größe.zip", "CosBucketRegion": "ap-chengdu"})
    assert said(scf, name) == "from a bucket"
    bucket("second", says("second"))
    scf.call("UpdateFunctionCode", FunctionName=name, CosBucketName=WHOLE, CosObjectName="second", Publish="TRUE")
    assert said(scf, name) == "second"
    bucket("second", says("changed"))
    assert said(scf, name) == "second"
    scf.call("UpdateFunctionCode", FunctionName=name, Code={"CosBucketName": WHOLE, "CosObjectName": "/second"}, CodeSource="Cos")
    assert said(scf, name) == "changed"
    scf.call("DeleteFunction", FunctionName=name)


def test_a_layer_is_made_of_an_object(scf: Client, bucket: Callable[..., None]) -> None:
    bucket("layer.zip", packed({"fact.txt": "of a layer"}))
    content = {"CosBucketName": "packages", "CosObjectName": "layer.zip"}
    made = scf.call("PublishLayerVersion", LayerName="facts", CompatibleRuntimes=["Python3"], Content=content)
    assert made["LayerVersion"] == 1
    reads = packed("def main_handler(event, context):\n    return open('/opt/fact.txt').read()\n")
    name = make(scf, "reads-it", {"ZipFile": reads}, Layers=[{"LayerName": "facts", "LayerVersion": 1}])
    assert said(scf, name) == "of a layer"
    wrong = {"LayerName": "facts", "CompatibleRuntimes": ["Python3"]}
    bucket("no.zip", b"no zip at all")
    for key, code in (("no.zip", "InvalidParameterValue.Content"), ("nothing", "ResourceNotFound.CosObject")):
        assert scf.refused("PublishLayerVersion", **wrong, Content={**content, "CosObjectName": key}) == code
    scf.call("DeleteFunction", FunctionName=name)


def test_what_is_not_there_or_no_code_is_told(scf: Client, hearth: Instance, pair: Pair, bucket: Callable[..., None]) -> None:
    with s3(hearth, pair) as client:
        for whole in ("two-1", "two-2"):
            client.create_bucket(Bucket=whole)
    bucket("no.zip", b"no zip at all")
    bucket("large.zip", b"x" * 100_001)
    known = {"CosBucketName": "packages", "CosObjectName": "path/größe.zip"}
    create = {"FunctionName": "never", "Runtime": "Python3", "Handler": "index.main_handler"}
    for changes, code in (
        ({"CosBucketName": "nothing"}, "ResourceNotFound.Cos"),
        ({"CosBucketName": "pack"}, "ResourceNotFound.Cos"),
        ({"CosBucketName": "packages-125"}, "ResourceNotFound.Cos"),
        ({"CosBucketName": "%"}, "InvalidParameterValue.CosBucketName"),
        ({"CosBucketName": "../etc"}, "InvalidParameterValue.CosBucketName"),
        ({"CosBucketName": "two"}, "InvalidParameterValue.CosBucketName"),
        ({"CosBucketName": ""}, "MissingParameter"),
        ({"CosObjectName": ""}, "MissingParameter"),
        ({"CosObjectName": "/"}, "InvalidParameterValue.CosObjectName"),
        ({"CosObjectName": "x" * 1025}, "InvalidParameterValue.CosObjectName"),
        ({"CosObjectName": "../../../credential"}, "ResourceNotFound.CosObject"),
        ({"CosObjectName": "path/"}, "ResourceNotFound.CosObject"),
        ({"CosObjectName": "no.zip"}, "InvalidParameterValue.ZipFile"),
        ({"CosObjectName": "large.zip"}, "InvalidParameterValue.ZipFile"),
    ):
        assert scf.refused("CreateFunction", **create, Code={**known, **changes}) == code, changes
    assert scf.refused("CreateFunction", **create, Code={"TempCosObjectName": "t"}) == "InvalidParameterValue.TempCosObjectName"
    assert scf.refused("GetFunction", FunctionName="never") == "ResourceNotFound.Function"


def test_a_user_finds_its_own_buckets_alone(hearth: Instance, scf: Client, bucket: Callable[..., None]) -> None:
    scf.call("CreateNamespace", Namespace="alice")
    own = new_pair(hearth, namespace="alice")
    alice = Client(hearth, own)
    code = {"CosBucketName": "packages", "CosObjectName": "path/größe.zip"}
    create = {"FunctionName": "mine", "Runtime": "Python3", "Handler": "index.main_handler"}
    assert alice.refused("CreateFunction", **create, Code=code) == "ResourceNotFound.Cos"
    with s3(hearth, own) as client:
        client.create_bucket(Bucket="packages-7")
        client.put_object(Bucket="packages-7", Key="path/größe.zip", Body=base64.b64decode(says("alice's")))
    make(alice, "mine", code)
    assert said(alice, "mine") == "alice's"
    assert (
        alice.refused("CreateFunction", **{**create, "FunctionName": "other"}, Code={**code, "CosBucketName": WHOLE})
        == "ResourceNotFound.Cos"
    )
    # Who may read both is not led astray by another's bucket: the function's namespace says which is meant, a whole name any.
    scf.call("UpdateFunctionCode", FunctionName="mine", Namespace="alice", CosBucketName=WHOLE, CosObjectName="path/größe.zip")
    assert said(alice, "mine") == "from a bucket"
    scf.call("UpdateFunctionCode", FunctionName="mine", Namespace="alice", **code)
    assert said(alice, "mine") == "alice's"
    make(scf, "theirs", code)
    assert said(scf, "theirs") == "from a bucket"
    alice.call("DeleteFunction", FunctionName="mine")
    scf.call("DeleteFunction", FunctionName="theirs")
