"""Versions, aliases, namespaces and layers through the official SDK and tccli, against a running instance."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.instance import Instance, leaving_nothing, packed, wait_until
from tests.integration.scf import Client, Pair, new_pair, tccli

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

ROUTINGS = [("POST", "TC3-HMAC-SHA256"), ("GET", "TC3-HMAC-SHA256"), ("POST", "HmacSHA256")]
USERS = "invoke.headers.user"


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    with leaving_nothing(start(limit_versions=4, limit_aliases=4, limit_namespaces=3, limit_layers=2, limit_layer_versions=3)) as instance:
        yield instance


@pytest.fixture(scope="module")
def pair(hearth: Instance) -> Pair:
    return new_pair(hearth)


@pytest.fixture(scope="module")
def scf(hearth: Instance, pair: Pair) -> Client:
    return Client(hearth, pair)


def says(text: str) -> str:
    return f"def main_handler(event, context):\n    return {text!r} + ' ' + context['function_version'] + ' ' + context['namespace']\n"


def make(scf: Client, name: str, code: Any, **more: Any) -> str:
    scf.call("CreateFunction", FunctionName=name, Runtime="Python3", Handler="index.main_handler", Code={"ZipFile": packed(code)}, **more)
    return name


@pytest.fixture
def name(scf: Client) -> Iterator[str]:
    """Its version 1 says one, 2 says two, `$LATEST` says new."""
    made = make(scf, "many", says("one"))
    for at, text in enumerate(("two", "new"), 1):
        assert scf.call("PublishVersion", FunctionName=made, Description=f"Nummer {at} größer")["FunctionVersion"] == str(at)
        scf.call("UpdateFunctionCode", FunctionName=made, ZipFile=packed(says(text)))
    yield made
    scf.call("DeleteFunction", FunctionName=made)


def said(scf: Client, name: str, action: str = "Invoke", **more: Any) -> str:
    result = scf.call(action, FunctionName=name, **more)["Result"]
    assert result["InvokeResult"] == 0, result
    return str(json.loads(result["RetMsg"])).partition(" ")[0]


# Versions -------------------------------------------------------------------------------------------------------------------


def test_an_update_publishes_what_it_made_or_changes_nothing(scf: Client, name: str) -> None:
    scf.call("UpdateFunctionCode", FunctionName=name, ZipFile=packed(says("three")), Publish="TRUE")
    assert [said(scf, name, Qualifier=one) for one in ("2", "3", "$LATEST")] == ["two", "three", "three"]
    scf.call("UpdateFunctionConfiguration", FunctionName=name, MemorySize=256, Description="größer", Publish="TRUE")
    assert scf.call("ListVersionByFunction", FunctionName=name)["FunctionVersion"] == ["$LATEST", "1", "2", "3", "4"]
    assert [scf.call("GetFunction", FunctionName=name, Qualifier=one)["MemorySize"] for one in ("3", "4")] == [128, 256]
    assert scf.call("ListVersionByFunction", FunctionName=name)["Versions"][4]["Description"] == "größer"
    full = "LimitExceeded.FunctionVersions"
    assert scf.refused("UpdateFunctionCode", FunctionName=name, ZipFile=packed(says("four")), Publish="TRUE") == full
    assert scf.refused("UpdateFunctionConfiguration", FunctionName=name, MemorySize=384, Publish="TRUE") == full
    assert said(scf, name) == "three" and scf.call("GetFunction", FunctionName=name)["MemorySize"] == 256
    scf.call("UpdateFunctionCode", FunctionName=name, ZipFile=packed(says("four")), Publish="FALSE")
    assert said(scf, name) == "four"


def test_versions_are_published_listed_and_deleted(hearth: Instance, scf: Client, name: str) -> None:
    scf.call("UpdateFunctionConfiguration", FunctionName=name, MemorySize=256, Timeout=7, Description="of the function")
    published = scf.call("PublishVersion", FunctionName=name)
    assert {
        key: published[key] for key in ("FunctionVersion", "MemorySize", "Timeout", "Description", "Handler", "Namespace", "Runtime")
    } == {
        "FunctionVersion": "3",
        "MemorySize": 256,
        "Timeout": 7,
        "Description": "of the function",
        "Handler": "index.main_handler",
        "Namespace": "default",
        "Runtime": "python3",
    }
    assert published["CodeSize"] == scf.call("GetFunction", FunctionName=name)["CodeSize"]
    listed = scf.call("ListVersionByFunction", FunctionName=name)
    assert listed["FunctionVersion"] == ["$LATEST", "1", "2", "3"] and listed["TotalCount"] == 4
    assert [row["Description"] for row in listed["Versions"][1:3]] == ["Nummer 1 größer", "Nummer 2 größer"]
    assert {row["Status"] for row in listed["Versions"]} == {"Active"} and listed["Versions"][1]["AddTime"]
    page = scf.call("ListVersionByFunction", FunctionName=name, Offset=1, Limit=2, Order="DESC", OrderBy="ModTime")
    assert page["FunctionVersion"] == ["3", "2"] and page["TotalCount"] == 4
    shown = [scf.call("GetFunction", FunctionName=name, Qualifier=qualifier) for qualifier in ("1", "3", "$LATEST")]
    assert [(one["FunctionVersion"], one["Qualifier"], one["MemorySize"]) for one in shown] == [
        ("1", "1", 128),
        ("3", "3", 256),
        ("$LATEST", "$LATEST", 256),
    ]
    assert len({one["FunctionId"] for one in shown}) == 1
    assert [said(scf, name, Qualifier=one) for one in ("1", "2", "3", "$LATEST")] == ["one", "two", "new", "new"]
    assert said(scf, name) == "new" and said(scf, name, "InvokeFunction") == "new"
    assert [row["version"] for row in hearth.request("GET", f"/v1/functions/{name}/versions").body["versions"]] == listed["FunctionVersion"]
    scf.call("PublishVersion", FunctionName=name)
    assert scf.refused("PublishVersion", FunctionName=name) == "LimitExceeded.FunctionVersions"
    scf.call("DeleteFunctionVersion", FunctionName=name, Qualifier="3")
    scf.call("DeleteFunction", FunctionName=name, Qualifier="4")
    assert scf.call("PublishVersion", FunctionName=name)["FunctionVersion"] == "5"
    assert scf.refused("Invoke", FunctionName=name, Qualifier="3") == "ResourceNotFound.Qualifier"
    assert said(scf, name, Qualifier="1") == "one"


def test_what_is_refused_of_versions(scf: Client, name: str) -> None:
    scf.call("CreateAlias", FunctionName=name, Name="prod", FunctionVersion="1")
    for action, parameters, code in (
        ("PublishVersion", {"FunctionName": "nobody"}, "ResourceNotFound.Function"),
        ("PublishVersion", {}, "MissingParameter"),
        ("PublishVersion", {"FunctionName": name, "Description": "x" * 1001}, "InvalidParameterValue.Description"),
        ("PublishVersion", {"FunctionName": name, "Namespace": "nowhere"}, "ResourceNotFound.Namespace"),
        ("ListVersionByFunction", {"FunctionName": "nobody"}, "ResourceNotFound.Function"),
        ("ListVersionByFunction", {"FunctionName": name, "OrderBy": "Colour"}, "InvalidParameterValue.OrderBy"),
        ("ListVersionByFunction", {"FunctionName": name, "Limit": -1}, "InvalidParameterValue.Limit"),
        ("DeleteFunctionVersion", {"FunctionName": name}, "MissingParameter"),
        ("DeleteFunctionVersion", {"FunctionName": name, "Qualifier": "9"}, "ResourceNotFound.FunctionVersion"),
        ("DeleteFunctionVersion", {"FunctionName": name, "Qualifier": "$LATEST"}, "InvalidParameterValue.Qualifier"),
        ("DeleteFunctionVersion", {"FunctionName": name, "Qualifier": "1"}, "UnsupportedOperation.AliasBind"),
        ("DeleteFunction", {"FunctionName": name, "Qualifier": "1"}, "UnsupportedOperation.AliasBind"),
        ("DeleteFunction", {"FunctionName": name, "Qualifier": "$LATEST"}, "InvalidParameterValue.Qualifier"),
    ):
        assert scf.refused(action, **parameters) == code, (action, parameters)
    scf.call("DeleteFunctionVersion", FunctionName=name, Qualifier="1", ForceDelete="true")
    assert scf.refused("GetAlias", FunctionName=name, Name="prod") == "ResourceNotFound.Alias"
    assert scf.call("ListVersionByFunction", FunctionName=name)["FunctionVersion"] == ["$LATEST", "2"]


# Aliases --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "scheme"), ROUTINGS)
def test_aliases_lead_calls_to_versions(hearth: Instance, pair: Pair, name: str, method: str, scheme: str) -> None:
    scf = Client(hearth, pair, method=method, scheme=scheme)
    routing: dict[str, Any] = {
        "AdditionalVersionWeights": [{"Version": "2", "Weight": 0.5}],
        "AddtionVersionMatchs": [
            {"Version": "$LATEST", "Key": USERS, "Method": "exact", "Expression": "vip"},
            {"Version": "2", "Key": USERS, "Method": "range", "Expression": "[10,20]"},
        ],
    }
    scf.call("CreateAlias", FunctionName=name, Name="prod", FunctionVersion="1", Description="größe", RoutingConfig=routing)
    shown = scf.call("GetAlias", FunctionName=name, Name="prod")
    assert (shown["FunctionVersion"], shown["Name"], shown["Description"], shown["RoutingConfig"]) == ("1", "prod", "größe", routing)
    keyed: Any = lambda user: said(scf, name, Qualifier="prod", RoutingKey=json.dumps({"user": user}))  # noqa: E731
    assert {keyed("vip") for _ in range(5)} == {"new"} and {keyed("20") for _ in range(5)} == {"two"}
    spread = Counter(said(scf, name, Qualifier="prod") for _ in range(60))
    assert spread.keys() == {"one", "two"} and min(spread.values()) >= 8  # of 60 at one half: less than once in 10^8
    scf.call("UpdateAlias", FunctionName=name, Name="prod", FunctionVersion="2")
    kept = scf.call("GetAlias", FunctionName=name, Name="prod")
    assert (kept["FunctionVersion"], kept["Description"], kept["RoutingConfig"]) == ("2", "größe", routing)
    all_to_one = {"AdditionalVersionWeights": [{"Version": "1", "Weight": 1}]}
    scf.call("UpdateAlias", FunctionName=name, Name="prod", FunctionVersion="2", Description="", RoutingConfig=all_to_one)
    assert {said(scf, name, Qualifier="prod") for _ in range(10)} == {keyed("vip")} == {"one"}
    scf.call("DeleteAlias", FunctionName=name, Name="prod")
    assert scf.refused("Invoke", FunctionName=name, Qualifier="prod") == "ResourceNotFound.Qualifier"


def test_the_default_alias_is_what_invoke_function_calls(scf: Client, name: str) -> None:
    scf.call("UpdateAlias", FunctionName=name, Name="$DEFAULT", FunctionVersion="1")
    assert (said(scf, name, "InvokeFunction"), said(scf, name), said(scf, name, Qualifier="$DEFAULT")) == ("one", "new", "one")
    key = {"Version": "2", "Key": USERS, "Method": "exact", "Expression": "x"}
    scf.call("UpdateAlias", FunctionName=name, Name="$DEFAULT", FunctionVersion="1", RoutingConfig={"AddtionVersionMatchs": [key]})
    assert said(scf, name, "InvokeFunction", RoutingKey='{"user": "x"}') == "two"
    assert said(scf, name, "Invoke", RoutingKey='{"user": "x"}') == "new"
    assert scf.refused("Invoke", FunctionName=name, RoutingKey="{") == "InvalidParameterValue.Param"
    assert scf.refused("DeleteAlias", FunctionName=name, Name="$DEFAULT") == "InvalidParameterValue.Alias"


def test_aliases_are_listed_and_refused(hearth: Instance, scf: Client, name: str) -> None:
    for alias, version in (("b", "1"), ("a", "2"), ("c", "$LATEST")):
        scf.call("CreateAlias", FunctionName=name, Name=alias, FunctionVersion=version)
    listed = scf.call("ListAliases", FunctionName=name)
    assert [(row["Name"], row["FunctionVersion"]) for row in listed["Aliases"]] == [
        ("$DEFAULT", "$LATEST"),
        ("a", "2"),
        ("b", "1"),
        ("c", "$LATEST"),
    ]
    assert listed["TotalCount"] == 4 and listed["Aliases"][0]["RoutingConfig"] == {
        "AdditionalVersionWeights": [],
        "AddtionVersionMatchs": [],
    }
    page = scf.call("ListAliases", FunctionName=name, Offset="1", Limit="2")
    assert [row["Name"] for row in page["Aliases"]] == ["a", "b"] and page["TotalCount"] == 4
    assert [row["Name"] for row in scf.call("ListAliases", FunctionName=name, FunctionVersion="1")["Aliases"]] == ["b"]
    assert len(hearth.request("GET", f"/v1/functions/{name}/aliases").body["aliases"]) == 4
    one: dict[str, Any] = {"FunctionName": name, "Name": "b", "FunctionVersion": "1"}
    weights: Any = lambda *pairs: {"RoutingConfig": {"AdditionalVersionWeights": [{"Version": v, "Weight": w} for v, w in pairs]}}  # noqa: E731
    rule: Any = lambda **of: {  # noqa: E731
        "RoutingConfig": {"AddtionVersionMatchs": [{"Version": "1", "Key": USERS, "Method": "exact", "Expression": "x", **of}]}
    }
    for action, changes, code in (
        ("CreateAlias", {}, "ResourceInUse.Alias"),
        ("CreateAlias", {"Name": "d"}, "LimitExceeded.Alias"),
        ("CreateAlias", {"Name": "1d"}, "InvalidParameterValue.Name"),
        ("CreateAlias", {"FunctionVersion": None}, "MissingParameter"),
        ("UpdateAlias", {"FunctionVersion": "9"}, "ResourceNotFound.FunctionVersion"),
        ("UpdateAlias", {"Name": "nobody"}, "ResourceNotFound.Alias"),
        ("UpdateAlias", weights(("2", 1.5)), "InvalidParameterValue.AdditionalVersionWeights"),
        ("UpdateAlias", weights(("2", 0.1), ("$LATEST", 0.1)), "InvalidParameterValue.AdditionalVersionWeights"),
        ("UpdateAlias", weights(("7", 0.1)), "ResourceNotFound.FunctionVersion"),
        ("UpdateAlias", weights(("2", "much")), "InvalidParameter"),
        ("UpdateAlias", rule(Key="user"), "InvalidParameterValue.RoutingConfig"),
        ("UpdateAlias", rule(Method="like"), "InvalidParameterValue.RoutingConfig"),
        ("UpdateAlias", rule(Method="range"), "InvalidParameterValue.RoutingConfig"),
        ("UpdateAlias", rule(Expression=None), "MissingParameter"),
    ):
        assert scf.refused(action, **{**one, **changes}) == code, (action, changes)
    for action, parameters, code in (
        ("GetAlias", {"FunctionName": name, "Name": "nobody"}, "ResourceNotFound.Alias"),
        ("GetAlias", {"FunctionName": "nobody", "Name": "b"}, "ResourceNotFound.Function"),
        ("DeleteAlias", {"FunctionName": name, "Name": "nobody"}, "ResourceNotFound.Alias"),
        ("ListAliases", {"FunctionName": name, "Limit": "many"}, "InvalidParameter"),
        ("ListAliases", {"FunctionName": name, "Offset": "-1"}, "InvalidParameterValue.Offset"),
    ):
        assert scf.refused(action, **parameters) == code, (action, parameters)


# Namespaces -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def team(scf: Client) -> Iterator[str]:
    scf.call("CreateNamespace", Namespace="team", Description="größe 😀")
    yield "team"
    scf.call("DeleteNamespace", Namespace="team")


def test_one_name_in_two_namespaces_is_two_functions(hearth: Instance, scf: Client, team: str) -> None:
    make(scf, "twice", says("here"))
    make(scf, "twice", says("there"), Namespace=team, Description="theirs")
    for where, text in (({}, "here"), ({"Namespace": "default"}, "here"), ({"Namespace": team}, "there")):
        assert said(scf, "twice", **where) == said(scf, "twice", "InvokeFunction", **where) == text
        shown = scf.call("GetFunction", FunctionName="twice", ShowCode="TRUE", **where)
        assert shown["Namespace"] == where.get("Namespace", "default") and text in shown["CodeInfo"]
        code = httpx.get(scf.call("GetFunctionAddress", FunctionName="twice", **where)["Url"], trust_env=False).content
        assert text in zipfile.ZipFile(io.BytesIO(code)).read("index.py").decode()
    assert [row["Description"] for row in scf.call("ListFunctions", Namespace=team)["Functions"]] == ["theirs"]
    assert [row["description"] for row in hearth.request("GET", "/v1/functions?namespace=team").body["functions"]] == ["theirs"]
    scf.call("UpdateFunctionCode", FunctionName="twice", Namespace=team, ZipFile=packed(says("changed")))
    scf.call("UpdateFunctionConfiguration", FunctionName="twice", Namespace=team, MemorySize=256)
    scf.call("PublishVersion", FunctionName="twice", Namespace=team)
    scf.call("CreateAlias", FunctionName="twice", Namespace=team, Name="a", FunctionVersion="1")
    assert said(scf, "twice", Namespace=team, Qualifier="a") == "changed" and said(scf, "twice") == "here"
    assert scf.refused("GetAlias", FunctionName="twice", Name="a") == "ResourceNotFound.Alias"
    assert scf.call("GetFunction", FunctionName="twice")["MemorySize"] == 128
    scf.call("CopyFunction", FunctionName="twice", NewFunctionName="copied", TargetNamespace=team)
    assert said(scf, "copied", Namespace=team) == "here"
    request_id = scf.call("Invoke", FunctionName="copied", Namespace=team)["RequestId"]
    asked = {"FunctionName": "copied", "FunctionRequestId": request_id, "Namespace": team}
    wait_until(lambda: scf.call("GetRequestStatus", **asked)["TotalCount"] == 1, "the call's record")
    wait_until(lambda: scf.call("GetFunctionLogs", **asked)["TotalCount"] == 1, "the call's record among the logs")
    assert scf.refused("GetFunctionLogs", FunctionName="copied") == "ResourceNotFound.Function"
    assert scf.refused("DeleteNamespace", Namespace=team) == "FailedOperation.Namespace"
    scf.call("DeleteFunction", FunctionName="copied", Namespace=team)
    scf.call("DeleteFunction", FunctionName="twice", Namespace=team)
    assert said(scf, "twice") == "here"
    scf.call("DeleteFunction", FunctionName="twice")


def test_namespaces_are_listed_changed_and_refused(scf: Client, team: str) -> None:
    scf.call("CreateNamespace", Namespace="another")
    listed: Any = lambda **wanted: [row["Name"] for row in scf.call("ListNamespaces", **wanted)["Namespaces"]]  # noqa: E731
    assert listed() == ["another", "default", "team"]
    assert listed(Orderby="Name", Order="DESC", Offset=1, Limit=1) == ["default"]
    scf.call("UpdateNamespace", Namespace="team", Description="Größer")
    assert scf.call("ListNamespaces", SearchKey=[{"Key": "Description", "Value": "größ"}])["Namespaces"][0]["Description"] == "Größer"
    assert listed(SearchKey=[{"Key": "Namespace", "Value": "EA"}, {"Key": "Description", "Value": "g"}]) == ["team"]
    assert listed(SearchKey=[{"Key": "Namespace", "Value": "another"}, {"Key": "Description", "Value": "g"}]) == []
    assert listed(Orderby="Updatetime", Order="DESC")[0] == "team"
    assert scf.call("ListNamespaces", Limit=1)["TotalCount"] == 3
    for action, parameters, code in (
        ("CreateNamespace", {"Namespace": "team"}, "ResourceInUse.Namespace"),
        ("CreateNamespace", {"Namespace": "1team"}, "InvalidParameterValue.NamespaceInvalid"),
        ("CreateNamespace", {"Namespace": "third"}, "LimitExceeded.Namespace"),
        ("CreateNamespace", {}, "MissingParameter"),
        ("CreateNamespace", {"Namespace": "third", "ResourceEnv": {"TKE": {"ClusterID": "x"}}}, "UnsupportedOperation"),
        ("UpdateNamespace", {"Namespace": "nowhere", "Description": ""}, "ResourceNotFound.Namespace"),
        ("DeleteNamespace", {"Namespace": "nowhere"}, "ResourceNotFound.Namespace"),
        ("DeleteNamespace", {"Namespace": "default"}, "FailedOperation.DeleteNamespace"),
        ("ListNamespaces", {"Orderby": "Colour"}, "InvalidParameterValue.OrderBy"),
        ("ListNamespaces", {"SearchKey": [{"Key": "Colour", "Value": "red"}]}, "InvalidParameterValue.SearchKey"),
        ("ListFunctions", {"Namespace": "nowhere"}, "ResourceNotFound.Namespace"),
        ("Invoke", {"FunctionName": "x1", "Namespace": "nowhere"}, "ResourceNotFound.Namespace"),
    ):
        assert scf.refused(action, **parameters) == code, (action, parameters)
    scf.call("DeleteNamespace", Namespace="another")


# Layers ---------------------------------------------------------------------------------------------------------------------


def publish(scf: Client, name: str, files: dict[str, str], **more: Any) -> int:
    body = {"CompatibleRuntimes": ["Python3", "Nodejs16.13"], "Content": {"ZipFile": packed(dict(files))}, **more}
    return int(scf.call("PublishLayerVersion", LayerName=name, **body)["LayerVersion"])


READS = "import os\ndef main_handler(event, context):\n    return {n: open('/opt/' + n).read() for n in sorted(os.listdir('/opt'))}\n"


def test_layers_from_publication_to_opt(hearth: Instance, scf: Client) -> None:
    one = publish(scf, "data", {"a": "1", "b": "1"}, Description="größe", LicenseInfo="MIT")
    two = publish(scf, "data", {"b": "2"})
    other = publish(scf, "more", {"c": "3"}, CompatibleRuntimes=["Nodejs16.13"])
    assert (one, two, other) == (1, 2, 1)
    listed = scf.call("ListLayers")
    assert [(row["LayerName"], row["LayerVersion"]) for row in listed["Layers"]] == [("data", 2), ("more", 1)] and listed["TotalCount"] == 2
    assert [row["LayerName"] for row in scf.call("ListLayers", CompatibleRuntime="Python3.9")["Layers"]] == ["data"]
    assert [row["LayerName"] for row in scf.call("ListLayers", SearchKey="OR")["Layers"]] == ["more"]
    assert [row["LayerName"] for row in scf.call("ListLayers", Offset=1, Limit=1)["Layers"]] == ["more"]
    versions = scf.call("ListLayerVersions", LayerName="data", CompatibleRuntime=["Python3"])["LayerVersions"]
    assert [(row["LayerVersion"], row["Description"], row["LicenseInfo"]) for row in versions] == [(2, "", ""), (1, "größe", "MIT")]
    shown = scf.call("GetLayerVersion", LayerName="data", LayerVersion=1)
    assert (shown["Status"], shown["CompatibleRuntimes"], shown["LicenseInfo"]) == ("Active", ["python3", "Nodejs16.13"], "MIT")
    answer = httpx.get(shown["Location"], trust_env=False)
    assert answer.status_code == 200 and hashlib.sha256(answer.content).hexdigest() == shown["CodeSha256"]
    assert zipfile.ZipFile(io.BytesIO(answer.content)).read("b") == b"1"
    assert httpx.get(httpx.URL(shown["Location"]).copy_set_param("expires", "9999999999"), trust_env=False).status_code == 401

    layers = [{"LayerName": "data", "LayerVersion": 1}, {"LayerName": "data", "LayerVersion": 2}]
    name = make(scf, "layered", READS, Layers=layers)
    read: Any = lambda: json.loads(scf.call("Invoke", FunctionName=name)["Result"]["RetMsg"])  # noqa: E731
    assert read() == {"a": "1", "b": "2"}
    rows = scf.call("GetFunction", FunctionName=name)["Layers"]
    assert [(row["LayerName"], row["LayerVersion"], row["Status"], row["Description"]) for row in rows] == [
        ("data", 1, "Active", "größe"),
        ("data", 2, "Active", ""),
    ]
    assert rows[0]["AddTime"] == shown["AddTime"] and rows[0]["LicenseInfo"] == "MIT"
    scf.call("UpdateFunctionConfiguration", FunctionName=name, Layers=layers[::-1])
    assert read() == {"a": "1", "b": "1"}
    scf.call("DeleteLayerVersion", LayerName="data", LayerVersion=1)
    scf.call("UpdateFunctionConfiguration", FunctionName=name, Timeout=9)
    rows = scf.call("GetFunction", FunctionName=name)["Layers"]
    assert [(row["LayerVersion"], row["Status"]) for row in rows] == [(2, "Active"), (1, "Deleted")] and read() == {"a": "1", "b": "1"}
    scf.call("UpdateFunctionConfiguration", FunctionName=name, Layers=[{"LayerName": "", "LayerVersion": 0}])
    assert read() == {} and scf.call("GetFunction", FunctionName=name)["Layers"] == []

    update = {"FunctionName": name, "MemorySize": 128}
    wanted = {"LayerName": "wrong", "CompatibleRuntimes": ["Python3"], "Content": {"ZipFile": packed({"a": ""})}}
    for action, parameters, code in (
        ("UpdateFunctionConfiguration", {**update, "Layers": layers[:1]}, "ResourceNotFound.LayerVersion"),
        ("UpdateFunctionConfiguration", {**update, "Layers": [{"LayerName": "none", "LayerVersion": 1}]}, "ResourceNotFound.Layer"),
        ("UpdateFunctionConfiguration", {**update, "Layers": [{"LayerName": "more", "LayerVersion": 1}]}, "InvalidParameterValue.Layers"),
        ("PublishLayerVersion", {**wanted, "LayerName": "1x"}, "InvalidParameterValue.LayerName"),
        ("PublishLayerVersion", {**wanted, "CompatibleRuntimes": ["Cobol"]}, "InvalidParameterValue.CompatibleRuntimes"),
        ("PublishLayerVersion", {**wanted, "CompatibleRuntimes": []}, "InvalidParameterValue.CompatibleRuntimes"),
        ("PublishLayerVersion", {**wanted, "LayerName": "data", "Content": {"ZipFile": "bm8gemlw"}}, "InvalidParameterValue.Content"),
        ("PublishLayerVersion", {**wanted, "Content": {"CosBucketName": "b", "CosObjectName": "/o"}}, "ResourceNotFound.Cos"),
        ("PublishLayerVersion", {**wanted, "Content": {}}, "MissingParameter.Code"),
        ("PublishLayerVersion", wanted, "LimitExceeded.Layers"),
        ("ListLayers", {"CompatibleRuntime": "Cobol"}, "InvalidParameterValue.CompatibleRuntimes"),
        ("ListLayerVersions", {"LayerName": "none"}, "ResourceNotFound.Layer"),
        ("GetLayerVersion", {"LayerName": "data", "LayerVersion": 1}, "ResourceNotFound.LayerVersion"),
        ("GetLayerVersion", {"LayerName": "data"}, "MissingParameter"),
        ("DeleteLayerVersion", {"LayerName": "none", "LayerVersion": 1}, "ResourceNotFound.Layer"),
    ):
        assert scf.refused(action, **parameters) == code, (action, parameters)
    assert [publish(scf, "data", {"a": ""}) for _ in range(2)] == [3, 4]
    assert scf.refused("PublishLayerVersion", **{**wanted, "LayerName": "data"}) == "LimitExceeded.LayerVersions"
    scf.call("DeleteFunction", FunctionName=name)
    for layer, version in (("data", 2), ("data", 3), ("data", 4), ("more", 1)):
        scf.call("DeleteLayerVersion", LayerName=layer, LayerVersion=version)


# tccli ----------------------------------------------------------------------------------------------------------------------


def test_tccli_knows_them_too(hearth: Instance, pair: Pair, scf: Client, tmp_path: Path) -> None:
    run = tccli(hearth, pair, tmp_path)

    def good(action: str, *arguments: str) -> dict[str, Any]:
        done = run(action, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    good("CreateNamespace", "--Namespace", "cli", "--Description", "größe")
    assert good("ListNamespaces", "--Orderby", "Updatetime", "--Order", "DESC")["Namespaces"][0]["Description"] == "größe"
    make(scf, "cli-function", says("x"), Namespace="cli")
    named = ("--FunctionName", "cli-function", "--Namespace", "cli")
    assert good("PublishVersion", *named)["FunctionVersion"] == "1"
    assert good("ListVersionByFunction", *named)["FunctionVersion"] == ["$LATEST", "1"]
    weights = json.dumps({"AdditionalVersionWeights": [{"Version": "$LATEST", "Weight": 0.25}]})
    good("CreateAlias", *named, "--Name", "prod", "--FunctionVersion", "1", "--RoutingConfig", weights)
    assert good("ListAliases", *named, "--Offset", "1", "--Limit", "5")["Aliases"][0]["RoutingConfig"]["AdditionalVersionWeights"] == [
        {"Version": "$LATEST", "Weight": 0.25}
    ]
    content = json.dumps({"ZipFile": packed({"a": ""})})
    good("PublishLayerVersion", "--LayerName", "cli-layer", "--CompatibleRuntimes", '["Python3"]', "--Content", content)
    assert good("GetLayerVersion", "--LayerName", "cli-layer", "--LayerVersion", "1")["CodeSha256"]
    good("DeleteLayerVersion", "--LayerName", "cli-layer", "--LayerVersion", "1")
    good("DeleteFunction", *named)
    good("DeleteNamespace", "--Namespace", "cli")
    done = run("DeleteNamespace", "--Namespace", "cli")
    assert done.returncode == 255 and "ResourceNotFound.Namespace" in done.stderr
