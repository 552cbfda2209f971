"""The bucket service's changes against the real queue, triggers and records, in one transaction each."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select

from sandbox.settings import Settings
from server.buckets.files import Files
from server.buckets.model import Cause, Facts, StoredObject
from server.buckets.notices import TriggerNotices
from server.buckets.objects import Objects
from server.buckets.wiring import Queue, TriggerTable
from server.errors import QueueFull
from server.store.engine import open_database, writing
from server.store.tables import events, objects, triggers
from server.triggers.model import Trigger

CREATED = "cos:ObjectCreated:Put"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path), limit_queued_events=2)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = open_database(settings)
    config = {"bucket": "b-1", "event": "cos:ObjectCreated:*", "filter": {"Prefix": "", "Suffix": ""}}
    now = time.time()
    for enabled in (True, False):
        trigger = Trigger(str(uuid.uuid4()), str(uuid.uuid4()), "default", "f", "t", "cos", config, "$LATEST", enabled, "", None, now, now)
        with writing(engine) as connection:
            connection.execute(insert(triggers).values(trigger.to_row()))
    yield engine
    engine.dispose()


def put(engine: Engine, settings: Settings, key: str, hops: int = 0) -> None:
    files = Files(settings.buckets_dir)
    files.prepare()
    queue = Queue(engine, settings)
    store = Objects(engine, files, TriggerNotices(TriggerTable(), queue.put, region="local"), most_buckets=5)
    if not store.list_buckets():
        store.create_bucket("b-1", "default")
    new = files.create()
    try:
        cause = Cause("ab", caused_by="before" if hops else "", hops=hops)
        store.put(new, StoredObject("b-1", key, "", 0, "0" * 32, Facts(), 0.0), CREATED, cause)
    finally:
        new.close()


def queued(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(select(events).order_by(events.c.created_at)).mappings())


def test_an_enabled_trigger_puts_one_event(engine: Engine, settings: Settings) -> None:
    put(engine, settings, "k", hops=16)
    (event,) = queued(engine)
    assert (event["lane"], event["source"], event["trigger"], event["hops"], event["caused_by"]) == ("default/f", "cos", "t", 16, "before")
    assert json.loads(event["payload"])["Records"][0]["cos"]["cosObject"]["key"] == "/1/b/k"


def test_a_full_queue_refuses_the_object_too(engine: Engine, settings: Settings) -> None:
    for key in ("a", "b"):
        put(engine, settings, key)
    with pytest.raises(QueueFull):
        put(engine, settings, "c")
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(objects)).scalar_one() == 2
    assert len(queued(engine)) == 2
    assert len(list(settings.buckets_dir.glob("data/*/*"))) == 2
