"""Quotas, provisioned workers, the account and the walls between namespaces, through the official SDK against a running instance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

from server.scf.table import KNOWN
from tests.integration.instance import Instance, leaving_nothing, packed, wait_until
from tests.integration.scf import Client, Pair, new_pair, tccli

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

ECHO = "def main_handler(event, context):\n    return context['function_version']\n"
NOON = {"TriggerName": "noon", "TriggerProvisionedConcurrencyNum": 2, "TriggerCronConfig": "0 0 12 * * * *"}


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    with leaving_nothing(start(limit_provisioned=5, limit_provisioned_actions=1, limit_total_mb=200_000, limit_functions=20)) as instance:
        yield instance


@pytest.fixture(scope="module")
def pair(hearth: Instance) -> Pair:
    return new_pair(hearth)


@pytest.fixture(scope="module")
def scf(hearth: Instance, pair: Pair) -> Client:
    return Client(hearth, pair)


def make(scf: Client, name: str, **more: Any) -> str:
    code = {"ZipFile": packed(ECHO)}
    scf.call("CreateFunction", FunctionName=name, Runtime="Python3", Handler="index.main_handler", Code=code, **more)
    scf.call("PublishVersion", FunctionName=name, **more)
    return name


@pytest.fixture
def name(scf: Client) -> Iterator[str]:
    """A function with a version 1."""
    yield make(scf, "busy")
    scf.call("DeleteFunction", FunctionName="busy")


def listed(scf: Client, name: str) -> tuple[int | None, int]:
    row = next(row for row in scf.call("ListFunctions")["Functions"] if row["FunctionName"] == name)
    return row["ReservedConcurrencyMem"], row["TotalProvisionedConcurrencyMem"]


def test_reservations_and_totals(hearth: Instance, scf: Client, name: str) -> None:
    assert scf.call("GetReservedConcurrencyConfig", FunctionName=name)["ReservedMem"] is None and listed(scf, name) == (None, 0)
    scf.call("PutReservedConcurrencyConfig", FunctionName=name, ReservedConcurrencyMem=1280)
    assert scf.call("GetReservedConcurrencyConfig", FunctionName=name)["ReservedMem"] == 1280 and listed(scf, name) == (1280, 0)
    assert hearth.request("GET", f"/v1/functions/{name}/concurrency").body["reserved_mb"] == 1280
    scf.call("PutReservedConcurrencyConfig", FunctionName=name, ReservedConcurrencyMem=0)
    assert scf.call("GetReservedConcurrencyConfig", FunctionName=name)["ReservedMem"] == 0 and listed(scf, name) == (0, 0)
    assert scf.refused("Invoke", FunctionName=name) == "RequestLimitExceeded"
    scf.call("DeleteReservedConcurrencyConfig", FunctionName=name)
    assert scf.call("Invoke", FunctionName=name)["Result"]["RetMsg"] == '"$LATEST"' and listed(scf, name) == (None, 0)
    scf.call("PutTotalConcurrencyConfig", TotalConcurrencyMem=130_000, Namespace="default")
    scf.call("PutReservedConcurrencyConfig", FunctionName=name, ReservedConcurrencyMem=12_800)
    for action, parameters, code in (
        ("PutReservedConcurrencyConfig", {"ReservedConcurrencyMem": 130_001}, "FailedOperation.ReservedExceedTotal"),
        ("PutReservedConcurrencyConfig", {"ReservedConcurrencyMem": 129_000}, "LimitExceeded.FunctionReservedConcurrencyMemory"),
        ("PutReservedConcurrencyConfig", {"ReservedConcurrencyMem": -1}, "InvalidParameterValue"),
        ("PutReservedConcurrencyConfig", {}, "MissingParameter"),
        ("PutReservedConcurrencyConfig", {"FunctionName": "nobody", "ReservedConcurrencyMem": 1}, "ResourceNotFound.Function"),
        ("GetReservedConcurrencyConfig", {"FunctionName": "nobody"}, "ResourceNotFound.Function"),
        ("DeleteReservedConcurrencyConfig", {"Namespace": "nowhere"}, "ResourceNotFound.Namespace"),
    ):
        assert scf.refused(action, **{"FunctionName": name, **parameters}) == code, (action, parameters)
    for total, where, code in (
        (12_900, "default", "LimitExceeded.TotalConcurrencyMemory"),
        (200_001, "default", "LimitExceeded.UserTotalConcurrencyMemory"),
        (0, "default", "InvalidParameterValue"),
        (1280, "nowhere", "ResourceNotFound.Namespace"),
        (None, "default", "MissingParameter"),
    ):
        assert scf.refused("PutTotalConcurrencyConfig", TotalConcurrencyMem=total, Namespace=where) == code, (total, where)
    scf.call("DeleteReservedConcurrencyConfig", FunctionName=name)
    scf.call("PutTotalConcurrencyConfig", TotalConcurrencyMem=128_000)


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_provisioned_workers(hearth: Instance, pair: Pair, name: str, method: str) -> None:
    scf = Client(hearth, pair, method=method)
    named = {"FunctionName": name, "Qualifier": "1"}
    nothing = scf.call("GetProvisionedConcurrencyConfig", FunctionName=name)
    assert (nothing["Allocated"], nothing["UnallocatedConcurrencyNum"]) == ([], 1000)
    scf.call(
        "PutProvisionedConcurrencyConfig", **named, VersionProvisionedConcurrencyNum=1, ProvisionedType="Default", TriggerActions=[NOON]
    )
    assert listed(scf, name) == (None, 256)
    wanted = {"Qualifier": "1", "AllocatedProvisionedConcurrencyNum": 1, "StatusReason": ""}
    wanted["TriggerActions"] = [{**NOON, "ProvisionedType": "Default"}]  # type: ignore[assignment]

    def done() -> dict[str, Any] | None:
        [row] = scf.call("GetProvisionedConcurrencyConfig", **named)["Allocated"]
        assert row["Status"] in ("InProgress", "Done") and {key: row[key] for key in wanted} == wanted
        return dict(row) if row["Status"] == "Done" else None

    assert wait_until(done, "the worker")["AvailableProvisionedConcurrencyNum"] == 1
    assert hearth.sandboxes(name) and hearth.request("GET", f"/v1/functions/{name}/versions/1/provisioned").body["status"] == "done"
    all_of_it = scf.call("GetProvisionedConcurrencyConfig", FunctionName=name)
    assert [row["Qualifier"] for row in all_of_it["Allocated"]] == ["1"] and all_of_it["UnallocatedConcurrencyNum"] == 998
    scf.call("PublishVersion", FunctionName=name)
    assert scf.call("GetProvisionedConcurrencyConfig", FunctionName=name, Qualifier="2")["Allocated"] == []
    scf.call("DeleteProvisionedConcurrencyConfig", **named)
    assert scf.call("GetProvisionedConcurrencyConfig", **named)["Allocated"] == [] and listed(scf, name) == (None, 0)


def test_a_version_that_does_not_load_is_a_failed_one(scf: Client) -> None:
    code = {"ZipFile": packed("raise RuntimeError('broken')\ndef main_handler(event, context):\n    pass\n")}
    scf.call("CreateFunction", FunctionName="broken", Runtime="Python3", Handler="index.main_handler", Code=code)
    scf.call("PublishVersion", FunctionName="broken")
    named = {"FunctionName": "broken", "Qualifier": "1"}
    scf.call("PutProvisionedConcurrencyConfig", **named, VersionProvisionedConcurrencyNum=1)

    def failed() -> dict[str, Any] | None:
        [row] = scf.call("GetProvisionedConcurrencyConfig", **named)["Allocated"]
        return dict(row) if row["Status"] == "Failed" else None

    row = wait_until(failed, "the failure")
    assert row["StatusReason"] and row["AvailableProvisionedConcurrencyNum"] == 0
    scf.call("DeleteFunction", FunctionName="broken")


def test_what_is_refused_of_provisioned_workers(scf: Client, name: str) -> None:
    put: dict[str, Any] = {"FunctionName": name, "Qualifier": "1", "VersionProvisionedConcurrencyNum": 1}
    for changes, code in (
        ({"Qualifier": "$LATEST"}, "InvalidParameterValue.Qualifier"),
        ({"Qualifier": "9"}, "ResourceNotFound.Qualifier"),
        ({"Qualifier": None}, "MissingParameter"),
        ({"VersionProvisionedConcurrencyNum": None}, "MissingParameter"),
        ({"VersionProvisionedConcurrencyNum": 6}, "LimitExceeded.FunctionTotalProvisionedConcurrencyNum"),
        ({"VersionProvisionedConcurrencyNum": -1}, "InvalidParameterValue"),
        ({"ProvisionedType": "ConcurrencyUtilizationTracking"}, "InvalidParameterValue.ProvisionType"),
        ({"TriggerActions": [NOON, {**NOON, "TriggerName": "b"}]}, "LimitExceeded.ProvisionTriggerAction"),
        ({"TriggerActions": [{**NOON, "TriggerCronConfig": "* * * * *"}]}, "InvalidParameterValue.TriggerCronConfig"),
        ({"TriggerActions": [{**NOON, "TriggerName": "no name"}]}, "InvalidParameterValue.ProvisionTriggerName"),
        (
            {"TriggerActions": [{**NOON, "TriggerProvisionedConcurrencyNum": -1}]},
            "InvalidParameterValue.TriggerProvisionedConcurrencyNum",
        ),
        ({"FunctionName": "nobody"}, "ResourceNotFound.Function"),
    ):
        assert scf.refused("PutProvisionedConcurrencyConfig", **{**put, **changes}) == code, changes
    scf.call("PutReservedConcurrencyConfig", FunctionName=name, ReservedConcurrencyMem=128)
    more = {**put, "VersionProvisionedConcurrencyNum": 2}
    assert scf.refused("PutProvisionedConcurrencyConfig", **more) == "FailedOperation.ProvisionedExceedReserved"
    assert scf.call("GetProvisionedConcurrencyConfig", FunctionName=name)["UnallocatedConcurrencyNum"] == 1
    scf.call("DeleteReservedConcurrencyConfig", FunctionName=name)
    scf.call("PutTotalConcurrencyConfig", TotalConcurrencyMem=200)
    assert scf.refused("PutProvisionedConcurrencyConfig", **more) == "FailedOperation.ProvisionedExceedAvailable"
    scf.call("PutTotalConcurrencyConfig", TotalConcurrencyMem=128_000)
    for action in ("GetProvisionedConcurrencyConfig", "DeleteProvisionedConcurrencyConfig"):
        assert scf.refused(action, FunctionName=name, Qualifier="9") == "ResourceNotFound.Qualifier"


def test_the_account_is_what_there_is(hearth: Instance, scf: Client, name: str) -> None:
    scf.call("CreateNamespace", Namespace="empty")
    scf.call("PutReservedConcurrencyConfig", FunctionName=name, ReservedConcurrencyMem=1280)
    scf.call("PutProvisionedConcurrencyConfig", FunctionName=name, Qualifier="1", VersionProvisionedConcurrencyNum=2)
    found = scf.call("GetAccount")
    usage, limits = found["AccountUsage"], found["AccountLimit"]
    assert (usage["NamespacesCount"], usage["TotalConcurrencyMem"], usage["TotalAllocatedConcurrencyMem"]) == (2, 256_000, 1280)
    assert usage["Namespace"][0] == {
        "Namespace": "default",
        "Functions": [name],
        "FunctionsCount": 1,
        "TotalConcurrencyMem": 128_000,
        "TotalAllocatedConcurrencyMem": 1280,
        "TotalAllocatedProvisionedMem": 256,
    }
    assert (usage["Namespace"][1]["Namespace"], usage["Namespace"][1]["Functions"]) == ("empty", [])
    assert limits["NamespacesCount"] == 5 and [row["Namespace"] for row in limits["Namespace"]] == ["default", "empty"]
    row = limits["Namespace"][0]
    assert (row["FunctionsCount"], row["TimeoutLimit"], row["InitTimeoutLimit"], row["Trigger"]["Timer"]) == (20, 300, 300, 2)
    assert row["ConcurrentExecutions"] == 1000 and row["TestModelLimit"] == 0
    assert (row["RetryNumLimit"], row["MinMsgTTL"], row["MaxMsgTTL"]) == (2, 60, 21_600)
    config = {"RetryConfig": [{"RetryNum": row["RetryNumLimit"]}], "MsgTTL": row["MaxMsgTTL"]}
    scf.call("UpdateFunctionEventInvokeConfig", FunctionName=name, AsyncTriggerConfig=config)
    for beyond in ({"RetryConfig": [{"RetryNum": row["RetryNumLimit"] + 1}]}, {"MsgTTL": row["MaxMsgTTL"] + 1}, {"MsgTTL": 59}):
        assert scf.refused("UpdateFunctionEventInvokeConfig", FunctionName=name, AsyncTriggerConfig={**config, **beyond})
    # HTTP triggers, ten of them, are none of SCF's kinds: the total alone has them.
    assert row["Trigger"]["Cos"] == 2 and row["Trigger"]["Total"] >= row["Trigger"]["Timer"] + row["Trigger"]["Cos"] + 10
    for at in range(row["Trigger"]["Timer"]):
        trigger = {"FunctionName": name, "Type": "timer", "TriggerDesc": "0 0 0 1 1 * 2099"}
        scf.call("CreateTrigger", TriggerName=f"timer{at}", **trigger)
    assert scf.refused("CreateTrigger", TriggerName="more", **trigger) == "LimitExceeded.Trigger"
    scf.call("DeleteFunctionVersion", FunctionName=name, Qualifier="1")
    scf.call("DeleteReservedConcurrencyConfig", FunctionName=name)
    scf.call("DeleteNamespace", Namespace="empty")
    usage = scf.call("GetAccount")["AccountUsage"]
    assert usage["NamespacesCount"] == 1 and usage["Namespace"][0]["TotalAllocatedProvisionedMem"] == 0


def test_tccli_knows_them_too(hearth: Instance, pair: Pair, name: str, tmp_path: Path) -> None:
    run = tccli(hearth, pair, tmp_path)

    def good(action: str, *arguments: str) -> dict[str, Any]:
        done = run(action, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    good("PutReservedConcurrencyConfig", "--FunctionName", name, "--ReservedConcurrencyMem", "256")
    assert good("GetReservedConcurrencyConfig", "--FunctionName", name)["ReservedMem"] == 256
    version = ("--FunctionName", name, "--Qualifier", "1")
    good("PutProvisionedConcurrencyConfig", *version, "--VersionProvisionedConcurrencyNum", "1", "--TriggerActions", json.dumps([NOON]))
    assert good("GetProvisionedConcurrencyConfig", *version)["Allocated"][0]["TriggerActions"][0]["TriggerName"] == "noon"
    assert good("GetAccount")["AccountUsage"]["Namespace"][0]["TotalAllocatedProvisionedMem"] == 256
    done = run("PutTotalConcurrencyConfig", "--TotalConcurrencyMem", "999999")
    assert done.returncode == 255 and "LimitExceeded.UserTotalConcurrencyMemory" in done.stderr


# A user is a namespace --------------------------------------------------------------------------------------------------------

#: Whatever any action may want to know, of another's function.
FOREIGN: dict[str, Any] = {
    "FunctionName": "theirs",
    "NewFunctionName": "stolen",
    "Namespace": "default",
    "TargetNamespace": "default",
    "Qualifier": "1",
    "Name": "$DEFAULT",
    "FunctionVersion": "1",
    "LayerName": "theirs",
    "LayerVersion": 1,
    "CompatibleRuntimes": ["Python3"],
    "Content": {"ZipFile": packed({"a": "b"})},
    "Code": {"ZipFile": packed(ECHO)},
    "FunctionRequestId": "x",
    "ReservedConcurrencyMem": 0,
    "TotalConcurrencyMem": 200,
    "VersionProvisionedConcurrencyNum": 1,
    "Description": "stolen",
}
#: What succeeds where no namespace is named, in the pair's own.
MAKING = ("PublishLayerVersion", "CreateFunction")
OWN = (*MAKING, "ListFunctions", "ListLayers", "ListNamespaces", "GetAccount")


@pytest.fixture
def alice(hearth: Instance, scf: Client) -> Iterator[Client]:
    """The client of a user. In `default` there are a function and a layer `theirs`."""
    scf.call("CreateNamespace", Namespace="alice")
    make(scf, "theirs")
    scf.call("PublishLayerVersion", LayerName="theirs", CompatibleRuntimes=["Python3"], Content=FOREIGN["Content"])
    yield Client(hearth, new_pair(hearth, scope="all", namespace="alice"))
    own = Client(hearth, new_pair(hearth, namespace="alice"))
    for row in own.call("ListLayers")["Layers"]:
        own.call("DeleteLayerVersion", LayerName=row["LayerName"], LayerVersion=row["LayerVersion"])
    for row in scf.call("ListFunctions", Namespace="alice")["Functions"]:
        scf.call("DeleteFunction", FunctionName=row["FunctionName"], Namespace="alice")
    scf.call("DeleteFunction", FunctionName="theirs")
    scf.call("DeleteLayerVersion", LayerName="theirs", LayerVersion=their_layer(scf))
    scf.call("DeleteNamespace", Namespace="alice")


def their_layer(scf: Client) -> int:
    """Its number, which is new each time."""
    return int(scf.call("ListLayers", SearchKey="theirs")["Layers"][0]["LayerVersion"])


def state(hearth: Instance) -> list[Any]:
    """All that is of `default`, as REST shows it."""
    paths = ("", "/theirs/versions", "/theirs/aliases", "/theirs/concurrency", "/theirs/versions/1/provisioned")
    found = [hearth.request("GET", f"/v1/functions{path}").body for path in paths]
    return [*found, hearth.request("GET", "/v1/layers").body, hearth.request("GET", "/v1/namespaces").body]


@pytest.mark.parametrize("named", [True, False])
def test_no_action_reaches_another_s_namespace(hearth: Instance, scf: Client, alice: Client, named: bool) -> None:
    """Every action there is: with the other namespace named, and with none, where the pair's own is meant."""
    before, account = state(hearth), hearth.request("GET", "/v1/account").body["namespaces"]
    wishes = {key: value for key, value in FOREIGN.items() if named or not key.endswith("Namespace")} | {"LayerVersion": their_layer(scf)}
    for action in [*sorted(KNOWN - {*MAKING}), *MAKING]:
        answer = raw(alice, action, wishes)["Response"]
        code = answer.get("Error", {}).get("Code", "")
        assert "theirs" not in json.dumps(answer), (action, answer)
        if named:
            assert code == "UnauthorizedOperation", (action, answer)
        else:
            assert bool(code) != (action in OWN), (action, answer)
    assert state(hearth) == before and hearth.request("GET", "/v1/account").body["namespaces"][1] == account[1]


