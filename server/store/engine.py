"""Opening the database, and the two ways to use it: `engine.connect()` to read, `writing(engine)` to write.

SQLite runs in WAL mode with synchronous=FULL (a commit is on disk when it returns) and a write transaction takes the write
lock at its start: upgrading a read lock in the middle is what ends in "database is locked". Other databases need none of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, create_engine, event, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from sandbox.errors import ConfigError
from sandbox.settings import Settings
from server.store.tables import counters

BUSY_TIMEOUT_MS = 15_000

# Made once: building a statement costs more than running it.
_ADD = (
    update(counters)
    .where(counters.c.name == bindparam("counter"))
    .values(value=counters.c.value + bindparam("count"))
    .returning(counters.c.value)
)


def open_database(settings: Settings) -> Engine:
    """Make the state directory and the database where they are missing, bring the schema up to date, return the engine.

    Any number of processes may do this at once. Raises ConfigError for a URL nobody can use and for a database that a newer
    Hearth has written.
    """
    from server.store.migrate import migrate  # alembic: a fifth of what a process takes that only writes

    engine = connect_database(settings)
    path = Path(engine.url.database) if engine.dialect.name == "sqlite" and engine.url.database else None
    try:
        migrate(engine, path.with_name(path.name + ".lock") if path else None)
    except BaseException:
        engine.dispose()
        raise
    return engine


def connect_database(settings: Settings) -> Engine:
    """The engine alone, for a database that somebody else has opened. Raises ConfigError for a URL nobody can use."""
    try:
        url = make_url(settings.database)
        sqlite = url.get_backend_name() == "sqlite"
        if sqlite:
            _make_file(Path(url.database or ""))
        # Without their parameters statements can be logged: those hold environments, results, logs.
        engine = create_engine(url, pool_pre_ping=not sqlite, hide_parameters=True)
    except (ArgumentError, ImportError) as error:
        raise ConfigError(f"setting database_url: {str(error).splitlines()[0]}") from error
    if sqlite:
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
    return engine


def _make_file(path: Path) -> None:
    if path.name in ("", ":memory:"):
        raise ConfigError("setting database_url: SQLite needs a file", hint="leave it empty for one in the state directory")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    # The write-ahead log and its index take over this file's mode: environments hold secrets. One that is there must not even be opened:
    # closing it would drop this process's locks on it (fcntl(2)), and another's last close then takes the log away under our writes.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _on_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # sqlite3's own BEGIN comes too late, and is never IMMEDIATE
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "foreign_keys=ON", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("hearth_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes: committed when the block ends, rolled back when it raises."""
    with engine.connect() as connection:
        connection = connection.execution_options(hearth_writes=True)
        with connection.begin():
            yield connection


def next_numbers(connection: Connection, counter: str, count: int = 1) -> int:
    """Take `count` numbers from a counter and return the first.

    Who took some holds the counter until commit, so numbers are committed in order and the block after it is exclusive.
    """
    last: int = connection.execute(_ADD, {"counter": counter, "count": count}).scalar_one()
    return last - count + 1


def ping(engine: Engine) -> None:
    """Ask the database for nothing; raises SQLAlchemyError when it doesn't answer."""
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
