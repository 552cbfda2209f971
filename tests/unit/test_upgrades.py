"""State of older releases, one fixture a schema (tests/payloads/state/NNNN.sql), in this one; and a migration that is killed in the middle.

A release that changes the schema adds its own: `sqlite3 hearth.db .dump` of a small state.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event

from sandbox.settings import Settings, load
from server.functions.codestore import CodeStore
from server.functions.service import Functions
from server.records.journal import Journal
from server.store.engine import open_database
from server.store.migrate import configuration
from tests.conftest import ROOT

STATES = sorted((ROOT / "tests" / "payloads" / "state").glob("*.sql"))
MOST_STATEMENTS = 1000
#: Each place takes a whole migration; a prime, so that it is not always the same place of each table's.
STRIDE = 7


def made_from(dump: Path | None, home: Path) -> Settings:
    """A home whose database is that of an older release, or none yet."""
    settings = load({}, home=str(home))
    settings.state_dir.mkdir(parents=True)
    if dump is not None:
        with closing(sqlite3.connect(settings.state_dir / "hearth.db")) as connection:
            connection.executescript(dump.read_text())
    return settings


def schema(settings: Settings) -> list[str]:
    with closing(sqlite3.connect(settings.state_dir / "hearth.db")) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")] if ("alembic_version",) in tables else []


def newest() -> list[str]:
    return [str(ScriptDirectory.from_config(configuration()).get_current_head())]


def test_the_oldest_schema_has_a_fixture() -> None:
    assert [path.stem for path in STATES][:1] == ["0001"]


@pytest.mark.parametrize("dump", STATES, ids=lambda path: path.stem)
def test_an_older_state_opens_with_all_that_was_in_it(dump: Path, tmp_path: Path) -> None:
    settings = made_from(dump, tmp_path / "home")
    assert schema(settings) == [dump.stem]
    engine = open_database(settings)
    try:
        assert schema(settings) == newest()
        functions = Functions(engine, settings, CodeStore(settings))
        _, (function,) = functions.list()
        assert (function.name, function.runtime, function.memory, function.environment) == ("greet", "python3", 128, {"A": "1"})
        assert (function.generation, functions.get("greet")) == (2, function)
        journal = Journal(engine)
        record = journal.get("r-0001")
        assert record is not None
        assert (record["function"], record["state"], record["result"], record["log"]) == (
            "greet",
            "succeeded",
            "hello, world",
            "greeting world\n",
        )
        (row,) = journal.usage(None, None, None)
        assert (row["function"], row["calls"]) == ("greet", 1)
    finally:
        engine.dispose()


def killed_at(settings: Settings, statement: int) -> bool:
    """Migrate in a child that is killed behind that many statements; whether it was, or came to the end before."""
    child = os.fork()
    if child == 0:
        count = 0

        def executed(*_: object) -> None:
            nonlocal count
            count += 1
            if count == statement:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(Engine, "after_cursor_execute", executed)
        try:
            open_database(settings)
            os._exit(0)
        finally:
            os._exit(1)  # never back into pytest
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("dump", [None, *STATES], ids=lambda path: path.stem if path else "empty")
def test_a_migration_that_is_killed_has_done_nothing_or_all_and_the_next_one_completes_it(dump: Path | None, tmp_path: Path) -> None:
    before = [dump.stem] if dump else []
    for statement in range(1, MOST_STATEMENTS, STRIDE):
        settings = made_from(dump, tmp_path / str(statement))
        killed = killed_at(settings, statement)
        assert schema(settings) in ([before, newest()] if killed else [newest()])
        engine = open_database(settings)
        try:
            assert schema(settings) == newest()
            assert Functions(engine, settings, CodeStore(settings)).list()[0] == (1 if dump else 0)
        finally:
            engine.dispose()
        if not killed:
            return
    pytest.fail("it has more statements than this test tries")
