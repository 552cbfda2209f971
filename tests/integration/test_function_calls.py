"""Functions that call functions with the credentials in their environment, through the original service's SDKs as they are."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.imaging.packages import SDKS, read_pins
from tests.integration.instance import Instance

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids", "nft"), pytest.mark.shares_host]

#: What pip puts beside the function: the SDKs and what they need.
PACKAGES = ("tencentcloud", "tencentserverless", "requests", "urllib3", "certifi", "idna", "charset_normalizer")

PYTHON2_NEEDS = ("requests", "urllib3", "certifi", "idna", "chardet")

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


def python2_wheels(folder: Path) -> list[Path]:
    """What the SDKs need on Python 2.7, as pinned: from HEARTH_TEST_WHEELS, else fetched by pip."""
    pins = [pin for pin in read_pins(SDKS / "python2.txt") if pin.name in PYTHON2_NEEDS]
    if not (given := os.environ.get("HEARTH_TEST_WHEELS")):
        (folder / "pins.txt").write_text("".join(pin.line for pin in pins))
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
        subprocess.run([*command, "--python-version", "27", "--implementation", "py", "-r", str(folder / "pins.txt")], check=True)
    digests = {digest for pin in pins for digest in pin.digests}
    wheels = [path for path in Path(given or folder).glob("*.whl") if hashlib.sha256(path.read_bytes()).hexdigest() in digests]
    assert len(wheels) == len(PYTHON2_NEEDS)
    return wheels


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


@pytest.fixture
def hearth27(start: Callable[..., Instance], python27_image: Path | None) -> Iterator[Instance]:
    instance = start(python27_image, prepared=1)
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


@pytest.mark.requires("python2.7", "sdks")
def test_the_same_on_python_2(hearth27: Instance, tmp_path: Path) -> None:
    hearth27.deploy(CALLED, name="called")
    out = io.BytesIO(base64.b64decode(with_packages(CALLER, ("tencentcloud", "tencentserverless"))))
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        for wheel in python2_wheels(tmp_path):
            with zipfile.ZipFile(wheel) as whole:
                for name in whole.namelist():
                    archive.writestr(name, whole.read(name))
    caller = create(hearth27, "caller", base64.b64encode(out.getvalue()).decode(), runtime="Python2.7")
    for by in ("with_sdk", "with_common_client"):
        answer = hearth27.call(caller, {"by": by, **invoking("called")})
        assert answer.ok()["answer"]["Result"]["RetMsg"] == '{"got": {"a": 1}}', answer.content
        assert hearth27.record(answer.ok()["answer"]["RequestId"])["caused_by"] == answer.request_id
    assert hearth27.call(caller, {"by": "serverless", "name": "called", "data": {"b": 2}}).ok()["answer"] == '{"got": {"b": 2}}'


def test_switched_off_a_function_reaches_nothing_here(start: Callable[..., Instance]) -> None:
    instance = start(prepared=1, nat_api=False)
    try:
        seen = instance.call(instance.deploy(CALLER), {"environment": 1}).ok()
        assert "TENCENTCLOUD_SCF_ENDPOINT" not in seen and seen["TENCENTCLOUD_SECRETID"].startswith("AKID")
        assert instance.request("GET", "/v1/sandboxes").body["nat"]["api"] == ""
    finally:
        instance.close()


def test_a_function_that_is_started_by_exec_has_a_pair_too(hearth: Instance, caller: str, called: str) -> None:
    name = create(hearth, "exec", with_packages(CALLER), environment={"PYTHONHASHSEED": "1"})
    answer = hearth.call(name, {"by": "with_sdk", **invoking(called)})
    assert answer.ok()["answer"]["Result"]["RetMsg"] == '{"got": {"a": 1}}', answer.content


def test_a_function_invokes_another_with_tencentserverless(hearth: Instance, caller: str, called: str) -> None:
    assert hearth.call(caller, {"by": "serverless", "name": called, "data": {"b": [2]}}).ok()["answer"] == '{"got": {"b": [2]}}'
    failed = hearth.call(caller, {"by": "serverless", "name": called, "data": {"fail": True}}).ok()
    assert "user code exception caught" in failed["text"]
