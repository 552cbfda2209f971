"""Object triggers: what a description means, which changes it matches, which two of them conflict, and the event. Pure functions.

A description is SCF's TriggerDesc, `{"event":"cos:ObjectCreated:*","filter":{"Prefix":"","Suffix":".jpg"}}`, a name the bucket's domain,
`<bucket>-<appid>.cos.<region>.myqcloud.com`. Source: SCF's "触发器配置描述" and "触发器事件消息结构汇总".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from server.errors import BadRequest

#: Event families and their members. Some never happen in our own buckets: a trigger on them is valid all the same.
EVENTS: Final = {
    "cos:ObjectCreated": ("Put", "Post", "Copy", "Append", "CompleteMultipartUpload", "Origin", "Replication"),
    "cos:ObjectRemove": ("Delete", "DeleteMarkerCreated"),
    "cos:ObjectRestore": ("Post", "Completed"),
}
LONGEST_FILTER: Final = 1024
#: Another store whose notifications come in; \w would take every script's letters.
SOURCE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,59}", re.ASCII)
_BUCKET_ELSEWHERE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}", re.ASCII)
_DOMAIN = re.compile(r"(?P<bucket>[a-z0-9][a-z0-9.-]*?)\.cos\.(?P<region>[a-z0-9-]+)\.(?:myqcloud\.com|tencentcos\.cn)")
_APPID = re.compile(r"(?P<name>.+)-(?P<appid>\d+)")


@dataclass(frozen=True, slots=True)
class ObjectRule:
    """`event` is a family with `:*` or one of its members; `prefix` and `suffix` of the key, empty: any."""

    event: str
    prefix: str = ""
    suffix: str = ""

    @staticmethod
    def of_config(config: Mapping[str, Any]) -> ObjectRule:
        """From a stored trigger's configuration, which has been checked."""
        return ObjectRule(config["event"], config["filter"]["Prefix"], config["filter"]["Suffix"])

    def dump(self) -> str:
        """The description in SCF's own form."""
        value = {"event": self.event, "filter": {"Prefix": self.prefix, "Suffix": self.suffix}}
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class BucketName:
    """A bucket's name as COS takes it apart; `appid` is empty for a name without one."""

    name: str
    appid: str

    @staticmethod
    def of(bucket: str) -> BucketName:
        match = _APPID.fullmatch(bucket)
        return BucketName(match["name"], match["appid"]) if match else BucketName(bucket, "")


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """A change as a trigger sees it. `meta`: lower-case header names with their values, as the object has them. `url` and `path`, where not
    empty, are what the event says in place of COS's own; `version` is the version's id, where the store has such."""

    event: str
    bucket: str
    key: str
    size: int
    meta: Mapping[str, str]
    at: float
    request_id: str
    peer: str
    headers: Mapping[str, str]
    version: str = ""
    url: str = ""
    path: str = ""


def parse_rule(description: str | Mapping[str, Any]) -> ObjectRule:
    """Raises BadRequest for a description that is none."""
    try:
        value = json.loads(description) if isinstance(description, str) else description
    except ValueError:
        raise BadRequest("trigger description is not JSON", field="desc") from None
    if not isinstance(value, Mapping):
        raise BadRequest("trigger description is not an object", field="desc")
    event, found = value.get("event"), value.get("filter") or {}
    if not isinstance(event, str) or not _is_event(event):
        raise BadRequest(f"{event!r} is not an object event", field="desc.event", hint=f"one of {', '.join(_examples())}")
    if not isinstance(found, Mapping):
        raise BadRequest("filter is not an object", field="desc.filter")
    return ObjectRule(event, _filter(found, "Prefix"), _filter(found, "Suffix"))


def _filter(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name) or ""
    if not isinstance(value, str) or len(value.encode()) > LONGEST_FILTER:
        raise BadRequest(f"filter {name} is not a text of at most {LONGEST_FILTER} bytes", field=f"desc.filter.{name}")
    return value


def _is_event(event: str) -> bool:
    family, _, member = event.rpartition(":")
    return family in EVENTS and (member == "*" or member in EVENTS[family])


def _examples() -> Iterable[str]:
    return (f"{family}:*" for family in EVENTS)


def parse_bucket(trigger_name: str) -> str:
    """The bucket that a trigger's name says: its whole name, `bucket-appid`. A bare name is taken too. Raises BadRequest."""
    match = _DOMAIN.fullmatch(trigger_name)
    if match is not None:
        return match["bucket"]
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", trigger_name):
        return trigger_name
    hint = "<bucket>-<appid>.cos.<region>.myqcloud.com"
    raise BadRequest(f"trigger name {trigger_name!r} is not a bucket's", field="name", hint=hint)


def parse_bucket_elsewhere(name: str) -> str:
    """A bucket's name at another store, which may have dots, capitals, a tenant. Raises BadRequest."""
    if _BUCKET_ELSEWHERE.fullmatch(name):
        return name
    raise BadRequest(f"config.bucket: {name[:80]!a} is not a bucket's name", field="config.bucket")


def matches(rule: ObjectRule, event: str, key: str) -> bool:
    return _covers(rule.event, event) and key.startswith(rule.prefix) and key.endswith(rule.suffix)


def _covers(wanted: str, event: str) -> bool:
    return wanted == event or (wanted.endswith(":*") and event.startswith(wanted[:-1]))


def conflicts(one: ObjectRule, other: ObjectRule) -> bool:
    """Whether some change could match both, which SCF refuses (CosNotifyRuleConflict): each event of a bucket goes one way.

    With a prefix of one another and a suffix of one another there is a key that both take: the longer of each.
    """
    return (
        (_covers(one.event, other.event) or _covers(other.event, one.event))
        and (one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix))
        and (one.suffix.endswith(other.suffix) or other.suffix.endswith(one.suffix))
    )


def event_body(change: ObjectChange, *, region: str, namespace: str, function: str, qualifier: str) -> bytes:
    """SCF's COS event, one record, as JSON."""
    bucket = BucketName(change.bucket, "") if change.path else BucketName.of(change.bucket)
    record = {
        "cos": {
            "cosSchemaVersion": "1.0",
            "cosObject": {
                "url": change.url or f"http://{change.bucket}.cos.{region}.myqcloud.com/{change.key}",
                "meta": {"x-cos-request-id": change.request_id, "Content-Type": "", **change.meta},
                "vid": change.version,
                "key": change.path or f"/{bucket.appid}/{bucket.name}/{change.key}",
                "size": change.size,
            },
            "cosBucket": {"region": region, "name": bucket.name, "appid": bucket.appid},
            "cosNotificationId": "unkown",
        },
        "event": {
            "eventName": change.event,
            "eventVersion": "1.0",
            "eventTime": int(change.at),
            "eventSource": "qcs::cos",
            "requestParameters": {"requestSourceIP": change.peer, "requestHeaders": dict(change.headers)},
            "eventQueue": f"qcs:0:lambda:{region}:appid/{bucket.appid}:{namespace}.{function}.{qualifier}",
            "reservedInfo": "",
            "reqid": int(change.request_id[:8] or "0", 16) if re.fullmatch("[0-9a-f]*", change.request_id) else 0,
        },
    }
    return json.dumps({"Records": [record]}, ensure_ascii=False, separators=(",", ":")).encode()
