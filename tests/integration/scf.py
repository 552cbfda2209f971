"""SCF's own clients, pointed at an instance, and a check of every answer against the SDK's models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tencentcloud.common import credential
from tencentcloud.common.abstract_model import AbstractModel
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.scf.v20180416 import models
from tencentcloud.scf.v20180416.scf_client import ScfClient

from tests.integration.instance import Instance

Pair = dict[str, str]


def new_pair(hearth: Instance, **wishes: str) -> Pair:
    answer = hearth.request("POST", "/v1/keys", json=wishes)
    assert answer.status == 201, answer.content
    return dict(answer.body)


class Client:
    """The SDK's client: `call("GetFunction", FunctionName="f")` is the answer as it came, checked against the model of that action.

    A field that the model does not have, or one that it has and the answer does not, fails the test.
    """

    def __init__(self, hearth: Instance, pair: Pair, *, method: str = "POST", scheme: str = "TC3-HMAC-SHA256", **profile: Any) -> None:
        http = HttpProfile(protocol="http", endpoint=f"127.0.0.1:{hearth.port}", reqMethod=method, reqTimeout=120)
        own = ClientProfile(scheme, http)
        for name, value in profile.items():
            setattr(own, name, value)
        self.sdk = ScfClient(credential.Credential(pair["secret_id"], pair["secret_key"], pair.get("token")), "ap-guangzhou", own)

    def call(self, action: str, **parameters: Any) -> dict[str, Any]:
        request = getattr(models, f"{action}Request")()
        request._deserialize(parameters)
        raw: dict[str, Any] = {}
        send = self.sdk.call

        def recording(name: str, params: Any, options: Any = None, headers: Any = None) -> Any:
            body = send(name, params, options or {}, headers)
            raw.update(json.loads(body)["Response"])
            return body

        self.sdk.call = recording
        try:
            answer = getattr(self.sdk, action)(request)  # the SDK warns of unknown fields, and warnings are errors
        finally:
            self.sdk.call = send
        assert missing(answer, raw) == []
        return raw

    def refused(self, action: str, **parameters: Any) -> str:
        """The code of the error that the SDK raises."""
        with pytest.raises(TencentCloudSDKException) as raised:
            self.call(action, **parameters)
        assert raised.value.requestId and raised.value.message
        return str(raised.value.code)


def missing(model: AbstractModel, raw: Mapping[str, Any], path: str = "") -> list[str]:
    """The fields of a deserialised model that its text did not have."""
    found = []
    for attribute, value in vars(model).items():
        name = attribute.removeprefix("_")
        if name not in raw:
            found.append(path + name)
        elif isinstance(value, AbstractModel):
            found += missing(value, raw[name], f"{path}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], AbstractModel):
            found += [one for item, text in zip(value, raw[name], strict=True) for one in missing(item, text, f"{path}{name}[].")]
    return found


def tccli(hearth: Instance, pair: Pair, home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`tccli scf …` with a home of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")} | {"HOME": str(home)}
    fixed = ["--endpoint", hearth.url, "--secretId", pair["secret_id"], "--secretKey", pair["secret_key"], "--region", "ap-guangzhou"]
    program = str(Path(sys.executable).with_name("tccli"))

    def run(action: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [program, "scf", action, *arguments, *fixed]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    return run
