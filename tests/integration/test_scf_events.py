"""Asynchronous calls and triggers through SCF's own clients, against a running instance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.instance import Instance, leaving_nothing, packed, wait_until
from tests.integration.scf import Client, Pair, new_pair, tccli
from tests.integration.test_scf_sdk import ECHO, make

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

FAILS = "def main_handler(event, context):\n    raise ValueError('no')\n"
SLEEPS = "import time\ndef main_handler(event, context):\n    time.sleep(60)\n"


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    with leaving_nothing(start(event_retry_seconds=0.3, limit_functions=60)) as instance:
        yield instance


@pytest.fixture(scope="module")
def pair(hearth: Instance) -> Pair:
    return new_pair(hearth)


@pytest.fixture(scope="module")
def scf(hearth: Instance, pair: Pair) -> Client:
    return Client(hearth, pair)


def send(scf: Client, name: str, event: str = "{}", **more: Any) -> str:
    answer = scf.call("Invoke", FunctionName=name, InvocationType="Event", ClientContext=event, **more)
    return accepted(answer)


def accepted(answer: dict[str, Any]) -> str:
    result = answer["Result"]
    shown = [result[field] for field in ("RetMsg", "ErrMsg", "Log", "InvokeResult", "Duration", "BillDuration", "MemUsage")]
    assert shown == ["", "", "", 0, 0, 0, 0] and result["FunctionRequestId"] == answer["RequestId"]
    return str(answer["RequestId"])


def state(scf: Client, request_id: str) -> str:
    return str(scf.call("GetAsyncEventStatus", InvokeRequestId=request_id)["Result"]["Status"])


def over(scf: Client, request_id: str) -> dict[str, Any]:
    wait_until(lambda: state(scf, request_id) != "RUNNING", "its end", 30)
    return dict(scf.call("GetAsyncEventStatus", InvokeRequestId=request_id)["Result"])


def test_an_event_is_acknowledged_runs_and_is_seen_everywhere(scf: Client) -> None:
    name = make(scf, "async-echo")
    request_id = send(scf, name, '{"a": "ü"}')
    assert over(scf, request_id) == {"Status": "FINISHED", "StatusCode": 200, "InvokeRequestId": request_id}
    (row,) = scf.call("GetRequestStatus", FunctionName=name, FunctionRequestId=request_id)["Data"]
    assert (json.loads(row["RetMsg"]), row["RetCode"], row["RetryNum"]) == ({"a": "ü"}, 0, 0)
    (row,) = scf.call("GetFunctionLogs", FunctionName=name, FunctionRequestId=request_id)["Data"]
    assert row["RetCode"] == 0 and "seen {'a': 'ü'}" in row["Log"]
    big = json.dumps("x" * 128 * 1024)
    assert scf.refused("Invoke", FunctionName=name, InvocationType="Event", ClientContext=big) == "InvalidParameter.RequestTooLarge"
    assert scf.refused("Invoke", FunctionName="nobody", InvocationType="Event") == "ResourceNotFound.Function"
    assert scf.refused("Invoke", FunctionName=name, InvocationType="Event", Qualifier="7") == "ResourceNotFound.Qualifier"
    assert scf.refused("Invoke", FunctionName=name, InvocationType="Event", ClientContext="{") == "InvalidParameterValue.Param"


def test_the_settings_of_events(scf: Client) -> None:
    name = make(scf, "async-settings", FAILS)
    assert scf.call("GetFunctionEventInvokeConfig", FunctionName=name)["AsyncTriggerConfig"] == {
        "RetryConfig": [{"RetryNum": 2}],
        "MsgTTL": 21600,
    }
    wanted = {"RetryConfig": [{"RetryNum": 1}], "MsgTTL": 120}
    scf.call("UpdateFunctionEventInvokeConfig", FunctionName=name, AsyncTriggerConfig=wanted)
    assert scf.call("GetFunctionEventInvokeConfig", FunctionName=name, Qualifier="$DEFAULT")["AsyncTriggerConfig"] == wanted
    request_id = send(scf, name)
    assert over(scf, request_id)["StatusCode"] == 430
    (row,) = scf.call("GetRequestStatus", FunctionName=name, FunctionRequestId=request_id)["Data"]
    assert (row["RetCode"], row["RetryNum"]) == (-1, 1) and "ValueError" in row["RetMsg"]
    for config, code in (
        ({"RetryConfig": [{"RetryNum": 3}], "MsgTTL": 120}, "LimitExceeded.RetryNum"),
        ({"RetryConfig": [{"RetryNum": 1}], "MsgTTL": 21601}, "LimitExceeded.MsgTTL"),
        ({"MsgTTL": 59}, "LimitExceeded.MsgTTL"),
        ({"RetryConfig": []}, "InvalidParameterValue.AsyncTriggerConfig"),
    ):
        assert scf.refused("UpdateFunctionEventInvokeConfig", FunctionName=name, AsyncTriggerConfig=config) == code
    assert scf.refused("GetFunctionEventInvokeConfig", FunctionName="nobody") == "ResourceNotFound.Function"
    assert scf.refused("GetFunctionEventInvokeConfig", FunctionName=name, Qualifier="9") == "ResourceNotFound.Qualifier"


def test_events_are_listed_and_stopped(scf: Client) -> None:
    name = make(scf, "async-list", SLEEPS, Timeout=60)
    running = send(scf, name)
    wait_until(lambda: scf.call("GetFunctionLogs", FunctionName=name, FunctionRequestId=running)["Data"][0]["RetCode"] == 2, "its row")
    assert scf.refused("TerminateAsyncEvent", FunctionName=name, InvokeRequestId=running, GraceShutdown=True) == "UnsupportedOperation"
    assert state(scf, running) == "RUNNING"
    scf.call("TerminateAsyncEvent", FunctionName=name, InvokeRequestId=running)
    assert over(scf, running) == {"Status": "ABORTED", "StatusCode": 499, "InvokeRequestId": running}
    assert scf.refused("TerminateAsyncEvent", FunctionName=name, InvokeRequestId=running) == "FailedOperation.AsyncEventStatus"
    assert scf.refused("TerminateAsyncEvent", FunctionName=name, InvokeRequestId="none") == "ResourceNotFound.AsyncEvent"
    scf.call("UpdateFunctionCode", FunctionName=name, ZipFile=packed(ECHO))
    ids = [running, *(send(scf, name) for _ in range(3))]
    for request_id in ids:
        over(scf, request_id)

    def listed(**filters: Any) -> list[str]:
        found = scf.call("ListAsyncEvents", FunctionName=name, **filters)
        return [row["InvokeRequestId"] for row in found["EventList"]]

    assert set(listed()) == set(ids) and listed(Order="ASC") == list(reversed(listed())) and listed(Order="ASC")[0] == running
    assert listed(Status=["ABORTED"]) == [running] and listed(Status=["RUNNING"]) == [] and len(listed(Status=["FINISHED"])) == 3
    assert listed(Order="ASC", Offset=1, Limit=2) == listed(Order="ASC")[1:3]
    assert listed(InvokeRequestId=ids[2]) == [ids[2]] and len(listed(InvokeType=["INVOKE"])) == 4 and listed(InvokeType=["COS"]) == []
    assert len(listed(Qualifier="$LATEST", Orderby="EndTime")) == 4 and listed(Qualifier="1") == []
    assert listed(StartTimeInterval={"Start": "2000-01-01 00:00:00", "End": "2001-01-01 00:00:00"}) == []
    assert len(listed(EndTimeInterval={"Start": "2000-01-01 00:00:00", "End": "2999-01-01 00:00:00"})) == 4
    row = scf.call("ListAsyncEvents", FunctionName=name, InvokeRequestId=ids[1])["EventList"][0]
    assert row["StartTime"] <= row["EndTime"] and (row["InvokeType"], row["Qualifier"], row["Status"]) == ("INVOKE", "$LATEST", "FINISHED")
    for wrong, code in (({"Limit": 101}, "Limit"), ({"Order": "up"}, "Order"), ({"Orderby": "x"}, "OrderBy"), ({"Offset": -1}, "Offset")):
        assert scf.refused("ListAsyncEvents", FunctionName=name, **wrong) == f"InvalidParameterValue.{code}"
    assert scf.refused("ListAsyncEvents", FunctionName="nobody") == "ResourceNotFound.Function"
    assert scf.refused("GetAsyncEventStatus", InvokeRequestId="none") == "ResourceNotFound.AsyncEvent"


def test_triggers_of_one_bucket_are_told_apart_by_their_descriptions(hearth: Instance, scf: Client) -> None:
    name, domain = make(scf, "two-of-a-bucket"), "2photos-1250000000.cos.ap-guangzhou.myqcloud.com"  # SCF's buckets may begin with a digit
    jpg, png, other = (
        json.dumps({"event": "cos:ObjectCreated:*", "filter": {"Prefix": "", "Suffix": end}}) for end in (".jpg", ".png", ".x")
    )
    named = {"FunctionName": name, "TriggerName": domain, "Type": "cos"}
    for text in (jpg, png):
        assert scf.call("CreateTrigger", **named, TriggerDesc=text)["TriggerInfo"]["TriggerName"] == domain
    assert scf.refused("CreateTrigger", **named, TriggerDesc=png) in ("ResourceInUse.TriggerName", "LimitExceeded.Trigger")

    def listed() -> list[tuple[str, str, int]]:
        rows = scf.call("ListTriggers", FunctionName=name, OrderBy="add_time", Order="ASC")["Triggers"]
        return [(row["TriggerName"], json.loads(row["TriggerDesc"])["filter"]["Suffix"], row["Enable"]) for row in rows]

    assert listed() == [(domain, ".jpg", 1), (domain, ".png", 1)]
    assert {row["name"] for row in hearth.request("GET", f"/v1/functions/{name}/triggers").body["triggers"]} == {domain, f"{domain}.2"}
    assert scf.refused("DeleteTrigger", **named) == "MissingParameter"
    assert scf.refused("DeleteTrigger", **named, TriggerDesc=other) == "ResourceNotFound.Trigger"
    scf.call("UpdateTriggerStatus", **named, TriggerDesc=png, Enable="CLOSE")
    assert listed() == [(domain, ".jpg", 1), (domain, ".png", 0)]
    scf.call("DeleteTrigger", **named, TriggerDesc=jpg)
    assert listed() == [(domain, ".png", 0)]
    scf.call("CreateTrigger", **named, TriggerDesc=jpg)
    assert sorted(listed()) == [(domain, ".jpg", 1), (domain, ".png", 0)]
    assert scf.refused("DeleteTrigger", FunctionName=name, TriggerName=domain + ".2", Type="cos") == "ResourceNotFound.Trigger"


def test_every_call_of_a_function_that_always_runs_asynchronously(hearth: Instance, scf: Client) -> None:
    name = make(scf, "always-async", FAILS, AsyncRunEnable="TRUE", TraceEnable="TRUE")
    assert scf.call("GetFunction", FunctionName=name)["AsyncRunEnable"] == "TRUE"
    ids = [accepted(scf.call("Invoke", FunctionName=name)), accepted(scf.call("InvokeFunction", FunctionName=name))]
    answer = hearth.call(name, {})
    assert answer.status == 202 and answer.body["request_id"] == answer.request_id
    for request_id in [*ids, answer.request_id]:
        assert over(scf, request_id)["StatusCode"] == 430
        record = hearth.request("GET", f"/v1/invocations/{request_id}").body
        assert (record["type"], len(record["attempts"])) == ("async", 1)  # never tried again
    config = {"RetryConfig": [{"RetryNum": 1}]}
    refused = scf.refused("UpdateFunctionEventInvokeConfig", FunctionName=name, AsyncTriggerConfig=config)
    assert refused == "UnsupportedOperation.UpdateFunctionEventInvokeConfig"


NOT_HERE = ("ckafka", "cmq", "apigw", "cls")
YEARLY = "0 0 0 1 1 * *"


def test_a_whole_life_of_a_trigger(hearth: Instance, scf: Client, pair: Pair, tmp_path: Path) -> None:
    name = make(scf, "triggered")
    named = {"FunctionName": name, "TriggerName": "tick", "Type": "timer"}
    made = scf.call("CreateTrigger", **named, TriggerDesc=YEARLY, CustomArgument="hi", Enable="CLOSE", Description="größe")["TriggerInfo"]
    assert made["TriggerDesc"] == json.dumps({"cron": YEARLY}, separators=(",", ":"))
    assert (made["Enable"], made["CustomArgument"], made["Qualifier"], made["Description"]) == (0, "hi", "$LATEST", "größe")
    assert scf.call("GetFunction", FunctionName=name)["Triggers"] == [made]
    scf.call("UpdateTriggerStatus", **named, Enable="OPEN")
    assert scf.refused("UpdateTriggerStatus", **named, Enable="OPEN") == "FailedOperation.UpdateTriggerStatus"
    scf.call("UpdateTrigger", **named, TriggerDesc='{"cron": "0 0 0 2 1 * *"}', Description="new")
    (row,) = scf.call("ListTriggers", FunctionName=name)["Triggers"]
    assert (row["Enable"], row["TriggerDesc"], row["CustomArgument"], row["Description"]) == (1, '{"cron":"0 0 0 2 1 * *"}', "hi", "new")
    scf.call("UpdateTrigger", **named, TriggerDesc="* * * * * * *")
    fired = wait_until(lambda: [row for row in hearth.records(name) if row["state"] == "succeeded"], "it fires", 20)[0]
    assert (fired["source"], fired["trigger"], fired["result"]["Message"]) == ("timer", "tick", "hi")
    assert scf.call("ListAsyncEvents", FunctionName=name, InvokeType=["TIMER"])["TotalCount"] >= 1
    run = tccli(hearth, pair, tmp_path)
    done = run("DeleteTrigger", "--FunctionName", name, "--TriggerName", "tick", "--Type", "timer")
    assert done.returncode == 0, done.stderr
    assert scf.refused("DeleteTrigger", **named) == "ResourceNotFound.Trigger"
    assert scf.call("ListTriggers", FunctionName=name)["TotalCount"] == 0


def test_triggers_are_listed_in_order_and_refused_by_scf_s_codes(scf: Client) -> None:
    name = make(scf, "many-triggers")
    new = {"FunctionName": name, "Type": "timer", "TriggerDesc": YEARLY}
    scf.call("CreateTrigger", **new, TriggerName="a", Qualifier="$DEFAULT")
    scf.call("CreateTrigger", **new, TriggerName="b")
    bucket = "photos-1250000000.cos.ap-guangzhou.myqcloud.com"
    rule = {"event": "cos:ObjectCreated:*", "filter": {"Prefix": "in/", "Suffix": ".jpg"}}
    made = scf.call("CreateTrigger", FunctionName=name, TriggerName=bucket, Type="cos", TriggerDesc=json.dumps(rule))
    assert json.loads(made["TriggerInfo"]["TriggerDesc"]) == rule

    def names(**how: Any) -> list[str]:
        return [row["TriggerName"] for row in scf.call("ListTriggers", FunctionName=name, **how)["Triggers"]]

    assert names(OrderBy="add_time", Order="ASC") == ["a", "b", bucket] and names(OrderBy="add_time", Order="ASC", Offset=1, Limit=1) == [
        "b"
    ]
    assert names() == [bucket, "b", "a"]
    assert names(Filters=[{"Name": "Qualifier", "Values": ["$DEFAULT"]}]) == ["a"]
    assert names(Filters=[{"Name": "TriggerName", "Values": ["b", "x"]}]) == ["b"]
    shown = scf.call("GetFunction", FunctionName=name, Qualifier="$DEFAULT")["Triggers"]
    assert [row["TriggerName"] for row in shown] == ["a"]
    for action, changes, code in (
        ("CreateTrigger", {"TriggerName": "c"}, "LimitExceeded.Trigger"),
        ("CreateTrigger", {"TriggerName": "a"}, "ResourceInUse.TriggerName"),
        ("CreateTrigger", {"TriggerName": "_9"}, "InvalidParameterValue.TriggerName"),
        ("CreateTrigger", {"TriggerName": "c", "TriggerDesc": "x"}, "InvalidParameterValue.TriggerDesc"),
        ("CreateTrigger", {"TriggerName": "c", "Enable": "AJAR"}, "InvalidParameterValue.Enable"),
        ("CreateTrigger", {"TriggerName": "c", "CustomArgument": "x" * 4097}, "InvalidParameterValue.CustomArgument"),
        ("CreateTrigger", {"TriggerName": "c", "Type": "fax", "TriggerDesc": "{}"}, "InvalidParameterValue.Type"),
        ("CreateTrigger", {"TriggerName": "c", "FunctionName": "nobody"}, "ResourceNotFound.Function"),
        *(
            ("CreateTrigger", {"TriggerName": "c", "Type": kind}, "UnsupportedOperation.Trigger")
            for kind in ("ckafka", "cmq", "apigw", "cls")
        ),
        ("UpdateTrigger", {"TriggerName": "c"}, "ResourceNotFound.Trigger"),
        ("UpdateTrigger", {"TriggerName": "a", "Qualifier": "$LATEST"}, "ResourceNotFound.Trigger"),
        ("UpdateTrigger", {"TriggerName": "a", "TriggerDesc": "x"}, "InvalidParameterValue.TriggerDesc"),
    ):
        assert scf.refused(action, **{**new, **changes}) == code, (action, changes)
    assert scf.refused("DeleteTrigger", FunctionName=name, TriggerName="a", Type="cos") == "ResourceNotFound.Trigger"
    assert scf.refused("ListTriggers", FunctionName=name, OrderBy="x") == "InvalidParameterValue.OrderBy"
    assert scf.refused("ListTriggers", FunctionName=name, Filters=[{"Name": "x", "Values": ["y"]}]) == "InvalidParameterValue.Filters"


def dead_letter(scf: Client, name: str, **more: Any) -> dict[str, Any]:
    return dict(scf.call("GetFunction", FunctionName=name, **more)["DeadLetterConfig"])


def test_a_dead_letter_queue_is_a_file(hearth: Instance, scf: Client) -> None:
    queue = {"Type": "CMQ-QUEUE", "Name": "failed-orders", "FilterType": ""}
    name = make(scf, "dead-queue", FAILS, DeadLetterConfig=queue)
    scf.call("PublishVersion", FunctionName=name)
    assert dead_letter(scf, name) == dead_letter(scf, name, Qualifier="1") == queue
    config = {"RetryConfig": [{"RetryNum": 0}], "MsgTTL": 60}
    scf.call("UpdateFunctionEventInvokeConfig", FunctionName=name, AsyncTriggerConfig=config)
    scf.call("UpdateFunctionConfiguration", FunctionName=name, MemorySize=256)
    assert dead_letter(scf, name) == queue
    request_id = send(scf, name, '{"order": 7}')
    file = hearth.home / "state" / "dead-letters" / "failed-orders.jsonl"
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"), "the dead letter", 30)
    (line,) = map(json.loads, file.read_text().splitlines())
    assert (line["RequestId"], line["Body"]["FunctionName"], line["Body"]["ClientContext"]) == (request_id, name, '{"order": 7}')
    assert "ValueError: no" in line["ErrorMessage"] and line["ErrorCode"] == -1
    scf.call("CopyFunction", FunctionName=name, NewFunctionName="dead-copy")
    assert dead_letter(scf, "dead-copy") == queue
    assert scf.call("GetFunctionEventInvokeConfig", FunctionName="dead-copy")["AsyncTriggerConfig"]["MsgTTL"] == 60
    scf.call("UpdateFunctionConfiguration", FunctionName=name, DeadLetterConfig={"Type": "", "Name": ""})
    assert dead_letter(scf, name) == {"Type": "", "Name": "", "FilterType": ""}
    assert over(scf, send(scf, name))["Status"] == "FAILED"
    assert len(file.read_text().splitlines()) == 1
    # What the operator says holds, and is told.
    hearth.request("PUT", f"/v1/functions/{name}/event-config", json={"dead_letter": {"type": "file", "target": "others"}})
    assert dead_letter(scf, name) == {"Type": "queue", "Name": "others", "FilterType": ""}


def test_a_dead_letter_topic_is_a_function(hearth: Instance, scf: Client) -> None:
    taker = make(scf, "dead-taker")
    topic = {"Type": "topic", "Name": taker, "FilterType": ""}
    name = make(scf, "dead-topic", FAILS)
    scf.call("UpdateFunctionConfiguration", FunctionName=name, DeadLetterConfig=topic)
    scf.call("UpdateFunctionEventInvokeConfig", FunctionName=name, AsyncTriggerConfig={"RetryConfig": [{"RetryNum": 0}], "MsgTTL": 60})
    assert dead_letter(scf, name) == topic
    request_id = send(scf, name, '{"a": 1}')

    def taken() -> list[dict[str, Any]]:
        return [row for row in scf.call("GetFunctionLogs", FunctionName=taker)["Data"] if row["RetCode"] == 0]

    wait_until(lambda: len(taken()) == 1, "the function that takes the letters", 30)
    message = json.loads(taken()[0]["RetMsg"])
    assert (message["RequestId"], message["Body"]["FunctionName"], message["Body"]["ClientContext"]) == (request_id, name, '{"a": 1}')


def test_what_is_no_target_is_refused_and_nothing_is_changed(scf: Client) -> None:
    name = make(scf, "dead-wrong")
    code = "InvalidParameterValue.DeadLetterConfig"
    for wrong in (
        {"Type": "kafka", "Name": "x"},
        {"Type": "queue"},
        {"Name": "x"},
        {"Type": "queue", "Name": "../../etc/passwd"},
        {"Type": "queue", "Name": "http://127.0.0.1/"},
        {"Type": "topic", "Name": "nobody"},
        {"Type": "CMQ-TOPIC", "Name": name},
        {"Type": "topic", "Name": "http://127.0.0.1/"},
    ):
        update = {"FunctionName": name, "DeadLetterConfig": wrong, "MemorySize": 512}
        assert scf.refused("UpdateFunctionConfiguration", **update) == code, wrong
        if wrong.get("Name") == name:  # not the function itself: another could have it
            continue
        created = {"FunctionName": "dead-never", "Code": {"ZipFile": packed(ECHO)}, "Runtime": "Python3", "DeadLetterConfig": wrong}
        assert scf.refused("CreateFunction", **created) == code, wrong
    shown = scf.call("GetFunction", FunctionName=name)
    assert (shown["MemorySize"], shown["DeadLetterConfig"]["Type"]) == (128, "")
    assert scf.refused("GetFunction", FunctionName="dead-never") == "ResourceNotFound.Function"


def test_a_url_is_made_changed_and_removed(scf: Client) -> None:
    name = make(scf, "with-url")
    net = {"EnableIntranet": False, "EnableExtranet": True}
    made = scf.call(
        "CreateTrigger", FunctionName=name, TriggerName="url", Type="http", TriggerDesc=json.dumps({"AuthType": "NONE", "NetConfig": net})
    )
    shown = json.loads(made["TriggerInfo"]["TriggerDesc"])
    url = shown["NetConfig"]["ExtranetUrl"]
    assert made["TriggerInfo"]["Type"] == "http" and "IntranetUrl" not in shown["NetConfig"]
    named = {"FunctionName": name, "TriggerName": "url", "Type": "http"}
    with httpx.Client(trust_env=False) as client:
        assert client.post(url, content=b"x").json()["body"] == "x"
        scf.call("UpdateTriggerStatus", **named, Enable="CLOSE")
        # Every process knows it when it is answered, not some time after.
        assert {client.get(url).status_code for _ in range(20)} == {403}
        scf.call("UpdateTrigger", **named, Enable="OPEN", TriggerDesc=json.dumps({"AuthType": "CAM", "NetConfig": net}))
        assert {client.get(url).status_code for _ in range(20)} == {401}
        [row] = scf.call("ListTriggers", FunctionName=name)["Triggers"]
        assert json.loads(row["TriggerDesc"])["NetConfig"]["ExtranetUrl"] == url
        scf.call("DeleteTrigger", **named)
        assert {client.get(url).status_code for _ in range(20)} == {404}
    for wrong, code in (
        ({"TriggerDesc": "no json"}, "InvalidParameterValue.TriggerDesc"),
        ({"TriggerDesc": json.dumps({"AuthType": "MAYBE"})}, "InvalidParameterValue"),
        ({"Type": "apigw", "TriggerDesc": "{}"}, "UnsupportedOperation.Trigger"),
    ):
        assert scf.refused("CreateTrigger", **{**named, **wrong}).startswith(code), wrong


def test_a_url_of_a_function_that_always_runs_asynchronously_answers_202(scf: Client) -> None:
    name = make(scf, "async-url", AsyncRunEnable="TRUE")
    made = scf.call("CreateTrigger", FunctionName=name, TriggerName="url", Type="http", TriggerDesc='{"AuthType": "NONE"}')
    url = json.loads(made["TriggerInfo"]["TriggerDesc"])["NetConfig"]["ExtranetUrl"]
    with httpx.Client(trust_env=False) as client:
        answer = client.post(f"{url}a/b?c=d", content=b"body")
        assert client.post(url, content=b"x" * 131_073).status_code == 413
    assert answer.status_code == 202 and answer.json() == {"request_id": answer.headers["X-Scf-Request-Id"]}
    request_id = answer.json()["request_id"]
    assert over(scf, request_id)["Status"] == "FINISHED"
    [event] = scf.call("ListAsyncEvents", FunctionName=name, InvokeRequestId=request_id)["EventList"]
    assert event["InvokeType"] == "HTTP"
    (row,) = scf.call("GetRequestStatus", FunctionName=name, FunctionRequestId=request_id)["Data"]
    returned = json.loads(row["RetMsg"])
    assert (returned["path"], returned["body"], returned["queryString"]) == ("/a/b", "body", {"c": "d"})
