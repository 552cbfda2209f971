"""The host image is built once for all integration tests, one `hearth up` with the defaults serves the tests of a module."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.instance import ROOT, Instance, leaving_nothing


@pytest.fixture(scope="session")
def host_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image `host`, built from this machine's Python; every instance has hard links of it."""
    home = tmp_path_factory.mktemp("image")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HEARTH_")} | {"HEARTH_HOME": str(home)}
    command = [sys.executable, "-m", "sandbox.admin", "image", "build", "host"]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, timeout=120)
    yield home / "images" / "host"
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def start(host_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Instance]:
    """Make and start an instance with settings of its own; who calls this closes it."""

    def started(**settings: Any) -> Instance:
        return Instance(tmp_path_factory.mktemp("hearth"), host_image, **settings).start()

    return started


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    """The instance of a module's tests. At the end it must stop in order and leave nothing on the host, whatever they did to it."""
    with leaving_nothing(start()) as instance:
        yield instance
