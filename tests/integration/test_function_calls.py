"""Functions that call functions with the credentials in their environment, through the original service's SDKs as they are."""

from __future__ import annotations

import base64
import importlib.util
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.instance import Instance

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids", "nft"), pytest.mark.shares_host]

#: What pip puts beside the function: the SDKs and what they need.
PACKAGES = ("tencentcloud", "tencentserverless", "requests", "urllib3", "certifi", "idna", "charset_normalizer")

CALLER = """
import json, os

def with_sdk(event):
    from tencentcloud.common import credential
    from tencentcloud.scf.v20180416 import models, scf_client
    pair = [os.environ["TENCENTCLOUD_" + name] for name in ("SECRETID", "SECRETKEY", "SESSIONTOKEN")]
    client = scf_client.ScfClient(credential.Credential(*event.get("pair") or pair), "ap-guangzhou")
    request = getattr(models, event.get("action", "Invoke") + "Request")()
    request._deserialize(event["parameters"])
    return json.loads(getattr(client, event.get("action", "Invoke"))(request).to_json_string())

def with_common_client(event):
    from tencentcloud.common import common_client, credential
    pair = [os.environ["TENCENTCLOUD_" + name] for name in ("SECRETID", "SECRETKEY", "SESSIONTOKEN")]
    client = common_client.CommonClient("scf", "2018-04-16", credential.Credential(*pair), "ap-guangzhou")
    return client.call_json("Invoke", event["parameters"])["Response"]

def serverless(event):
    import tencentserverless.scf
    return tencentserverless.scf.invoke(event["name"], data=event["data"])

def main_handler(event, context):
    if "environment" in event:
        return {name: value for name, value in os.environ.items() if name.startswith("TENCENTCLOUD_")}
    try:
        return {"answer": globals()[event["by"]](event), "request_id": context["request_id"]}
    except Exception as error:
        return {"error": getattr(error, "code", None) or getattr(error, "get_code", lambda: type(error).__name__)(), "text": str(error)}
"""
CALLED = "def main_handler(event, context):\n    if event.get('fail'):\n        raise ValueError('no')\n    return {'got': event}\n"


def with_packages(source: str, packages: tuple[str, ...] = PACKAGES) -> str:
    """base64 of a zip of `index.py` and these packages of our own environment."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("index.py", source)
        for name in packages:
            spec = importlib.util.find_spec(name)
            assert spec is not None and spec.origin is not None
            root = Path(spec.origin).parent
            for path in root.rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    archive.write(path, str(path.relative_to(root.parent)))
    return base64.b64encode(out.getvalue()).decode()


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    instance = start(prepared=2, keep_alive_seconds=600)
    try:
        yield instance
    finally:
        instance.close()


def create(hearth: Instance, name: str, code: str, namespace: str = "default", **more: Any) -> str:
    body = {
        "name": name,
        "runtime": "python3",
        "handler": "index.main_handler",
        "code": {"zip": code},
        "timeout": 20,
        "memory": 256,
        **more,
    }
    answer = hearth.request("POST", f"/v1/functions?namespace={namespace}", json=body)
    assert answer.status == 201, answer.content
    return name


@pytest.fixture(scope="module")
def caller(hearth: Instance) -> str:
    return create(hearth, "caller", with_packages(CALLER))


@pytest.fixture(scope="module")
def called(hearth: Instance) -> str:
    return hearth.deploy(CALLED, name="called")


def invoking(name: str, **more: Any) -> dict[str, Any]:
    return {"parameters": {"FunctionName": name, "ClientContext": '{"a": 1}', **more}}


@pytest.mark.parametrize("by", ["with_sdk", "with_common_client"])
def test_a_function_invokes_another_with_the_sdk_and_nothing_told(hearth: Instance, caller: str, called: str, by: str) -> None:
    answer = hearth.call(caller, {"by": by, **invoking(called)})
    assert answer.ok()["answer"]["Result"]["RetMsg"] == '{"got": {"a": 1}}', answer.content
    record = hearth.record(answer.ok()["answer"]["RequestId"])
    assert record["caused_by"] == answer.request_id == answer.ok()["request_id"]
    assert hearth.record(answer)["caused_by"] is None


def test_a_function_invokes_another_with_tencentserverless(hearth: Instance, caller: str, called: str) -> None:
    assert hearth.call(caller, {"by": "serverless", "name": called, "data": {"b": [2]}}).ok()["answer"] == '{"got": {"b": [2]}}'
    failed = hearth.call(caller, {"by": "serverless", "name": called, "data": {"fail": True}}).ok()
    assert "user code exception caught" in failed["text"]
