"""A real PostgreSQL server for all tests that want one, and databases on it and on SQLite. A plugin: tests/conftest.py names it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from sandbox.settings import Settings
from server.store.engine import open_database
from server.store.tables import METADATA


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A server of its own on a socket of its own; as root it runs as the user that Debian's package makes."""
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
    run_as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    place = Path(tempfile.mkdtemp(prefix="hearth-pg-", dir="/tmp"))
    if run_as:
        shutil.chown(place, "postgres", "postgres")
    data = place / "data"
    subprocess.run(
        [*run_as, binaries / "initdb", "-D", data, "-A", "trust", "-U", "hearth", "-N"], check=True, cwd=place, capture_output=True
    )
    options = f"-c listen_addresses= -c unix_socket_directories={place} -c fsync=off"
    control = [*run_as, str(binaries / "pg_ctl"), "-D", str(data), "-w", "-s"]
    subprocess.run([*control, "-l", str(place / "log"), "-o", options, "start"], check=True, cwd=place)
    try:
        yield f"postgresql+psycopg://hearth@/postgres?host={place}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd=place)
        shutil.rmtree(place)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.requires("postgresql"))])
def either_url(request: pytest.FixtureRequest) -> str:
    """The setting `database_url`, once for each kind of database."""
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else ""


@contextmanager
def database(settings: Settings) -> Iterator[Engine]:
    """The database of these settings. The server is every test's: there nothing stays behind."""
    engine = open_database(settings)
    try:
        yield engine
        if engine.dialect.name == "postgresql":
            with engine.begin() as connection:
                METADATA.drop_all(connection)
                connection.execute(text("DROP TABLE alembic_version"))
    finally:
        engine.dispose()
