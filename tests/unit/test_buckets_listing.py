"""Listing keys against a plain reading of the rules, and keys that are no paths."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, insert

from sandbox.settings import load
from server.buckets.listing import list_keys, successor
from server.store.engine import open_database, writing
from server.store.tables import objects

KEYS = st.sets(st.text("a/b\U0010ffff", min_size=1, max_size=5), max_size=12)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = open_database(load({}, home=str(tmp_path_factory.mktemp("home"))))
    yield engine
    engine.dispose()


def fill(engine: Engine, keys: set[str]) -> None:
    row: dict[str, Any] = {"bucket": "b", "file": "f", "size": 0, "etag": "e", "facts": "{}", "modified_at": time.time()}
    with writing(engine) as connection:
        connection.execute(delete(objects))
        if keys:
            connection.execute(insert(objects), [row | {"key": key.encode()} for key in keys])


def plainly(keys: set[str], prefix: str, delimiter: str) -> list[tuple[bytes, bool]]:
    """(key or common prefix, is it a prefix), in order."""
    found = set()
    for key in keys:
        if key.startswith(prefix):
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            found.add((key[: end + 1].encode(), True) if end >= 0 else (key.encode(), False))
    return sorted(found)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=KEYS, prefix=st.text("a/b", max_size=2), delimiter=st.sampled_from(["", "/"]), most=st.integers(1, 4))
def test_pages_put_together_are_the_whole(engine: Engine, keys: set[str], prefix: str, delimiter: str, most: int) -> None:
    fill(engine, keys)
    found: list[tuple[bytes, bool]] = []
    after = ""
    for _ in range(20):
        page = list_keys(engine, "b", prefix=prefix, delimiter=delimiter, after=after, most=most)
        assert len(page.rows) + len(page.prefixes) <= most
        found += sorted([(bytes(row["key"]), False) for row in page.rows] + [(common, True) for common in page.prefixes])
        if not page.truncated:
            break
        after = page.last.decode()
    assert found == plainly(keys, prefix, delimiter)


def test_the_first_key_behind_a_prefix() -> None:
    assert successor(b"a") == b"b"
    assert successor(b"a\xff\xff") == b"b"
    assert successor(b"\xff") is None


def test_a_thousand_keys_under_one_prefix_are_one_step(engine: Engine, tmp_path: Path) -> None:
    fill(engine, {f"a/{number}" for number in range(3000)} | {"b"})
    page = list_keys(engine, "b", delimiter="/", most=2)
    assert (page.prefixes, [bytes(row["key"]) for row in page.rows], page.truncated) == ([b"a/"], [b"b"], False)
