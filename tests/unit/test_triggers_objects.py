"""Object triggers: descriptions, matching, conflicts, and SCF's event."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import BadRequest
from server.triggers.descriptions import free_name, told_name
from server.triggers.model import Trigger
from server.triggers.objects import ObjectChange, ObjectRule, conflicts, event_body, matches, parse_bucket, parse_rule

CREATED = "cos:ObjectCreated:*"
RULES = st.builds(
    ObjectRule,
    event=st.sampled_from([CREATED, "cos:ObjectCreated:Put", "cos:ObjectCreated:Copy", "cos:ObjectRemove:*", "cos:ObjectRemove:Delete"]),
    prefix=st.text("ab", max_size=3),
    suffix=st.text("ab", max_size=3),
)


def test_a_description_is_read_and_written_as_scf_has_it() -> None:
    text = '{"event":"cos:ObjectCreated:*","filter":{"Prefix":"in/","Suffix":".jpg"}}'
    rule = parse_rule(text)
    assert rule == ObjectRule(CREATED, "in/", ".jpg")
    assert rule.dump() == text
    assert parse_rule({"event": "cos:ObjectRemove:Delete"}) == ObjectRule("cos:ObjectRemove:Delete")


WRONG = (
    "",
    "[]",
    "{}",
    '{"event":1}',
    '{"event":"cos:ObjectCreated"}',
    '{"event":"cos:ObjectCreated:Nothing"}',
    '{"event":"cos:ObjectCreated:*","filter":[1]}',
    '{"event":"cos:ObjectCreated:*","filter":{"Prefix":1}}',
    json.dumps({"event": CREATED, "filter": {"Suffix": "x" * 1025}}),
)


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_description_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_rule(text)


def test_a_trigger_is_named_after_its_bucket() -> None:
    assert parse_bucket("photos-1250000000.cos.ap-guangzhou.myqcloud.com") == "photos-1250000000"
    assert parse_bucket("photos") == "photos"
    for wrong in ("", "x.example.com", "Photos-1.cos.a.myqcloud.com", "../x"):
        with pytest.raises(BadRequest):
            parse_bucket(wrong)


def test_matching() -> None:
    rule = ObjectRule(CREATED, "in/", ".jpg")
    assert matches(rule, "cos:ObjectCreated:Put", "in/a.jpg")
    assert not matches(rule, "cos:ObjectRemove:Delete", "in/a.jpg")
    assert not matches(rule, "cos:ObjectCreated:Put", "out/a.jpg")
    assert not matches(rule, "cos:ObjectCreated:Put", "in/a.png")
    assert not matches(ObjectRule("cos:ObjectCreated:Put"), "cos:ObjectCreated:Copy", "k")


@given(one=RULES, other=RULES)
def test_two_rules_conflict_when_and_only_when_something_matches_both(one: ObjectRule, other: ObjectRule) -> None:
    longer = max(one.prefix, other.prefix, key=len) + max(one.suffix, other.suffix, key=len)
    events = ("cos:ObjectCreated:Put", "cos:ObjectCreated:Copy", "cos:ObjectCreated:Post", "cos:ObjectRemove:Delete")
    witness = any(matches(one, event, longer) and matches(other, event, longer) for event in events)
    assert conflicts(one, other) == conflicts(other, one) == witness


def test_the_event_is_that_of_the_reference() -> None:
    change = ObjectChange(
        event="cos:ObjectCreated:Put",
        bucket="testpic-1253970026",
        key="testfile",
        size=1029,
        meta={"Content-Type": "", "x-cos-meta-mykey": "myvalue"},
        at=1545205770.9,
        request_id="0000000a",
        peer="192.0.2.1",
        headers={"Authorization": "x"},
    )
    body = json.loads(event_body(change, region="ap-chengdu", namespace="default", function="printevent", qualifier="$LATEST"))
    assert body == {
        "Records": [
            {
                "cos": {
                    "cosSchemaVersion": "1.0",
                    "cosObject": {
                        "url": "http://testpic-1253970026.cos.ap-chengdu.myqcloud.com/testfile",
                        "meta": {"x-cos-request-id": "0000000a", "Content-Type": "", "x-cos-meta-mykey": "myvalue"},
                        "vid": "",
                        "key": "/1253970026/testpic/testfile",
                        "size": 1029,
                    },
                    "cosBucket": {"region": "ap-chengdu", "name": "testpic", "appid": "1253970026"},
                    "cosNotificationId": "unkown",
                },
                "event": {
                    "eventName": "cos:ObjectCreated:Put",
                    "eventVersion": "1.0",
                    "eventTime": 1545205770,
                    "eventSource": "qcs::cos",
                    "requestParameters": {"requestSourceIP": "192.0.2.1", "requestHeaders": {"Authorization": "x"}},
                    "eventQueue": "qcs:0:lambda:ap-chengdu:appid/1253970026:default.printevent.$LATEST",
                    "reservedInfo": "",
                    "reqid": 10,
                },
            }
        ]
    }


@pytest.mark.parametrize(
    ("name", "bucket", "told"),
    [
        ("b-1.cos.ap-x.myqcloud.com", "b-1", "b-1.cos.ap-x.myqcloud.com"),
        ("b-1.cos.ap-x.myqcloud.com.2", "b-1", "b-1.cos.ap-x.myqcloud.com"),
        ("b-1.12", "b-1", "b-1"),
        ("b-1.1", "b-1", "b-1.1"),
        ("b-1.2", "c-1", "b-1.2"),
        ("thumb.2", "b-1", "thumb.2"),
    ],
)
def test_the_name_that_scf_tells(name: str, bucket: str, told: str) -> None:
    assert told_name(object_trigger(name, bucket, ".jpg")) == told


def test_a_bucket_s_next_trigger_gets_a_free_name() -> None:
    first, second = object_trigger("b-1", "b-1", ".jpg"), object_trigger("b-1.2", "b-1", ".png")
    assert free_name("b-1", object_trigger("b-1", "b-1", ".gif").config, [first, second]) == "b-1.3"
    assert free_name("b-1", object_trigger("b-1", "b-1", ".gif").config, [second]) == "b-1"
    assert free_name("b-1", second.config, [first, second]) == "b-1"
    assert free_name("t", first.config, [object_trigger("t", "b-1", ".gif")]) == "t"


def object_trigger(name: str, bucket: str, suffix: str) -> Trigger:
    config = {"bucket": bucket, "event": CREATED, "filter": {"Prefix": "", "Suffix": suffix}}
    return Trigger(name, "f", "default", "f", name, "cos", config, "$LATEST", True, "", None, 0.0, 0.0)