def raw(client: Client, action: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """An answer as it came, whatever the SDK would make of it."""
    try:
        return dict(json.loads(client.sdk.call(action, parameters)))
    except TencentCloudSDKException as error:
        return {"Response": {"Error": {"Code": error.code}}}


def test_a_user_has_all_of_it_at_home(hearth: Instance, scf: Client, alice: Client) -> None:
    make(alice, "mine")
    assert alice.call("Invoke", FunctionName="mine")["Result"]["InvokeResult"] == 0
    alice.call("CreateAlias", FunctionName="mine", Name="prod", FunctionVersion="1")
    alice.call("PutReservedConcurrencyConfig", FunctionName="mine", ReservedConcurrencyMem=256)
    alice.call("PutProvisionedConcurrencyConfig", FunctionName="mine", Qualifier="1", VersionProvisionedConcurrencyNum=1)
    assert (
        alice.call("PublishLayerVersion", LayerName="own", CompatibleRuntimes=["Python3"], Content=FOREIGN["Content"])["LayerVersion"] == 1
    )
    alice.call("UpdateFunctionConfiguration", FunctionName="mine", Layers=[{"LayerName": "own", "LayerVersion": 1}])
    theirs = [{"LayerName": "theirs", "LayerVersion": their_layer(scf)}]
    assert alice.refused("UpdateFunctionConfiguration", FunctionName="mine", Layers=theirs) == "ResourceNotFound.Layer"
    alice.call("UpdateNamespace", Namespace="alice", Description="my own")
    assert [(row["Name"], row["Description"]) for row in alice.call("ListNamespaces")["Namespaces"]] == [("alice", "my own")]
    assert [row["FunctionName"] for row in alice.call("ListFunctions")["Functions"]] == ["mine"]
    scf.call("PutTotalConcurrencyConfig", Namespace="alice", TotalConcurrencyMem=16_000)
    account = alice.call("GetAccount")
    assert account["AccountUsage"]["TotalConcurrencyMem"] == 16_000 and account["AccountUsage"]["NamespacesCount"] == 1
    assert [row["Namespace"] for row in account["AccountLimit"]["Namespace"]] == ["alice"]
    # How much a user may have is not the user's to say, nor to reset by beginning anew.
    assert alice.refused("PutTotalConcurrencyConfig", TotalConcurrencyMem=128_000, Namespace="alice") == "UnauthorizedOperation"
    assert alice.refused("DeleteNamespace", Namespace="alice") == "UnauthorizedOperation"
    assert hearth.request("GET", "/v1/functions/mine").status == 404
    assert hearth.request("GET", "/v1/functions/mine?namespace=alice").body["layers"] == [{"name": "own", "version": 1}]
    alice.call("DeleteFunction", FunctionName="mine")
    alice.call("DeleteLayerVersion", LayerName="own", LayerVersion=1)
