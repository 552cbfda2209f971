"""API 3.0 through the official SDK, over a socket against a running instance: whole lives of functions, and every way to be refused."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

from tests.integration.instance import Instance, packed, wait_until
from tests.integration.scf import Client, Pair, new_pair

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

ECHO = "def main_handler(event, context):\n    print('seen', event)\n    return event\n"
FAILS = "def main_handler(event, context):\n    print('before')\n    raise ValueError('no ' + event['what'])\n"
SCHEMES = [("POST", "TC3-HMAC-SHA256"), ("GET", "TC3-HMAC-SHA256"), ("POST", "HmacSHA256"), ("GET", "HmacSHA1")]


@pytest.fixture(scope="module")
def pair(hearth: Instance) -> Pair:
    return new_pair(hearth)


@pytest.fixture(scope="module")
def scf(hearth: Instance, pair: Pair) -> Client:
    return Client(hearth, pair)


def make(scf: Client, name: str, code: Any = ECHO, **more: Any) -> str:
    scf.call("CreateFunction", FunctionName=name, Runtime="Python3", Handler="index.main_handler", Code={"ZipFile": packed(code)}, **more)
    return name


@pytest.fixture
def echo(scf: Client) -> Iterator[str]:
    yield make(scf, "echo")
    scf.call("DeleteFunction", FunctionName="echo")


@pytest.mark.parametrize(("method", "scheme"), SCHEMES)
def test_a_whole_life_of_a_function(hearth: Instance, pair: Pair, method: str, scheme: str) -> None:
    scf, name = Client(hearth, pair, method=method, scheme=scheme), f"life-{method}-{scheme}"
    scf.call(
        "CreateFunction",
        FunctionName=name,
        Runtime="Python3",
        Handler="index.main_handler",
        Description="größe 大小 😀",
        MemorySize=256,
        Timeout=5,
        InitTimeout=20,
        Code={"ZipFile": packed(ECHO)},
        Environment={"Variables": [{"Key": "GREETING", "Value": "héllo wörld & co"}]},
        Tags=[{"Key": "team", "Value": "blau"}],
        DeadLetterConfig={"Type": "queue", "Name": "t"},
        InstanceConcurrencyConfig={"DynamicEnabled": "FALSE", "MaxConcurrency": 5},
        Role="QCS_SCFExcuteRole",
        TraceEnable="TRUE",
    )
    shown = scf.call("GetFunction", FunctionName=name, ShowCode="TRUE")
    assert (shown["Status"], shown["Description"], shown["MemorySize"], shown["Timeout"], shown["InitTimeout"]) == (
        "Active",
        "größe 大小 😀",
        256,
        5,
        20,
    )
    assert shown["CodeInfo"] == ECHO and shown["FunctionId"].startswith("lam-") and shown["Runtime"] == "python3"
    assert shown["Environment"] == {"Variables": [{"Key": "GREETING", "Value": "héllo wörld & co"}]}
    assert shown["Tags"] == [{"Key": "team", "Value": "blau"}] and shown["Role"] == "QCS_SCFExcuteRole" and shown["TraceEnable"] == "TRUE"
    assert shown["DeadLetterConfig"]["Name"] == "t" and shown["InstanceConcurrencyConfig"]["MaxConcurrency"] == 5
    for action, field in (("Invoke", "ClientContext"), ("InvokeFunction", "Event")):
        result = scf.call(action, FunctionName=name, LogType="Tail", **{field: '{"a": "ü"}'})["Result"]
        assert json.loads(result["RetMsg"]) == {"a": "ü"} and result["InvokeResult"] == 0 and result["ErrMsg"] == ""
        assert result["Log"].startswith(f"START RequestId: {result['FunctionRequestId']}\n") and "seen {'a': 'ü'}" in result["Log"]
        assert result["BillDuration"] >= 1 and result["MemUsage"] > 0 and result["Duration"] > 0
    scf.call("UpdateFunctionCode", FunctionName=name, ZipFile=packed(ECHO.replace("return event", "return 'new'")))
    scf.call(
        "UpdateFunctionConfiguration",
        FunctionName=name,
        MemorySize=128,
        Environment={"Variables": [{"Key": "B", "Value": ""}]},
        PublicNetConfig={"PublicNetStatus": "DISABLE", "EipConfig": {"EipStatus": "DISABLE"}},
    )
    assert scf.call("Invoke", FunctionName=name)["Result"]["RetMsg"] == '"new"'
    shown = scf.call("GetFunction", FunctionName=name)
    assert (shown["MemorySize"], shown["Environment"], shown["CodeInfo"]) == (128, {"Variables": [{"Key": "B", "Value": ""}]}, "")
    assert shown["PublicNetConfig"]["PublicNetStatus"] == "DISABLE" and shown["Tags"] == [{"Key": "team", "Value": "blau"}]
    rest = hearth.request("GET", f"/v1/functions/{name}").body
    assert (rest["memory"], rest["network"], "scf" in rest) == (128, "none", False)
    scf.call("DeleteFunction", FunctionName=name)
    assert scf.refused("GetFunction", FunctionName=name) == "ResourceNotFound.Function"


def test_a_function_that_fails_is_a_result_and_not_an_error(hearth: Instance, scf: Client) -> None:
    name = make(scf, "fails", FAILS)
    answer = scf.call("Invoke", FunctionName=name, ClientContext='{"what": "luck"}', LogType="tail")
    result = answer["Result"]
    told = json.loads(result["RetMsg"])
    assert result["InvokeResult"] == 1 and result["FunctionRequestId"] == answer["RequestId"] == told["requestId"]
    assert (told["errorCode"], told["statusCode"]) == (-1, 430) and "ValueError: no luck" in told["stackTrace"]
    assert "ValueError: no luck" in result["ErrMsg"] and "before" in result["Log"] and "ERROR RequestId" in result["Log"]
    row = wait_until(
        lambda: scf.call("GetFunctionLogs", FunctionName=name, FunctionRequestId=answer["RequestId"])["Data"], "the record of the call"
    )[0]
    assert row["RetCode"] == 1 and "ValueError" in row["RetMsg"] and "before" in row["Log"] and row["InvokeFinished"] == 1
    slow = make(scf, "slow", "import time\ndef main_handler(event, context):\n    time.sleep(60)\n", Timeout=1)
    told = json.loads(scf.call("Invoke", FunctionName=slow)["Result"]["RetMsg"])
    assert told["statusCode"] == 433
    for function in (name, slow):
        scf.call("DeleteFunction", FunctionName=function)


def test_what_a_client_distinguishes(hearth: Instance, scf: Client, echo: str) -> None:
    zipped, big = packed(ECHO), base64.b64encode(b"not a zip").decode()
    create: dict[str, Any] = {"FunctionName": "wrong", "Runtime": "Python3", "Handler": "index.main_handler", "Code": {"ZipFile": zipped}}
    for changes, code in (
        ({"FunctionName": echo}, "ResourceInUse.Function"),
        ({"FunctionName": "1x"}, "InvalidParameterValue.FunctionName"),
        ({"FunctionName": None}, "MissingParameter"),
        ({"Code": {}}, "MissingParameter.Code"),
        ({"Code": {"ZipFile": "%%%"}}, "InvalidParameterValue.ZipFileBase64BinasciiError"),
        ({"Code": {"ZipFile": big}}, "InvalidParameterValue.ZipFile"),
        ({"Code": {"CosBucketName": "b", "CosObjectName": "/o"}}, "ResourceNotFound.Cos"),
        ({"Code": {"ImageConfig": {"ImageUri": "x"}}}, "ResourceNotFound.ImageConfig"),
        ({"Runtime": "Cobol85"}, "InvalidParameterValue.Runtime"),
        ({"Handler": "nowhere.main"}, "InvalidParameterValue.Handler"),
        ({"Handler": "index"}, "InvalidParameterValue.Handler"),
        ({"MemorySize": 100}, "InvalidParameterValue.MemorySize"),
        ({"Timeout": 100_000}, "LimitExceeded.Timeout"),
        ({"Environment": {"Variables": [{"Key": "SCF_X", "Value": "1"}]}}, "InvalidParameterValue.EnvironmentSystemProtect"),
        ({"Environment": {"Variables": [{"Key": "X", "Value": "x" * 5000}]}}, "InvalidParameterValue.EnvironmentExceededLimit"),
        ({"VpcConfig": {"VpcId": "vpc-1", "SubnetId": "s"}}, "ResourceNotFound.Vpc"),
        ({"ClsLogsetId": "a", "ClsTopicId": "b"}, "InvalidParameterValue.Cls"),
        ({"CfsConfig": {"CfsInsList": [{"CfsId": "x"}]}}, "ResourceNotFound.CfsMountInsNotMatch"),
        ({"PublicNetConfig": {"EipConfig": {"EipStatus": "ENABLE"}}}, "InvalidParameterValue.EipConfig"),
        ({"Type": "HTTP"}, "InvalidParameterValue.FunctionType"),
        ({"Layers": [{"LayerName": "none", "LayerVersion": 1}]}, "ResourceNotFound.Layer"),
        ({"DeadLetterConfig": {"Type": "topic", "Name": ""}}, "InvalidParameterValue.DeadLetterConfig"),
    ):
        assert scf.refused("CreateFunction", **{**create, **changes}) == code, changes
    for action, parameters, code in (
        ("GetFunction", {"FunctionName": "nobody"}, "ResourceNotFound.Function"),
        ("GetFunction", {}, "InvalidParameter.FunctionNameOrResourceIdRequired"),
        ("GetFunction", {"FunctionName": echo, "Qualifier": "7"}, "ResourceNotFound.Qualifier"),
        ("Invoke", {"FunctionName": "nobody"}, "ResourceNotFound.Function"),
        ("Invoke", {"FunctionName": echo, "ClientContext": "{"}, "InvalidParameterValue.Param"),
        ("InvokeFunction", {"FunctionName": echo, "Event": "NaN"}, "InvalidParameterValue.Param"),
        ("Invoke", {"FunctionName": echo, "InvocationType": "Later"}, "InvalidParameterValue.InvokeType"),
        ("Invoke", {"FunctionName": echo, "ClientContext": json.dumps("x" * 6 * 2**20)}, "InvalidParameter.RequestTooLarge"),
        ("ListFunctions", {"Order": "up"}, "InvalidParameterValue.Order"),
        ("ListFunctions", {"Orderby": "Colour"}, "InvalidParameterValue.OrderBy"),
        ("ListFunctions", {"Offset": -1}, "InvalidParameterValue.Offset"),
        ("ListFunctions", {"Filters": [{"Name": "Colour", "Values": ["x"]}]}, "InvalidParameterValue.Filters"),
        ("UpdateFunctionConfiguration", {"FunctionName": echo, "Runtime": "Python2.7"}, "InvalidParameterValue.Runtime"),
        ("UpdateFunctionCode", {"FunctionName": "nobody", "ZipFile": zipped}, "ResourceNotFound.Function"),
        ("DeleteFunction", {"FunctionName": "nobody"}, "ResourceNotFound.Function"),
        ("CreateCustomDomain", {"Domain": "x", "Protocol": "HTTP"}, "UnsupportedOperation"),
        ("GetFunctionLogs", {"FunctionName": "nobody"}, "ResourceNotFound.Function"),
        ("GetRequestStatus", {"FunctionName": "nobody", "FunctionRequestId": "x"}, "ResourceNotFound.Function"),
    ):
        assert scf.refused(action, **parameters) == code, (action, parameters)
    assert hearth.request("GET", "/v1/functions/wrong").status == 404


def test_wrong_keys_and_rights(hearth: Instance, pair: Pair, echo: str) -> None:
    assert Client(hearth, {**pair, "secret_key": "x"}).refused("ListFunctions") == "AuthFailure.SignatureFailure"
    assert Client(hearth, {**pair, "secret_id": "AKIDnobody"}).refused("ListFunctions") == "AuthFailure.SecretIdNotFound"
    reader, caller = Client(hearth, new_pair(hearth, scope="read")), Client(hearth, new_pair(hearth, scope="invoke"))
    assert reader.call("GetFunction", FunctionName=echo)["FunctionName"] == echo
    assert reader.refused("Invoke", FunctionName=echo) == caller.refused("GetFunction", FunctionName=echo) == "UnauthorizedOperation"
    assert caller.call("Invoke", FunctionName=echo)["Result"]["RetMsg"] == "{}"
    temporary = new_pair(hearth)
    with_key = Client(hearth, temporary)
    with_key.call("ListFunctions")
    hearth.request("DELETE", f"/v1/keys/{temporary['secret_id']}")
    # every HTTP worker, over connections of its own
    assert {Client(hearth, temporary).refused("ListFunctions") for _ in range(8)} == {"AuthFailure.SecretIdNotFound"}


def test_lists_are_filtered_ordered_and_paged(hearth: Instance, scf: Client) -> None:
    names = [f"page-{at}" for at in range(5)]
    for at, name in enumerate(names):
        make(scf, name, Description=f"Nummer {at}", Tags=[{"Key": "odd", "Value": str(at % 2)}])
    listed: Any = lambda **wanted: scf.call("ListFunctions", SearchKey="PAGE-", **wanted)  # noqa: E731
    shown: Any = lambda answer: [row["FunctionName"] for row in answer["Functions"]]  # noqa: E731
    first = listed(Orderby="FunctionName", Order="ASC", Offset=1, Limit=2)
    assert first["TotalCount"] == 5 and shown(first) == names[1:3]
    assert shown(listed(Orderby="AddTime", Order="DESC")) == names[::-1]
    assert shown(listed(Filters=[{"Name": "tag-odd", "Values": ["1"]}], Orderby="FunctionName", Order="ASC")) == names[1::2]
    assert shown(listed(Description="nummer 3")) == ["page-3"]
    assert shown(listed(Filters=[{"Name": "VpcId", "Values": ["vpc-1"]}])) == []
    assert (
        len(shown(listed(Filters=[{"Name": "Status", "Values": ["Active", "Creating"]}, {"Name": "Runtime", "Values": ["python3"]}]))) == 5
    )
    for name in names:
        scf.call("DeleteFunction", FunctionName=name)


def test_copies(hearth: Instance, scf: Client, echo: str) -> None:
    scf.call("UpdateFunctionConfiguration", FunctionName=echo, MemorySize=256, Role="r")
    scf.call("CopyFunction", FunctionName=echo, NewFunctionName="copy", Description="second")
    shown = scf.call("GetFunction", FunctionName="copy", ShowCode="TRUE")
    assert (shown["MemorySize"], shown["Description"], shown["CodeInfo"], shown["Role"]) == (256, "second", ECHO, "r")
    assert scf.refused("CopyFunction", FunctionName=echo, NewFunctionName="copy") == "ResourceInUse.Function"
    scf.call("CopyFunction", FunctionName=echo, NewFunctionName="copy", Override=True)
    assert scf.refused("CopyFunction", FunctionName=echo, NewFunctionName=echo) == "InvalidParameterValue.FunctionName"
    assert scf.refused("CopyFunction", FunctionName=echo, NewFunctionName="c2", TargetRegion="mars") == "UnsupportedOperation.Region"
    scf.call("CopyFunction", FunctionName=echo, NewFunctionName="bare", CopyConfiguration=False)
    assert scf.call("GetFunction", FunctionName="bare")["MemorySize"] == 128
    assert scf.call("Invoke", FunctionName="bare", ClientContext="7")["Result"]["RetMsg"] == "7"
    for name in ("copy", "bare"):
        scf.call("DeleteFunction", FunctionName=name)


def test_the_code_comes_back_by_a_signed_address(hearth: Instance, scf: Client, echo: str) -> None:
    found = scf.call("GetFunctionAddress", FunctionName=echo)
    answer = httpx.get(found["Url"], trust_env=False)
    assert answer.status_code == 200 and hashlib.sha256(answer.content).hexdigest() == found["CodeSha256"]
    assert zipfile.ZipFile(io.BytesIO(answer.content)).read("index.py").decode() == ECHO
    address = httpx.URL(found["Url"])
    for name, value in (("sha256", "0" * 64), ("expires", "9999999999"), ("signature", "0" * 64), ("expires", "x"), ("signature", "é")):
        assert httpx.get(address.copy_set_param(name, value), trust_env=False).status_code == 401
    assert httpx.get(f"{hearth.url}/scf/code", trust_env=False).status_code == 401


def test_records_are_found_again(hearth: Instance, scf: Client) -> None:
    name = make(scf, "logged", "import time\ndef main_handler(event, context):\n    print('x' * event['n'])\n    return event['r']\n")
    ids = [scf.call("Invoke", FunctionName=name, ClientContext=json.dumps({"n": at, "r": {"at": at}}))["RequestId"] for at in range(3)]
    ids.append(scf.call("Invoke", FunctionName=name, ClientContext="{}")["RequestId"])
    wait_until(lambda: scf.call("GetFunctionLogs", FunctionName=name)["TotalCount"] == 4, "all four records")
    rows = scf.call("GetFunctionLogs", FunctionName=name, Order="asc", OrderBy="start_time", Offset=1, Limit=2)["Data"]
    assert [row["RequestId"] for row in rows] == ids[1:3] and json.loads(rows[0]["RetMsg"]) == {"at": 1}
    assert rows[1]["Log"].splitlines()[2] == "xx" and rows[1]["Log"].splitlines()[-1].startswith(f"Report RequestId: {ids[2]} Duration:")
    failed = scf.call("GetFunctionLogs", FunctionName=name, Filter={"RetCode": "not0"})["Data"]
    assert [row["RequestId"] for row in failed] == ids[3:]
    assert scf.call("GetFunctionLogs", FunctionName=name, Filter={"RetCode": "UserCodeException"})["TotalCount"] == 1
    assert scf.call("GetFunctionLogs", FunctionName=name, Filter={"RetCode": "TimeLimitExceeded"})["TotalCount"] == 0
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + 60))
    before = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - 600))
    assert scf.call("GetFunctionLogs", FunctionName=name, StartTime=before, EndTime=now)["TotalCount"] == 4
    assert scf.refused("GetFunctionLogs", FunctionName=name, StartTime=now, EndTime=before) == "InvalidParameterValue.StartTimeOrEndTime"
    assert scf.refused("GetFunctionLogs", FunctionName=name, Offset=9_990, Limit=20) == "InvalidParameterValue.Limit"
    status = scf.call("GetRequestStatus", FunctionName=name, FunctionRequestId=ids[0])
    assert status["TotalCount"] == 1 and status["Data"][0]["RetCode"] == 0 and 0 < status["Data"][0]["MemUsage"] < 128
    assert scf.call("GetRequestStatus", FunctionName=name, FunctionRequestId=ids[3])["Data"][0]["RetCode"] == -1
    assert scf.call("GetRequestStatus", FunctionName=name, FunctionRequestId="unknown")["TotalCount"] == 0
    scf.call("DeleteFunction", FunctionName=name)


@pytest.mark.parametrize(("method", "scheme"), [("POST", "TC3-HMAC-SHA256"), ("POST", "HmacSHA256")])
def test_six_megabytes_each_way(hearth: Instance, pair: Pair, echo: str, method: str, scheme: str) -> None:
    scf = Client(hearth, pair, method=method, scheme=scheme)
    event = json.dumps("é" * (3 * 2**20 - 16) + '"\\\n', ensure_ascii=False)
    assert len(event.encode()) > 6 * 2**20 - 100
    result = scf.call("Invoke", FunctionName=echo, ClientContext=event)["Result"]
    assert json.loads(result["RetMsg"]) == json.loads(event)


def test_two_hundred_calls_at_once(hearth: Instance, pair: Pair) -> None:
    scf = Client(hearth, pair)
    name = make(scf, "many", "def main_handler(event, context):\n    return event\n")
    hearth.request("PATCH", f"/v1/functions/{name}", json={"concurrency": 1000})

    def one(at: int) -> int:
        method, scheme = SCHEMES[at % 4]
        own = Client(hearth, pair, method=method, scheme=scheme)
        request = {"FunctionName": name, "ClientContext": str(at)}
        while True:
            try:
                return int(json.loads(own.sdk.call("Invoke", request))["Response"]["Result"]["RetMsg"])
            except TencentCloudSDKException as error:
                if error.code != "ResourceInsufficient":  # this machine is small; nothing ran, so asking again is right
                    raise

    with ThreadPoolExecutor(200) as pool:
        assert list(pool.map(one, range(200))) == list(range(200))
    scf.call("DeleteFunction", FunctionName=name)


def test_a_concurrency_limit_is_what_the_sdks_retries_look_for(hearth: Instance, scf: Client) -> None:
    name = make(scf, "single", "import time\ndef main_handler(event, context):\n    time.sleep(1)\n")
    hearth.request("PATCH", f"/v1/functions/{name}", json={"concurrency": 1})
    running = hearth.call_soon(name)
    wait_until(lambda: any(row["state"] == "leased" for row in hearth.sandboxes(name)), "a call that runs")
    assert scf.refused("Invoke", FunctionName=name) == "RequestLimitExceeded"
    assert running.result().outcome == (200, 200)
    scf.call("DeleteFunction", FunctionName=name)


def test_fifty_megabytes_of_code(hearth: Instance, scf: Client) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("index.py", ECHO)
        archive.writestr("data.bin", os.urandom(49 * 2**20))
    scf.call("CreateFunction", FunctionName="heavy", Runtime="Python3", Code={"ZipFile": base64.b64encode(out.getvalue()).decode()})
    assert scf.call("GetFunction", FunctionName="heavy")["CodeSize"] == len(out.getvalue())
    assert scf.call("Invoke", FunctionName="heavy", ClientContext="1")["Result"]["RetMsg"] == "1"
    scf.call("DeleteFunction", FunctionName="heavy")
