"""What the hostile suite shares: bait on the host, and the chamber for the controls."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.cgroup import Limits, detect
from tests.hostile.attacks import bait
from tests.hostile.chamber import Chamber, compiled_filters

MEGABYTE = 1 << 20


@pytest.fixture(scope="session")
def facts() -> Iterator[dict[str, Any]]:
    with bait() as found:
        yield found


@pytest.fixture(scope="session")
def chamber(host_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chamber]:
    """Its cgroup is small: 96 MB, 48 processes."""
    folder = tmp_path_factory.mktemp("chamber")
    for name in ("stage", "code"):
        (folder / name).mkdir()
    driver = detect(f"h{os.getpid() & 0xFFFFFFF:07x}")
    cgroup = driver.create("chamber")
    cgroup.set_limits(Limits(96 * MEGABYTE, 48, 1024))
    try:
        yield Chamber(host_image, folder / "stage", folder / "code", cgroup, compiled_filters())
    finally:
        cgroup.remove()
        driver.close()
