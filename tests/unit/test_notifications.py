"""S3 notifications: what bodies of each sender mean, and their way into the queue, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text

from sandbox.settings import Settings
from server.api.notifications import secret_of
from server.errors import BadRequest, Conflict, NotFound, PayloadTooLarge, QueueFull
from server.events.queue import EventQueue
from server.notifications.inbox import Inbox
from server.notifications.s3 import read_records
from server.notifications.sources import Sources
from server.records.model import Filter
from server.store.engine import writing
from server.store.tables import triggers
from server.triggers.kinds import ObjectKind
from server.triggers.model import Trigger
from tests.payloads.notifications import AMAZON, MINIO, MINIO_REMOVED, RADOSGW, VERSITYGW, VERSITYGW_TEST
from tests.postgres import database


@pytest.fixture
def settings(either_url: str, tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path), database_url=either_url, limit_queued_events=3)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with database(settings) as engine:
        yield engine


@pytest.fixture
def queue(engine: Engine, settings: Settings) -> EventQueue:
    return EventQueue(engine, settings)


@pytest.fixture
def inbox(engine: Engine, settings: Settings, queue: EventQueue) -> Inbox:
    return Inbox(engine, settings, queue)


def bind(engine: Engine, name: str, config: dict[str, Any], *, function: str = "f", enabled: bool = True) -> None:
    checked = ObjectKind().checked(config)
    row = Trigger(f"id-{name}", f"of-{function}", "default", function, name, "cos", checked, "$LATEST", enabled, "", None, 0.0, 0.0)
    with writing(engine) as connection:
        connection.execute(insert(triggers).values(row.to_row()))


def waiting(queue: EventQueue) -> list[dict[str, Any]]:
    return [json.loads(event.payload)["Records"][0] for event in reversed(queue.search(Filter(), 100))]


# -- what bodies mean -----------------------------------------------------------------------------------------------------------


def test_minios_body_is_read_with_its_escaped_key_and_its_metadata() -> None:
    (record,) = read_records(MINIO)
    assert record is not None
    change = record.change
    assert (change.event, change.bucket, change.key, change.size) == ("cos:ObjectCreated:Put", "photos", "in/ä b+c.jpg", 1029)
    assert change.meta == {"Content-Type": "image/jpeg", "ETag": "d41d8cd98f00b204e9800998ecf8427e", "x-cos-meta-mykey": "myvalue"}
    assert (change.peer, change.request_id, change.at) == ("127.0.0.1", "17B2A4C7B6F1E2A3", 1764057600.123)
    (removed,) = read_records(MINIO_REMOVED)
    assert removed is not None and (removed.change.event, removed.change.version) == ("cos:ObjectRemove:DeleteMarkerCreated", "v-1")


@pytest.mark.parametrize("sent", [RADOSGW, VERSITYGW], ids=["radosgw", "versitygw"])
def test_keys_of_senders_that_do_not_escape_them_stay_as_they_are(sent: dict[str, Any]) -> None:
    (record,) = read_records(sent)
    assert record is not None and (record.change.key, record.change.event) == ("a+b%20c d.txt", "cos:ObjectCreated:Put")


def test_radosgws_metadata_is_a_list_and_its_time_may_be_fine() -> None:
    (record,) = read_records(RADOSGW)
    assert record is not None
    assert record.change.meta["x-cos-meta-color"] == "blue" and record.change.at == 1764057600.123456
    assert read_records(AMAZON)[0].change.key == "a b.txt"  # type: ignore[union-attr]


def test_a_test_event_and_other_events_are_no_changes() -> None:
    assert read_records(VERSITYGW_TEST) == []
    for name in ("s3:ObjectAccessed:Get", "ObjectTagging:Put", "s3:ObjectCreated:PutRetention"):
        assert read_records(with_record(eventName=name)) == [None]
    assert read_records(AMAZON["Records"]) == read_records(AMAZON)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (None, "Records"),
        ({}, "Records"),
        ({"Records": {}}, "Records"),
        ({"Records": [1]}, "Records[0]"),
        ({"Records": [AMAZON["Records"][0], {"eventName": "ObjectCreated:Put"}]}, "Records[1].s3"),
        ({"Records": [{"s3": {}}]}, "Records[0].eventName"),
    ],
)
def test_a_malformed_body_is_told_where_it_is_wrong(body: Any, where: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_records(body)
    assert caught.value.field == where and where in caught.value.detail


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"key": ""}, "key"),
        ({"key": "%ff"}, "key"),
        ({"key": "\ud800"}, "key"),
        ({"key": "k" * 1025}, "key"),
        ({"size": -1}, "size"),
        ({"size": True}, "size"),
        ({"size": 1 << 64}, "size"),
        ({"sequencer": 5}, "sequencer"),
    ],
)
def test_an_object_that_can_not_be_is_refused(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_records(with_object(**changes))
    assert caught.value.field == f"Records[0].s3.object.{where}"


def with_record(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = copy.deepcopy(AMAZON)
    body["Records"][0] |= changes
    return body


def with_object(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = copy.deepcopy(AMAZON)
    body["Records"][0]["s3"]["object"] |= changes
    return body


@pytest.mark.parametrize(
    ("header", "secret"),
    [
        (b"Bearer s", b"s"),
        (b"bearer  s ", b"s"),
        (b"s", b"s"),
        (b"Basic " + base64.b64encode(b"any:s"), b"s"),
        (b"Basic " + base64.b64encode(b"s:"), b"s"),
        (b"Basic !", b""),
        (b"Digest s", b""),
        (b"", b""),
    ],
)
def test_a_secret_may_stand_in_the_header_in_several_ways(header: bytes, secret: bytes) -> None:
    assert secret_of(header) == secret


# -- their way into the queue ---------------------------------------------------------------------------------------------------


def test_a_record_becomes_the_event_of_the_trigger_that_waits_for_it_and_of_no_other(
    engine: Engine, queue: EventQueue, inbox: Inbox
) -> None:
    bind(engine, "jpg", {"source": "store", "bucket": "photos", "event": "cos:ObjectCreated:*", "filter": {"Prefix": "in/"}})
    bind(engine, "off", {"source": "store", "bucket": "photos", "event": "cos:ObjectCreated:Put"}, enabled=False)
    bind(engine, "other-store", {"source": "other", "bucket": "photos", "event": "cos:ObjectCreated:*"})
    bind(engine, "ours", {"bucket": "photos", "event": "cos:ObjectCreated:*"})
    bind(engine, "gone", {"source": "store", "bucket": "photos", "event": "cos:ObjectRemove:*"}, function="g")
    receipt = inbox.take("store", read_records(MINIO))
    assert (receipt.records, receipt.ignored, len(receipt.request_ids)) == (1, 0, 1)
    (event,) = queue.search(Filter(), 10)
    assert (event.trigger, event.source, event.lane, event.request_id) == ("jpg", "cos", "default/f", receipt.request_ids[0])
    (told,) = waiting(queue)
    assert told["cos"]["cosObject"]["key"] == "//photos/in/ä b+c.jpg" and told["cos"]["cosObject"]["size"] == 1029
    assert told["event"]["eventName"] == "cos:ObjectCreated:Put" and told["event"]["eventTime"] == 1764057600
    assert inbox.take("store", read_records(MINIO_REMOVED)).ignored == 0
    assert inbox.take("nobody", read_records(MINIO)).ignored == 1


def test_the_same_record_sent_again_makes_no_second_event_and_another_one_does(engine: Engine, queue: EventQueue, inbox: Inbox) -> None:
    bind(engine, "t", {"source": "store", "bucket": "files", "event": "cos:ObjectCreated:*"})
    first = inbox.take("store", read_records(AMAZON))
    assert inbox.take("store", read_records(AMAZON)).request_ids == first.request_ids
    assert len(waiting(queue)) == 1
    inbox.take("store", read_records(with_object(sequencer="0055AED6DCD90281E6")))
    assert len(waiting(queue)) == 2


def test_what_tells_nothing_of_itself_is_never_taken_for_the_same(engine: Engine, queue: EventQueue, inbox: Inbox) -> None:
    bind(engine, "t", {"source": "store", "bucket": "files", "event": "cos:ObjectCreated:*"})
    bare = {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "files"}, "object": {"key": "k"}}}]}
    assert inbox.take("store", read_records(bare)).request_ids != inbox.take("store", read_records(bare)).request_ids
    assert len(waiting(queue)) == 2


def test_all_records_of_a_body_are_taken_or_none(engine: Engine, queue: EventQueue, inbox: Inbox) -> None:
    bind(engine, "t", {"source": "store", "bucket": "files", "event": "cos:ObjectCreated:*"})
    body = {"Records": [record for number in range(4) for record in with_object(sequencer=str(number))["Records"]]}
    with pytest.raises(QueueFull):  # there is room for three
        inbox.take("store", read_records(body))
    assert waiting(queue) == []
    body["Records"].pop()
    assert len(inbox.take("store", read_records(body)).request_ids) == 3 == len(waiting(queue))


def test_an_event_that_is_too_large_is_refused(engine: Engine, settings: Settings, queue: EventQueue) -> None:
    bind(engine, "t", {"source": "store", "bucket": "files", "event": "cos:ObjectCreated:*"})
    small = Settings(home=settings.home, database_url=settings.database_url, limit_async_event_bytes=500)
    with pytest.raises(PayloadTooLarge):
        Inbox(engine, small, queue).take("store", read_records(AMAZON))
    assert waiting(queue) == []


# -- sources --------------------------------------------------------------------------------------------------------------------


def test_a_source_is_known_by_its_newest_secret_alone_and_the_database_does_not_know_it(engine: Engine) -> None:
    sources = Sources(engine, clock=lambda: 1.0)
    made, secret = sources.create({"name": "store"})
    assert sources.list() == [made] and sources.exists("store") and not sources.exists("stor%")
    assert sources.admits("store", secret.encode())
    assert not sources.admits("store", b"") and not sources.admits("nobody", secret.encode())
    with engine.connect() as connection:
        assert secret not in str(connection.execute(text("SELECT * FROM sources")).all())
    _, newer = sources.renew("store")
    assert sources.admits("store", newer.encode()) and not sources.admits("store", secret.encode())
    with pytest.raises(Conflict):
        sources.create({"name": "store"})
    for wrong in ({}, {"name": "a/b"}, {"name": "a", "secret": "x"}, [], {"name": "a", "description": 1}):
        with pytest.raises(BadRequest):
            sources.create(wrong)
    with pytest.raises(NotFound):
        sources.renew("nobody")


def test_a_source_stays_while_a_trigger_names_it(engine: Engine) -> None:
    sources = Sources(engine)
    sources.create({"name": "store"})
    config = {"source": "store", "bucket": "files", "event": "cos:ObjectCreated:*"}
    with writing(engine) as connection:
        ObjectKind().admit(connection, ObjectKind().checked(config), "id")
        with pytest.raises(BadRequest):
            ObjectKind().admit(connection, ObjectKind().checked(config | {"source": "nobody"}), "id")
    bind(engine, "t", config)
    with pytest.raises(Conflict):
        sources.delete("store")
    with writing(engine) as connection:  # the same bucket's name at two stores is two buckets
        with pytest.raises(Conflict):
            ObjectKind().admit(connection, ObjectKind().checked(config), "another")
        ObjectKind().admit(connection, ObjectKind().checked({"bucket": "files", "event": "cos:ObjectCreated:*"}), "another")
        connection.execute(triggers.delete())
    sources.delete("store")
    assert sources.list() == []
