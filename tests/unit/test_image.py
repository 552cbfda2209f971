"""Reading images: manifests, and which image serves a runtime."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import RuntimeNotFound
from sandbox.image import Image, load_images, resolve
from sandbox.imaging.interpreters import find_interpreters


def make(images: Path, name: str, /, **changes: Any) -> Path:
    path = images / name
    (path / "root").mkdir(parents=True)
    path.chmod(0o755)
    manifest = {
        "name": name,
        "source": "tarball:x.tar",
        "sha256": "ab",
        "release": "CentOS Linux release 7.2.1511 (Core)",
        "created_at": "2026-01-01T00:00:00Z",
        "runtimes": {"Python2.7": "/usr/bin/python2.7"},
        "versions": {"Python2.7": "2.7.5"},
        "preloads": {"Python2.7": ["json"]},
        "size_bytes": 7,
        **changes,
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def images_with(**runtimes: list[str]) -> dict[str, Image]:
    return {
        name: Image(name, f"/images/{name}/root", runtimes={key: f"/usr/bin/{key.lower()}" for key in keys})
        for name, keys in runtimes.items()
    }


def test_an_image_is_loaded_with_all_of_its_manifest(tmp_path: Path) -> None:
    make(tmp_path, "centos7")
    assert load_images(tmp_path) == {
        "centos7": Image(
            name="centos7",
            root=str(tmp_path / "centos7" / "root"),
            source="tarball:x.tar",
            sha256="ab",
            release="CentOS Linux release 7.2.1511 (Core)",
            created_at="2026-01-01T00:00:00Z",
            runtimes={"Python2.7": "/usr/bin/python2.7"},
            versions={"Python2.7": "2.7.5"},
            preloads={"Python2.7": ("json",)},
            size_bytes=7,
        )
    }


def test_a_directory_that_does_not_exist_holds_no_image(tmp_path: Path) -> None:
    assert load_images(tmp_path / "nowhere") == {}


def test_half_made_and_replaced_images_are_not_seen(tmp_path: Path) -> None:
    make(tmp_path, ".tmp-a-1", name=".tmp-a-1")
    make(tmp_path, ".old-a-1", name=".old-a-1")
    assert load_images(tmp_path) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"runtimes": {"Python2.7": "usr/bin/python"}},
        {"runtimes": {"Ruby": "/usr/bin/ruby"}},
        {"runtimes": {"python3": "/usr/bin/python3"}},
        {"runtimes": ["Python2.7"]},
        {"preloads": {"Python2.7": "json"}},
        {"preloads": []},
        {"versions": {"Python2.7": 2.7}},
        {"size_bytes": "7"},
        {"release": None},
    ],
)
def test_a_bad_manifest_is_skipped_with_a_warning_and_the_others_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    make(tmp_path, "bad", **changes)
    make(tmp_path, "good")
    with caplog.at_level(logging.WARNING):
        assert list(load_images(tmp_path)) == ["good"]
    assert "name=bad" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\x00", "\udcff"])
def test_a_manifest_that_is_not_an_object_is_skipped(tmp_path: Path, text: str) -> None:
    (make(tmp_path, "bad") / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    assert load_images(tmp_path) == {}


def test_an_image_that_others_can_write_is_not_trusted(tmp_path: Path) -> None:
    make(tmp_path, "open").chmod(0o777)
    assert load_images(tmp_path) == {}


def test_an_image_whose_root_is_a_link_is_skipped(tmp_path: Path) -> None:
    path = make(tmp_path, "linked")
    (path / "root").rmdir()
    (path / "root").symlink_to("/")
    assert load_images(tmp_path) == {}


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ("Python3.11", ("host", "Python3.11")),
        ("PYTHON2.7", ("centos", "Python2.7")),
        ("python3", ("host", "Python3.11")),
        ("Python3", ("host", "Python3.11")),
        ("python2", ("centos", "Python2.7")),
        ("Python3.9", ("debian", "Python3.9")),
        ("Python3.6", ("debian", "Python3.9")),  # nearest newer, not the default's 3.11
        ("Python3.10", ("host", "Python3.11")),
        ("Python3.13", ("newest", "Python3.13")),
        ("Python2.6", ("centos", "Python2.7")),
    ],
)
def test_a_runtime_finds_its_image(runtime: str, expected: tuple[str, str]) -> None:
    images = images_with(host=["Python3.11"], centos=["Python2.7"], debian=["Python2.7", "Python3.9"], newest=["Python3.11", "Python3.13"])
    found = resolve(images, runtime, default_image="host", strict=False)
    assert (found.image.name, found.runtime) == expected
    assert found.interpreter == f"/usr/bin/{expected[1].lower()}"


def test_minors_are_compared_as_numbers() -> None:
    images = images_with(host=["Python3.9", "Python3.11"])
    assert resolve(images, "python3", default_image="host", strict=False).runtime == "Python3.11"
    assert resolve(images, "Python3.10", default_image="host", strict=False).runtime == "Python3.11"


def test_the_default_image_wins_a_tie_and_names_decide_after_it() -> None:
    images = images_with(a=["Python3.11"], b=["Python3.11"], z=["Python3.11"])
    assert resolve(images, "Python3.8", default_image="z", strict=False).image.name == "z"
    assert resolve(images, "Python3.11", default_image="none", strict=False).image.name == "a"


def test_python3_is_served_by_another_image_when_the_default_has_none() -> None:
    images = images_with(host=["Python2.7"], other=["Python3.9"])
    assert resolve(images, "python3", default_image="host", strict=False).image.name == "other"


@pytest.mark.parametrize("runtime", ["Python3.6", "Python3.12", "Python4", "Nodejs6.10", "", "Python3.11.2", "Python3.x"])
def test_what_strict_resolution_does_not_have_is_refused_with_what_exists(runtime: str) -> None:
    with pytest.raises(RuntimeNotFound) as caught:
        resolve(images_with(host=["Python3.11", "Python2.7"]), runtime, default_image="host", strict=True)
    assert repr(runtime) in caught.value.message
    assert "Python2.7, Python3.11" in caught.value.hint


def test_an_older_minor_never_serves_a_newer_one() -> None:
    with pytest.raises(RuntimeNotFound):
        resolve(images_with(host=["Python3.11"]), "Python3.12", default_image="host", strict=False)


def test_without_any_image_the_hint_says_how_to_make_one() -> None:
    with pytest.raises(RuntimeNotFound) as caught:
        resolve({}, "python3", default_image="host", strict=False)
    assert "image build host" in caught.value.hint


def test_interpreters_are_looked_for_where_the_links_lead_in_the_image_not_on_the_host(tmp_path: Path) -> None:
    (tmp_path / "bin").symlink_to("/usr/bin")  # has this test's own python3, on the host
    (tmp_path / "usr/local").mkdir(parents=True)
    (tmp_path / "usr/local/bin").symlink_to("bin")
    found = find_interpreters(str(tmp_path))
    assert (found.runtimes, found.warnings) == ({}, [])
