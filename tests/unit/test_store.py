"""The database: made by several processes at once, refused when it is newer, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import base64
import io
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, func, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError

from sandbox.errors import ConfigError
from sandbox.settings import Settings
from server.errors import ApiError, LimitExceeded
from server.functions import CodeStore, Functions
from server.functions.aliases import Aliases
from server.functions.collection import used_digests
from server.functions.layers import Layers
from server.functions.namespaces import Namespaces
from server.functions.runnable import Runnables
from server.functions.versions import Versions
from server.keys.nonces import Nonces
from server.keys.service import Keys
from server.keys.vault import Vault
from server.records import Recorder, new_record
from server.store import epoch, next_numbers, open_database, ping, rfc3339, utc_day, writing
from server.store.tables import METADATA
from server.store.tables import aliases as aliases_table
from server.store.tables import versions as versions_table
from tests.postgres import database
from tests.unit.test_functions import _at_once as all_at_once

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path))


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = open_database(settings)
    yield engine
    engine.dispose()


def test_the_migrations_make_exactly_the_tables_of_the_code(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    assert set(inspect(engine).get_table_names()) == {*METADATA.tables, "alembic_version"}


def test_a_commit_is_durable_and_readers_do_not_wait(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar_one() == 2
        with writing(engine) as writer:
            next_numbers(writer, "invocations", 5)
            assert connection.execute(text("SELECT value FROM counters WHERE name = 'invocations'")).scalar_one() == 0


def test_only_the_owner_reads_the_database(engine: Engine, settings: Settings) -> None:
    with writing(engine) as connection:
        next_numbers(connection, "invocations")
    files = list(settings.state_dir.glob("hearth.db*"))
    assert {path.name for path in files} >= {"hearth.db", "hearth.db-wal"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} <= {0o600}


def test_a_block_that_raises_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(RuntimeError), writing(engine) as connection:
        next_numbers(connection, "invocations", 5)
        raise RuntimeError
    with writing(engine) as connection:
        assert next_numbers(connection, "invocations") == 1


def test_numbers_are_given_once(engine: Engine) -> None:
    taken: list[int] = []

    def take() -> None:
        for _ in range(10):
            with writing(engine) as connection:
                taken.append(next_numbers(connection, "invocations"))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 41))


def test_opening_again_keeps_what_is_there(engine: Engine, settings: Settings) -> None:
    with writing(engine) as connection:
        next_numbers(connection, "invocations", 7)
    again = open_database(settings)
    with writing(again) as connection:
        assert next_numbers(connection, "invocations") == 8
    again.dispose()


def test_several_processes_may_start_at_once(settings: Settings) -> None:
    program = (
        "import sys\nfrom sandbox.settings import Settings\nfrom server.store import open_database, ping\n"
        "sys.stdin.read()\nping(open_database(Settings(home=sys.argv[1])))"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", program, settings.home], cwd=REPOSITORY, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for child in children:  # closing its stdin lets each go
        assert child.stdin is not None
        child.stdin.close()
        child.stdin = None
    outcomes = [(child.communicate()[1].decode(), child.returncode) for child in children]
    assert outcomes == [("", 0)] * 3
    engine = open_database(settings)
    with engine.connect() as connection:
        names = connection.execute(text("SELECT name FROM counters")).scalars().all()
    assert sorted(names) == ["functions", "invocations", "layers", "quotas"]
    engine.dispose()


def test_a_newer_database_is_refused_in_one_line(engine: Engine, settings: Settings) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError) as refused:
        open_database(settings)
    assert "schema 9999 is newer than this version of hearth" in refused.value.message and "\n" not in refused.value.message
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"


@pytest.mark.parametrize("url", ["nonsense", "sqlite://", "sqlite:///:memory:", "nosuchdatabase://x/y"])
def test_a_url_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="database_url") as refused:
        open_database(Settings(home=str(tmp_path), database_url=url))
    assert "\n" not in refused.value.message


def test_a_database_that_is_gone_does_not_answer(engine: Engine, settings: Settings) -> None:
    ping(engine)
    engine.dispose()
    shutil.rmtree(settings.state_dir)
    with pytest.raises(SQLAlchemyError):
        ping(engine)


@given(st.floats(0, 4e9))
def test_times_are_written_to_the_millisecond_and_read_back(seconds: float) -> None:
    assert abs(epoch(rfc3339(seconds)) - seconds) <= 0.00051


def test_times_are_rfc_3339_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    assert rfc3339(1795473180.1234) == "2026-11-23T22:33:00.123Z"
    assert rfc3339(59.9996) == "1970-01-01T00:01:00.000Z"
    assert utc_day(1795473180) == "2026-11-23"
    with pytest.raises(ValueError, match="zone"):
        epoch("2026-11-23T22:33:00")


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_postgres(tmp_path: Path, postgres_url: str) -> Iterator[tuple[Settings, Engine]]:
    settings = Settings(home=str(tmp_path), database_url=postgres_url)
    with database(settings) as engine:
        yield settings, engine


@pytest.mark.requires("postgresql")
def test_the_same_migrations_run_on_postgresql(on_postgres: tuple[Settings, Engine]) -> None:
    settings, engine = on_postgres
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    again = open_database(settings)
    ping(again)
    again.dispose()


@pytest.mark.requires("postgresql")
def test_functions_and_records_work_on_postgresql(on_postgres: tuple[Settings, Engine], zip_base64: str) -> None:
    settings, engine = on_postgres
    store = CodeStore(settings)
    store.open()
    functions = Functions(engine, settings, store)
    made = functions.create(
        {"name": "hello", "runtime": "python3", "handler": "index.main", "code": {"zip": zip_base64}, "environment": {"A": "ü"}}
    )
    assert functions.get("hello") == made
    assert functions.update("hello", {"memory": 256}, scf={"Role": "r\0"}).generation == 2
    assert functions.get("hello").scf == {"Role": "r\0"}
    recorder = Recorder(engine, settings)
    recorder.start()
    for number in range(30):
        recorder.put(
            new_record(
                f"r{number}", "hello", created_at=1e9 + number, started_at=1e9, billed_ms=100, result=b'"\\u0000"', log=b"a\0b\xff" * 2000
            ),
            memory_mb=512,
        )
    assert recorder.flush()
    record = recorder.get("r3")
    assert record is not None and record["log"] == "a\0b\\xff" * 2000 and record["result"] == "\0"
    latest = recorder.latest("hello", limit=2)
    assert (
        [shown["request_id"] for shown in latest] == ["r29", "r28"]
        and latest[0]["log"].endswith("a\0b\\xff")
        and len(latest[0]["log"]) < 10_000
    )
    assert [entry["cursor"] for entry in recorder.logs("hello", after=28)] == [29, 30]
    found = recorder.outlines("hello", "default", since=1e9 + 5, until=1e9 + 9, limit=3)
    assert [shown["request_id"] for shown in found] == ["r9", "r8", "r7"]
    assert recorder.parts(["r9", "none"], 4) == {"r9": (b'"\\u0', b"b\xffa\0b\xff"[-4:])}
    assert [(row["calls"], row["billed_ms"], row["gb_seconds"]) for row in recorder.usage()] == [(30, 3000, pytest.approx(1.5))]
    assert recorder.prune() == 30
    recorder.close()
    functions.delete("hello")


@pytest.mark.requires("postgresql")
def test_pairs_and_nonces_work_on_postgresql(on_postgres: tuple[Settings, Engine]) -> None:
    _, engine = on_postgres
    keys, nonces = Keys(engine, Vault(base64.urlsafe_b64encode(bytes(32)).decode())), Nonces(engine)
    pair, secret = keys.create({"description": "ü"})
    assert keys.find(pair.secret_id) == (pair, secret) and keys.list() == [pair]
    keys.revoke(pair.secret_id)
    assert keys.find(pair.secret_id) is None
    for number in range(50):
        nonces.use("old", str(number), now=0, good_until=1)
    taken: list[bool] = []
    start = threading.Barrier(8)

    def use() -> None:
        start.wait()
        taken.extend(nonces.use("a", str(number), now=10, good_until=20) for number in range(20))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 160 and sum(taken) == 20


@pytest.mark.requires("postgresql")
def test_simultaneous_creations_do_not_pass_the_limit_on_postgresql(on_postgres: tuple[Settings, Engine], zip_base64: str) -> None:
    settings, engine = on_postgres
    settings = replace(settings, limit_functions=4)
    store = CodeStore(settings)
    store.open()
    functions = Functions(engine, settings, store)
    refused: list[LimitExceeded] = []
    start = threading.Barrier(10)

    def create(number: int) -> None:
        start.wait()
        try:
            functions.create({"name": f"f{number}", "runtime": "python3", "handler": "index.main", "code": {"zip": zip_base64}})
        except LimitExceeded as error:
            refused.append(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (functions.list()[0], len(refused)) == (4, 6)


@pytest.mark.requires("postgresql")
def test_versions_and_aliases_stay_whole_on_postgresql(on_postgres: tuple[Settings, Engine], zip_base64: str) -> None:
    """Everything at once, several times over: numbers given once, no alias without its version, nothing of a deleted function."""
    settings, engine = on_postgres
    store = CodeStore(settings)
    store.open()
    functions, versions, aliases = Functions(engine, settings, store), Versions(engine, settings), Aliases(engine, settings)
    namespaces = Namespaces(engine, settings)

    def at_once(*works: Callable[[], object]) -> list[Any]:
        return all_at_once(lambda number: works[number](), len(works))

    for turn in range(5):
        where = f"n{turn}"
        namespaces.create({"name": where})
        made = {"name": "hello", "runtime": "python3", "handler": "index.main", "code": {"zip": zip_base64}}
        functions.create(made, where)
        published = at_once(*[lambda where=where: versions.publish("hello", namespace=where)] * 6)
        assert sorted(version.version for version in published) == ["1", "2", "3", "4", "5", "6"]
        for number in ("1", "2"):
            at_once(
                lambda number=number, where=where: versions.delete("hello", number, where),
                lambda number=number, where=where: aliases.create("hello", {"name": f"a{number}", "version": number}, where),
            )
        there = {version.version for version in versions.list("hello", where)[1]}
        assert all(alias.version in there for alias in aliases.list("hello", where))
        assert Runnables(engine, settings).look("hello", where, "$DEFAULT").target.function.version == "$LATEST"
        at_once(
            *[lambda where=where: versions.publish("hello", namespace=where)] * 3,
            lambda where=where: aliases.create("hello", {"name": "late", "version": "6"}, where),
            lambda where=where: functions.delete("hello", where),
        )
        with engine.connect() as connection:
            assert [
                connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (versions_table, aliases_table)
            ] == [0, 0]
        outcomes = at_once(lambda where=where, made=made: functions.create(made, where), lambda where=where: namespaces.delete(where))
        assert sum(isinstance(outcome, ApiError) for outcome in outcomes) == 1
        if where in [namespace.name for namespace in namespaces.list()]:
            functions.delete("hello", where)
            namespaces.delete(where)


@pytest.mark.requires("postgresql")
def test_layers_work_on_postgresql(on_postgres: tuple[Settings, Engine], zip_base64: str) -> None:
    settings, engine = on_postgres
    settings = replace(settings, limit_layer_versions=4)
    store = CodeStore(settings)
    store.open()
    layers, functions = Layers(engine, settings, store), Functions(engine, settings, store)
    publication = {"runtimes": ["python3"], "code": {"zip": zip_base64}, "description": "ü"}
    published: list[int] = []
    start = threading.Barrier(8)

    def publish() -> None:
        start.wait()
        try:
            published.append(layers.publish("numpy", publication).version)
        except LimitExceeded:
            published.append(0)

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(published) == [0, 0, 0, 0, 1, 2, 3, 4]
    layers.publish("Other", publication)
    assert [version.name for version in layers.list()[1]] == ["Other", "numpy"]
    bound = [{"name": "numpy", "version": 4}]
    made = functions.create({"name": "hello", "runtime": "python3", "handler": "index.main", "code": {"zip": zip_base64}, "layers": bound})
    layers.delete("numpy", 4)
    assert layers.publish("numpy", publication).version == 5
    assert functions.get("hello") == made and made.to_json()["layers"] == bound
    with engine.connect() as connection:
        assert used_digests(connection) == {made.code}


@pytest.fixture
def zip_base64() -> str:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("index.py", "def main(event, context): return event")
    return base64.b64encode(out.getvalue()).decode()


def test_opening_a_database_twice_in_a_process_keeps_its_locks(tmp_path: Path) -> None:
    """Without them another's last close removes the log, and what is committed behind that is lost."""
    settings = Settings(home=str(tmp_path))
    look = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(c.execute('SELECT value FROM counters').fetchall()); c.close()"

    def seen_by_another() -> str:
        command = [sys.executable, "-c", look, str(settings.state_dir / "hearth.db")]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    first = open_database(settings)
    try:
        with writing(first) as kept:
            next_numbers(kept, "functions")
        open_database(settings).dispose()
        seen_by_another()
        with writing(first) as connection:
            assert next_numbers(connection, "functions", 40) == 2
        assert "(41,)" in seen_by_another()
    finally:
        first.dispose()
