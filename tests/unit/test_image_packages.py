"""Packages for images: what is pinned, which wheels an interpreter takes, what replaces what. No pip, no network."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import pytest

from sandbox.errors import ImageError
from sandbox.imaging import packages
from sandbox.imaging.packages import SDKS, Packages, describe_target, read_pins
from sandbox.imaging.recipe import load_recipe

MACHINE = platform.machine()


@pytest.mark.parametrize("major", ["2", "3"])
def test_every_pin_has_a_version_and_a_hash(major: str) -> None:
    pins = read_pins(SDKS / f"python{major}.txt")
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+( +--hash=sha256:[0-9a-f]{64})+\n", pin.line) for pin in pins)
    assert {"cos-python-sdk-v5", "qcloudapi-sdk-python", "tencentcloud-sdk-python-scf", "tencentserverless", "requests"} <= {
        pin.name for pin in pins
    }
    unpacked = {line.split(" ")[0] for line in load_recipe("sdks", folder=SDKS)[f"unpacked{major}"]}
    assert unpacked <= {pin.name for pin in pins}
    assert all(len(pin.digests) == 1 for pin in pins if pin.name in unpacked)


def told(monkeypatch: pytest.MonkeyPatch, stdout: str, *, stderr: str = "") -> None:
    done = subprocess.CompletedProcess([], 1 if stderr else 0, stdout, stderr)
    monkeypatch.setattr(packages, "run_confined", lambda root, command: done)


@pytest.mark.parametrize(
    ("runtime", "wide", "abi"),
    [
        ("Python2.7", "true", "cp27mu"),
        ("Python2.7", "false", "cp27m"),
        ("Python3.7", "true", "cp37m"),
        ("Python3.8", "true", "cp38"),
        ("Python3.11", "true", "cp311"),
    ],
)
def test_the_tags_of_an_interpreter(monkeypatch: pytest.MonkeyPatch, runtime: str, wide: str, abi: str) -> None:
    told(monkeypatch, f'{{"site": "/usr/lib/x", "wide": {wide}, "glibc": "2.17"}}')
    target = describe_target("/root", runtime, "/usr/bin/python")
    assert (target.abi, target.site) == (abi, "/usr/lib/x")
    assert target.platforms[0] == f"manylinux_2_17_{MACHINE}"
    assert f"manylinux2014_{MACHINE}" in target.platforms
    assert f"--python-version={runtime.removeprefix('Python')}" in target.options()


def test_an_old_c_library_takes_no_newer_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, '{"site": "/s", "wide": true, "glibc": "2.12"}')
    platforms = describe_target("/root", "Python2.7", "/p").platforms
    assert f"manylinux2014_{MACHINE}" not in platforms
    assert f"manylinux2010_{MACHINE}" in platforms


def test_another_c_library_takes_musl_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, '{"site": "/s", "wide": true, "glibc": ""}')
    assert describe_target("/root", "Python3.11", "/p").platforms == (f"musllinux_1_1_{MACHINE}",)


def test_an_interpreter_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "", stderr="a\nImportError: no site")
    with pytest.raises(ImageError, match="ImportError: no site"):
        describe_target("/root", "Python3.11", "/p")


def test_nothing_asked_is_nothing() -> None:
    assert not Packages()
    assert Packages(requirements=("file",))
    assert Packages().preloads == []
    assert "requests" in Packages(sdks=True).preloads


def test_a_distribution_is_forgotten_but_not_its_neighbours(tmp_path: Path) -> None:
    for name, module in (("one", "a"), ("Two_x", "b")):
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "RECORD").write_text(f"shared/{module}.py,,\n{info.name}/METADATA,,\n../outside,,\n")
        (tmp_path / "shared").mkdir(exist_ok=True)
        (tmp_path / f"shared/{module}.py").write_text("")
    outside = tmp_path.parent / "outside"
    outside.write_text("")
    packages._forget(tmp_path, "two-X")
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["a.py"]
    assert outside.exists()
