"""tccli, API 2.0 through its own SDK, and the SDK that functions are called with: each as it is, against a running instance."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.instance import Instance, packed, wait_until
from tests.integration.scf import Pair, new_pair, tccli

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

ECHO = "def main_handler(event, context):\n    print('seen', event)\n    return event\n"


@pytest.fixture(scope="module")
def pair(hearth: Instance) -> Pair:
    return new_pair(hearth)


# tccli ----------------------------------------------------------------------------------------------------------------------


def test_a_whole_life_through_tccli(hearth: Instance, pair: Pair, tmp_path: Path) -> None:
    run = tccli(hearth, pair, tmp_path)

    def good(action: str, *arguments: str) -> dict[str, Any]:
        done = run(action, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    named = ("--FunctionName", "cli")
    code = json.dumps({"ZipFile": packed(ECHO)})
    good("CreateFunction", *named, "--Handler", "index.main_handler", "--Runtime", "Python3", "--Code", code, "--Description", "größe 大")
    assert good("GetFunction", *named)["Description"] == "größe 大"
    assert [row["FunctionName"] for row in good("ListFunctions", "--SearchKey", "cli")["Functions"]] == ["cli"]
    result = good("Invoke", *named, "--ClientContext", '{"a": "ü"}', "--LogType", "tail")["Result"]
    assert json.loads(result["RetMsg"]) == {"a": "ü"} and "seen" in result["Log"]
    variables = ("--Environment.Variables.0.Key", "A", "--Environment.Variables.0.Value", "b")
    good("UpdateFunctionConfiguration", "--cli-unfold-argument", *named, *variables)
    assert good("GetFunction", *named)["Environment"]["Variables"] == [{"Key": "A", "Value": "b"}]
    good("DeleteFunction", *named)
    done = run("GetFunction", *named)
    assert done.returncode == 255 and "ResourceNotFound.Function" in done.stderr
    wrong = tccli(hearth, {**pair, "secret_key": "x"}, tmp_path)("ListFunctions")
    assert wrong.returncode == 255 and "AuthFailure.SignatureFailure" in wrong.stderr


# API 2.0 --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def old(hearth: Instance, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """`old(action, {parameters}, **config)`: what the SDK of API 2.0 hands on, over plain HTTP."""
    import QcloudApi.common.request as transport
    from QcloudApi.modules.scf import Scf
    from QcloudApi.qcloudapi import QcloudApi

    class Connection(http.client.HTTPConnection):
        request_length = 0

    monkeypatch.setattr(transport, "MyHTTPSConnection", Connection)
    monkeypatch.setattr(Scf, "requestHost", f"127.0.0.1:{hearth.port}")

    def call(action: str, parameters: dict[str, Any], **config: Any) -> dict[str, Any]:
        own = {"Region": "gz", "secretId": pair["secret_id"], "secretKey": pair["secret_key"], "method": "POST", **config}
        return dict(json.loads(QcloudApi("scf", own).call(action, parameters)))

    yield call


@pytest.mark.parametrize(("method", "scheme"), [("POST", "HmacSHA256"), ("POST", "HmacSHA1"), ("GET", "HmacSHA1")])
def test_a_whole_life_through_api_2(hearth: Instance, old: Any, method: str, scheme: str) -> None:
    name = f"old-{method}-{scheme}"
    sign = {"method": method, "SignatureMethod": scheme}

    def good(action: str, **parameters: Any) -> dict[str, Any]:
        answer = old(action, parameters, **sign)
        assert (answer["code"], answer["codeDesc"], answer["message"]) == (0, "Success", ""), answer
        return dict(answer)

    good("CreateFunction", functionName=name, code=f"@{packed(ECHO)}", handler="index.main_handler", description="größe", timeout=5)
    shown = good("GetFunction", functionName=name, code=1)["data"]
    assert (shown["description"], shown["timeout"], shown["memorySize"], shown["code"]) == ("größe", 5, 128, ECHO)
    assert shown["version"] == "LATEST" and shown["triggers"] == [] and shown["codeResult"] == "success"
    assert "code" not in good("GetFunction", functionName=name)["data"]
    listed = good("ListFunctions", searchKey=name, orderby="modtime", order="desc", limit=5)["data"]
    assert listed["total"] == 1 and listed["functions"][0]["functionName"] == name
    data = good("InvokeFunction", functionName=name, param='{"a": "ü"}', logType="Tail")["data"]
    assert json.loads(data["retMsg"]) == {"a": "ü"} and data["payLoad"] == data["retMsg"] and "seen" in data["log"] == data["logMsg"]
    assert data["requestId"] and data["billDuration"] >= 1 and data["memSize"] == data["memUsage"] > 0
    changed = packed(ECHO.replace("return event", "return 2"))
    good("UpdateFunction", functionName=name, code=f"@{changed}", memorySize=256, description="neu")
    assert good("InvokeFunction", functionName=name)["data"]["retMsg"] == "2"
    assert good("GetFunction", functionName=name)["data"]["memorySize"] == 256
    assert hearth.request("GET", f"/v1/functions/{name}").body["description"] == "neu"
    generation = hearth.request("GET", f"/v1/functions/{name}").body["generation"]
    assert generation == 2  # code and configuration came as one change
    refused = old("UpdateFunction", {"functionName": name, "code": f"@{packed('x = 1')}", "memorySize": 5}, **sign)
    assert (refused["code"], refused["codeDesc"]) == (4000, "InvalidParameterValue.MemorySize")
    refused = old("UpdateFunction", {"functionName": name, "description": "x", "handler": "nowhere.main"}, **sign)
    assert refused["codeDesc"] == "InvalidParameterValue.Handler"
    assert old("UpdateFunction", {"functionName": name}, **sign)["codeDesc"] == "MissingParameter"
    assert hearth.request("GET", f"/v1/functions/{name}").body["generation"] == generation
    logs = wait_until(lambda: (found := good("GetFunctionLogs", functionName=name, order="asc"))["total"] == 2 and found, "both records")
    assert [row["retMsg"] for row in logs["data"]][1] == "2" and logs["data"][0]["functionName"] == name
    good("DeleteFunction", functionName=name)
    assert old("GetFunction", {"functionName": name}, **sign)["code"] == 5000


def test_what_a_client_of_api_2_distinguishes(hearth: Instance, old: Any, pair: Pair) -> None:
    assert old("ListFunctions", {}, secretKey="x")["code"] == 4100
    assert old("ListFunctions", {}, secretId="AKIDnobody")["code"] == 4104
    assert old("ListFunctions", {"Timestamp": int(time.time()) - 7300})["code"] == 4500
    assert old("ListFunctions", {"Timestamp": int(time.time()) - 7000})["code"] == 0
    assert [old("ListFunctions", {"Nonce": 4711})["code"] for _ in range(2)] == [0, 4500]
    caller = new_pair(hearth, scope="invoke")
    assert old("ListFunctions", {}, secretId=caller["secret_id"], secretKey=caller["secret_key"])["code"] == 4102
    assert old("MakeCoffee", {})["code"] == 4000
    assert old("GetFunction", {})["code"] == 4000
    assert old("SetTrigger", {"functionName": "x"})["code"] == 4000
    big = "@" + base64.b64encode(bytes(5 * 2**20 + 100)).decode()
    assert old("CreateFunction", {"functionName": "big", "code": big, "handler": "index.main_handler"})["code"] == 4000
    created = {"functionName": "old-event", "code": f"@{packed(ECHO)}", "handler": "index.main_handler"}
    assert old("CreateFunction", created)["code"] == 0 and old("CreateFunction", created)["code"] == 5100
    sent = old("InvokeFunction", {"functionName": "old-event", "invokeType": "Event", "param": "[1]"})
    assert sent["code"] == 0 and list(sent["data"]) == ["requestId"]
    record = hearth.request("GET", f"/v1/invocations/{sent['data']['requestId']}?wait=20").body
    assert (record["type"], record["result"]) == ("async", [1])
    assert old("InvokeFunction", {"functionName": "old-event", "param": "{"})["code"] == 4000
    assert old("UpdateFunction", {"functionName": "old-event"})["code"] == 4000
    assert old("DeleteFunction", {"functionName": "old-event"})["code"] == 0


def test_timers_through_api_2(hearth: Instance, old: Any) -> None:
    name = {"functionName": hearth.deploy(ECHO, name="old-timers"), "type": "timer"}

    def shown() -> list[tuple[str, str, str]]:
        rows = old("GetFunction", {"functionName": "old-timers"})["data"]["triggers"]
        return [(row["triggerName"], row["type"], row["triggerDesc"]["cron"]) for row in rows]

    assert old("SetTrigger", {**name, "triggerName": "tick", "triggerDesc": "0 0 1 1 *"})["code"] == 0
    assert shown() == [("tick", "timer", "0 0 1 1 *")]
    assert old("SetTrigger", {**name, "triggerName": "tick", "triggerDesc": "5 0 1 1 *", "newTriggerName": "tock"})["code"] == 0
    assert shown() == [("tock", "timer", "5 0 1 1 *")]
    assert old("SetTrigger", {**name, "triggerName": "tick", "triggerDesc": "never"})["code"] == 4000
    assert old("DeleteTrigger", {**name, "triggerName": "tick"})["code"] == 5000
    assert old("DeleteTrigger", {**name, "triggerName": "tock"})["code"] == 0 and shown() == []
    hearth.delete("old-timers")


# tencentserverless ----------------------------------------------------------------------------------------------------------


def test_the_sdk_that_functions_call_each_other_with(hearth: Instance, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    import tencentserverless.scf as module
    from tencentserverless.exception import TencentServerlessSDKException

    original = module.HttpProfile
    monkeypatch.setattr(module, "HttpProfile", lambda **k: original(**{**k, "endpoint": f"127.0.0.1:{hearth.port}", "protocol": "http"}))
    hearth.deploy(ECHO, name="inner")
    hearth.deploy("def main_handler(event, context):\n    raise ValueError('no')\n", name="inner-fails")
    client = module.Client(secret_id=pair["secret_id"], secret_key=pair["secret_key"], region="ap-guangzhou")
    assert json.loads(client.invoke("inner", data={"a": 1})) == {"a": 1}
    with pytest.raises(TencentServerlessSDKException) as raised:
        client.invoke("inner-fails")
    assert "ValueError: no" in str(raised.value.stack_trace)
    for name in ("inner", "inner-fails"):
        hearth.delete(name)
