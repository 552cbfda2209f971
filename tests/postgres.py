"""A real PostgreSQL server for all tests that want one. A plugin: tests/conftest.py names it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


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
