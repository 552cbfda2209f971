"""Bringing a database to this version's schema, safely when several processes start at once.

On one machine a file lock serialises them (SQLite's switch to WAL can't wait by itself); on PostgreSQL an advisory lock does,
as the processes may be on several machines. Everything happens in one transaction: all of it or nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from sandbox.errors import ConfigError

MIGRATIONS = Path(__file__).parent / "migrations"
#: pg_advisory_xact_lock's key: any number, the same in every version.
ADVISORY_LOCK = 0x4845415254


def migrate(engine: Engine, lock_path: Path | None) -> None:
    """Run what is missing. Raises ConfigError when the database is newer than this code."""
    with _file_lock(lock_path):
        if engine.dialect.name == "sqlite":
            _switch_to_wal(engine)
        with engine.connect() as connection:
            connection = connection.execution_options(hearth_writes=True)
            with connection.begin():
                if engine.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
                _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    config = configuration()
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = MigrationContext.configure(connection).get_current_heads()
    if unknown := sorted(set(current) - known):
        shown = connection.engine.url.render_as_string(hide_password=True)
        raise ConfigError(
            f"database {shown}: schema {unknown[0]} is newer than this version of hearth",
            hint="start the version that wrote it, or restore a backup",
        )
    command.upgrade(config, "head")


def configuration() -> Config:
    """Alembic's configuration, made here so that no file of its own must be found."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _switch_to_wal(engine: Engine) -> None:
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("PRAGMA journal_mode=WAL")
    finally:
        raw.close()


@contextmanager
def _file_lock(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
