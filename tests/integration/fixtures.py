"""Images are built once for all tests, one `hearth up` with the defaults serves the tests of a module.

A plugin and not a conftest.py, since two suites use it: tests/conftest.py names it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import find_python
from tests.integration.instance import ROOT, Instance, leaving_nothing


def build_image(home: Path, name: str, *options: str) -> Path:
    """An image from this machine's own files, in a home of its own; its directory."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HEARTH_")} | {"HEARTH_HOME": str(home)}
    command = [sys.executable, "-m", "sandbox.admin", "image", "build", "host", "--name", name, *options]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return home / "images" / name


@pytest.fixture(scope="session")
def host_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image `host`, built from this machine's Python; every instance has hard links of it."""
    home = tmp_path_factory.mktemp("image")
    yield build_image(home, "host")
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def python27_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """An image `py27` for instances that want one beside; None on a machine without Python 2.7."""
    if (python := find_python("2.7")) is None:
        yield None
        return
    home = tmp_path_factory.mktemp("image27")
    yield build_image(home, "py27", "--python", python)
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def start(host_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Instance]:
    """Make and start an instance with settings of its own; who calls this closes it."""

    def started(*more_images: Path | None, **settings: Any) -> Instance:
        images = [host_image, *(image for image in more_images if image is not None)]
        return Instance(tmp_path_factory.mktemp("hearth"), *images, **settings).start()

    return started


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    """The instance of a module's tests. At the end it must stop in order and leave nothing on the host, whatever they did to it."""
    with leaving_nothing(start()) as instance:
        yield instance
