"""Importing archives of layers: `docker save` and OCI. What layers do to one another, hostile ones, damage, platforms."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sandbox.errors import ImageError
from sandbox.imaging.container import this_platform
from sandbox.imaging.manifest import Manifest
from sandbox.imaging.tarball import import_tarball
from sandbox.settings import Settings
from tests.unit.container_archives import Layout, device, docker_files, file, folder, hardlink, oci_files, packed, symlink, tar_of

ELSEWHERE = "linux/arm64" if this_platform() != "linux/arm64" else "linux/amd64"
FORMS = pytest.mark.parametrize("form", [docker_files, oci_files], ids=["docker", "oci"])

BASE = tar_of(folder("usr"), folder("usr/lib"), file("usr/lib/a", b"base"), file("usr/lib/b", b"base"), symlink("lib", "usr/lib"))


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path / "home"))


def bring(home: Settings, tmp_path: Path, files: dict[str, bytes] | bytes, **options: Any) -> Manifest:
    path = tmp_path / "archive"
    path.write_bytes(files if isinstance(files, bytes) else packed(files))
    return import_tarball(home, path, "image", **{"allow_empty": True, **options})


def root(home: Settings) -> Path:
    return home.images_dir / "image" / "root"


def visible(home: Settings) -> list[str]:
    return sorted(name for name in os.listdir(home.images_dir) if name != ".lock")


def contents(home: Settings, *, below: str = "") -> dict[str, bytes]:
    """The files below a directory of the image, with what is in them."""
    start = root(home) / below
    return {str(path.relative_to(start)): path.read_bytes() for path in start.rglob("*") if path.is_file()}


# What layers do to one another -------------------------------------------------------------------------------------------------


@FORMS
def test_layers_are_applied_in_order(home: Settings, tmp_path: Path, form: Callable[..., dict[str, bytes]]) -> None:
    manifest = bring(home, tmp_path, form(BASE, tar_of(file("usr/lib/b", b"second")), tar_of(file("lib/c", b"third"))))
    assert contents(home, below="usr/lib") == {"a": b"base", "b": b"second", "c": b"third"}
    assert manifest.source == f"{'docker' if form is docker_files else 'oci'}-archive:archive"
    assert sorted(os.listdir(home.images_dir / "image")) == ["manifest.json", "root"]
    assert not (root(home) / "blobs").exists()


@FORMS
@pytest.mark.parametrize("outer", [bytes, gzip.compress, lzma.compress, zstandard.compress], ids=["plain", "gz", "xz", "zst"])
@pytest.mark.parametrize("inner", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_every_compression_outside_and_inside(
    home: Settings,
    tmp_path: Path,
    form: Callable[..., dict[str, bytes]],
    outer: Callable[[bytes], bytes],
    inner: Callable[[bytes], bytes],
) -> None:
    bring(home, tmp_path, outer(packed(form(BASE, compress=inner))))
    assert (root(home) / "lib/a").read_bytes() == b"base"


TREE = [folder("d"), file("d/one"), file("d/two"), folder("d/sub"), file("d/sub/three"), file("e")]
LOWER = {"d/one": b"x", "d/two": b"x", "d/sub/three": b"x", "e": b"x"}
CHANGES = {
    "a file goes": ([file("d/.wh.one", b"")], {"d/two": b"x", "d/sub/three": b"x", "e": b"x"}),
    "a directory goes with all in it": ([file(".wh.d", b"")], {"e": b"x"}),
    "what was not there goes": ([file("d/.wh.four", b""), file("n/.wh.five", b"")], LOWER),
    "an opaque directory starts anew": ([folder("d"), file("d/.wh..wh..opq", b""), file("d/new")], {"d/new": b"x", "e": b"x"}),
    "an opaque mark hides only what is old": (
        [folder("d"), file("d/new"), folder("d/sub"), file("d/sub/four"), file("d/.wh..wh..opq", b"")],
        {"d/new": b"x", "d/sub/four": b"x", "e": b"x"},
    ),
    "an opaque mark spares what came without its directory": (
        [file("d/sub/four"), file("d/.wh..wh..opq", b"")],
        {"d/sub/four": b"x", "e": b"x"},
    ),
    "an opaque root": ([file(".wh..wh..opq", b""), file("f")], {"f": b"x"}),
    "a whiteout before the new file": ([file(".wh.e", b""), file("e", b"new")], {**LOWER, "e": b"new"}),
    "a whiteout after the new file": ([file("e", b"new"), file(".wh.e", b"")], {**LOWER, "e": b"new"}),
    "a whiteout after the new directory": ([folder("d"), file("d/new"), file(".wh.d", b"")], {"d/new": b"x", "e": b"x"}),
    "a directory becomes a file": ([file("d", b"now")], {"d": b"now", "e": b"x"}),
    "a file becomes a directory": ([folder("e"), file("e/f")], {"d/one": b"x", "d/two": b"x", "d/sub/three": b"x", "e/f": b"x"}),
    "a directory becomes a link": ([symlink("d", "e")], {"d": b"x", "e": b"x"}),
    "a link becomes a directory": ([symlink("l", "d"), folder("l"), file("l/own")], {**LOWER, "l/own": b"x"}),
    "a device takes a file's place": ([device("e")], {"d/one": b"x", "d/two": b"x", "d/sub/three": b"x"}),
    "notes of a storage driver are left out": ([file(".wh..wh.aufs", b""), file("d/.wh..wh.orph", b"")], LOWER),
}


@FORMS
@pytest.mark.parametrize("change", CHANGES)
def test_what_a_layer_changes(home: Settings, tmp_path: Path, form: Callable[..., dict[str, bytes]], change: str) -> None:
    entries, after = CHANGES[change]
    bring(home, tmp_path, form(tar_of(*TREE), tar_of(*entries)))
    assert {name: data for name, data in contents(home).items() if not name.startswith("etc/")} == after


def test_a_whiteout_below_a_link_acts_where_the_link_leads(home: Settings, tmp_path: Path) -> None:
    bring(home, tmp_path, oci_files(BASE, tar_of(file("lib/.wh.a", b""))))
    assert contents(home, below="usr/lib") == {"b": b"base"}


def test_what_was_hidden_can_come_again(home: Settings, tmp_path: Path) -> None:
    layers = [tar_of(*TREE), tar_of(file(".wh.d", b"")), tar_of(folder("d"), file("d/one", b"third"))]
    bring(home, tmp_path, oci_files(*layers))
    assert contents(home, below="d") == {"one": b"third"}


def test_a_hard_link_reaches_into_lower_layers_and_outlives_its_first_name(home: Settings, tmp_path: Path) -> None:
    layers = [tar_of(*TREE), tar_of(hardlink("same", "d/one"), hardlink("kept", "e"), file(".wh.e", b"")), tar_of(file("d/one", b"new"))]
    bring(home, tmp_path, oci_files(*layers))
    assert contents(home)["same"] == b"x"
    assert contents(home)["kept"] == b"x"
    assert contents(home)["d/one"] == b"new"
    assert "e" not in contents(home)


def test_a_later_layer_sets_the_mode_of_a_directory_and_keeps_its_files(home: Settings, tmp_path: Path) -> None:
    bring(home, tmp_path, oci_files(tar_of(*TREE), tar_of(folder("d", mode=0o3777))))
    assert stat.S_IMODE((root(home) / "d").stat().st_mode) == 0o1777
    assert (root(home) / "d/one").exists()


def test_setuid_bits_and_devices_of_layers_are_dropped(home: Settings, tmp_path: Path) -> None:
    bring(home, tmp_path, oci_files(tar_of(folder("d"), file("d/su", mode=0o6755), device("d/null"))))
    assert stat.S_IMODE((root(home) / "d/su").stat().st_mode) == 0o755
    assert os.listdir(root(home) / "d") == ["su"]


# Hostile ones ------------------------------------------------------------------------------------------------------------------

ATTACKS = {
    "file through a lower layer's link": [[symlink("out", "{outside}")], [file("out/escaped")]],
    "file through a lower layer's link that climbs": [[symlink("out", "../../../../..")], [file("out/escaped")]],
    "whiteout through a lower layer's link": [[symlink("out", "{outside}")], [file("out/.wh.secret", b"")]],
    "opaque mark through a lower layer's link": [[symlink("out", "{outside}")], [file("out/.wh..wh..opq", b"")]],
    "opaque mark through a link that climbs": [[symlink("out", "../../../../..")], [file("out/.wh..wh..opq", b"")]],
    "hard link through a lower layer's link": [[symlink("out", "{outside}")], [hardlink("stolen", "out/secret")]],
    "hard link to the host": [[file("a")], [hardlink("stolen", "../../../../secret")]],
    "whiteout of the directory above": [[folder("a")], [file("a/.wh...", b"")]],
    "whiteout of the directory itself": [[folder("a")], [file("a/.wh..", b"")]],
    "whiteout of nothing": [[folder("a")], [file("a/.wh.", b"")]],
    "whiteout that climbs": [[folder("a")], [file("../.wh.archive", b"")]],
    "name climbs": [[folder("a")], [file("../escaped")]],
    "absolute name": [[folder("a")], [file("/escaped")]],
}


@FORMS
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_layer_is_refused_and_leaves_nothing(
    home: Settings, tmp_path: Path, form: Callable[..., dict[str, bytes]], attack: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    for entries in ATTACKS[attack]:
        for info, _ in entries:
            info.linkname = info.linkname.replace("{outside}", str(outside))
    with pytest.raises(ImageError):
        bring(home, tmp_path, form(*(tar_of(*entries) for entries in ATTACKS[attack])))
    assert visible(home) == []
    assert (outside / "secret").read_text() == "secret"
    assert (outside / "secret").stat().st_nlink == 1
    assert os.listdir(outside) == ["secret"]
    assert not list(tmp_path.rglob("escaped"))


def test_a_whiteout_removes_a_link_and_not_what_it_leads_to(home: Settings, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("kept")
    bring(home, tmp_path, oci_files(tar_of(symlink("out", str(victim))), tar_of(file(".wh.out", b""))))
    assert (victim / "kept").read_text() == "kept"
    assert not os.path.lexists(root(home) / "out")


@pytest.mark.parametrize("name", ["oci-layout", "index.json", "manifest.json"])
def test_a_document_that_is_a_link_to_the_host_is_not_read(home: Settings, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    files = {**oci_files(BASE), **docker_files(BASE)}
    entries = [symlink(key, str(secret)) if key == name else file(key, data) for key, data in files.items()]
    try:
        bring(home, tmp_path, tar_of(*entries))
    except ImageError as error:
        assert "secret" not in error.message
    else:
        assert (root(home) / "lib/a").exists()  # the other form's documents were good


def test_a_blob_that_leads_out_is_not_read(home: Settings, tmp_path: Path) -> None:
    stolen = tmp_path / "stolen"
    stolen.write_bytes(BASE)
    entries = [symlink(key, str(stolen)) if data == BASE else file(key, data) for key, data in docker_files(BASE).items()]
    with pytest.raises(ImageError, match="lacks"):
        bring(home, tmp_path, tar_of(*entries))


def test_a_layer_repeated_by_a_link_is_read(home: Settings, tmp_path: Path) -> None:
    """docker before 25 saves a layer once and links the other names to it."""
    files = docker_files(BASE, BASE)
    first, second = f"{0:064x}/layer.tar", f"{1:064x}/layer.tar"
    entries = [symlink(name, f"../{first}") if name == second else file(name, data) for name, data in files.items()]
    bring(home, tmp_path, tar_of(*entries))
    assert (root(home) / "lib/a").exists()


@FORMS
def test_a_bomb_in_a_layer_is_refused(home: Settings, tmp_path: Path, form: Callable[..., dict[str, bytes]]) -> None:
    bomb = form(tar_of(file("zeros", bytes(3_000_000))), compress=gzip.compress)
    with pytest.raises(ImageError, match="more than 1,000,000 bytes"):
        bring(home, tmp_path, bomb, limit_bytes=1_000_000)
    assert visible(home) == []


# Damage ------------------------------------------------------------------------------------------------------------------------


@FORMS
def test_every_flipped_document_and_layer_is_found(home: Settings, tmp_path: Path, form: Callable[..., dict[str, bytes]]) -> None:
    files = form(BASE, tar_of(file("c")))
    for name in files:
        if name in ("manifest.json", "index.json", "oci-layout"):
            continue  # nothing says their digest
        damaged = dict(files)
        at = damaged[name].rfind(b"x" if b"x" in damaged[name] else b"base") if "layer" in name else len(damaged[name]) // 2
        damaged[name] = damaged[name][:at] + bytes([damaged[name][at] ^ 1]) + damaged[name][at + 1 :]
        with pytest.raises(ImageError, match="damaged"):
            bring(home, tmp_path, damaged)
        assert visible(home) == []


@FORMS
def test_a_missing_blob_is_named(home: Settings, tmp_path: Path, form: Callable[..., dict[str, bytes]]) -> None:
    files = form(BASE)
    name = next(name for name, data in files.items() if data == BASE)
    del files[name]
    with pytest.raises(ImageError, match=f"lacks '{name}'"):
        bring(home, tmp_path, files)


def test_a_layer_with_another_content_than_the_configuration_says_is_refused(home: Settings, tmp_path: Path) -> None:
    files = docker_files(BASE)
    name = next(name for name, data in files.items() if data == BASE)
    files[name] = tar_of(file("other"))
    with pytest.raises(ImageError, match="layer 1 of 1 holds"):
        bring(home, tmp_path, files)
    assert visible(home) == []


@pytest.mark.parametrize("length", [700, 3000, 6000, -1500])
@FORMS
def test_a_cut_archive_is_refused(home: Settings, tmp_path: Path, form: Callable[..., dict[str, bytes]], length: int) -> None:
    with pytest.raises(ImageError):
        bring(home, tmp_path, packed(form(BASE))[:length], allow_empty=False)
    assert visible(home) == []


SHAPES: list[Any] = [
    None,
    7,
    "text",
    [],
    [[]],
    {},
    {"manifests": 7},
    {"manifests": [7]},
    {"manifests": [{"digest": "sha256:../../x", "size": 1}]},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["index.json", "oci-layout", "manifest.json"])
def test_a_document_of_any_shape_is_an_error_of_ours(home: Settings, tmp_path: Path, name: str, shape: Any) -> None:
    files = docker_files(BASE) if name == "manifest.json" else oci_files(BASE)
    with pytest.raises(ImageError):
        bring(home, tmp_path, {**files, name: json.dumps(shape).encode()})
    with pytest.raises(ImageError):
        bring(home, tmp_path, {**files, name: b"[" * 100_000})
    assert visible(home) == []


@FORMS
@pytest.mark.parametrize("step", ["layer 1 of 2", "layer 2 of 2", "unpacking"])
def test_an_interrupted_import_leaves_nothing(home: Settings, tmp_path: Path, form: Callable[..., dict[str, bytes]], step: str) -> None:
    def interrupt(done: int, total: int | None, text: str) -> None:
        if text == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(home, tmp_path, form(BASE, tar_of(file("c"))), progress=interrupt)
    assert visible(home) == []


# Which image -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_the_image_for_this_machine_is_taken(home: Settings, tmp_path: Path, told: bool) -> None:
    layout = Layout()
    entries = [
        layout.image(tar_of(file("wrong")), platform=ELSEWHERE, told=told),
        layout.image(tar_of(file("right")), told=told),
        layout.image(tar_of(file("wrong")), platform="windows/amd64", told=told),
    ]
    bring(home, tmp_path, layout.files(layout.index(*entries)))
    assert (root(home) / "right").exists()
    assert not (root(home) / "wrong").exists()


def test_the_images_for_other_machines_may_be_missing(home: Settings, tmp_path: Path) -> None:
    layout = Layout()
    other = layout.image(tar_of(file("wrong")), platform=ELSEWHERE)
    files = layout.files(layout.index(other, layout.image(tar_of(file("right")))))
    del files["blobs/" + other["digest"].replace(":", "/")]
    bring(home, tmp_path, files)
    assert (root(home) / "right").exists()


def test_an_attestation_is_no_image(home: Settings, tmp_path: Path) -> None:
    layout = Layout()
    note = layout.image(tar_of(file("wrong")))
    note["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
    note["platform"] = {"os": "unknown", "architecture": "unknown"}
    bring(home, tmp_path, layout.files(layout.index(layout.image(tar_of(file("right"))), note)))
    assert (root(home) / "right").exists()


def test_a_lie_about_the_platform_is_found_in_the_configuration(home: Settings, tmp_path: Path) -> None:
    layout = Layout()
    entry = layout.image(BASE, platform=ELSEWHERE)
    entry["platform"] = dict(zip(("os", "architecture"), this_platform().split("/"), strict=True))
    with pytest.raises(ImageError, match=f"is for {ELSEWHERE}; this machine is {this_platform()}"):
        bring(home, tmp_path, layout.files(entry))


@FORMS
def test_an_image_for_another_machine_is_refused(home: Settings, tmp_path: Path, form: Callable[..., dict[str, bytes]]) -> None:
    with pytest.raises(ImageError, match=f"is for {ELSEWHERE}; this machine is {this_platform()}"):
        bring(home, tmp_path, form(BASE, platform=ELSEWHERE))
    assert visible(home) == []


def test_several_images_are_told_by_name(home: Settings, tmp_path: Path) -> None:
    layout = Layout()
    files = layout.files(layout.image(BASE, name="first:1"), layout.image(tar_of(file("c")), name="second:2"))
    with pytest.raises(ImageError, match=r"2 images for .*first:1, second:2"):
        bring(home, tmp_path, files)
    one, two = docker_files(BASE), docker_files(tar_of(file("c")))
    entries = json.loads(one["manifest.json"]) + json.loads(two["manifest.json"])
    with pytest.raises(ImageError, match="holds 2 images: test:1, test:1"):
        bring(home, tmp_path, {**one, **two, "manifest.json": json.dumps(entries).encode()})


def test_two_names_of_one_image_are_one(home: Settings, tmp_path: Path) -> None:
    layout = Layout()
    bring(home, tmp_path, layout.files(layout.image(BASE, name="first:1"), layout.image(BASE, name="second:2")))
    assert (root(home) / "lib/a").exists()


def test_encrypted_and_foreign_layers_are_told(home: Settings, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="layer 1 of archive is encrypted") as caught:
        bring(home, tmp_path, oci_files(BASE, suffix="+gzip+encrypted"))
    assert "decrypt" in caught.value.hint
    files = oci_files(BASE, suffix=".nondistributable.foreign")
    bring(home, tmp_path, files)  # it is there all the same
    del files[next(name for name, data in files.items() if data == BASE)]
    with pytest.raises(ImageError, match="layer 1 of archive is foreign"):
        bring(home, tmp_path, files, force=True)


def test_the_configuration_informs_nothing_but_where_interpreters_may_be(home: Settings, tmp_path: Path) -> None:
    files = oci_files(BASE, environment=["PATH=/weird/bin:/usr/bin", "LD_PRELOAD=/evil.so"])
    bring(home, tmp_path, files)
    assert "evil" not in (home.images_dir / "image/manifest.json").read_text()


def test_a_root_filesystem_with_a_manifest_of_its_own_is_one(home: Settings, tmp_path: Path) -> None:
    bring(home, tmp_path, tar_of(folder("usr"), file("manifest.json", b"[]"), file("index.json"), file("oci-layout")))
    assert (root(home) / "manifest.json").read_bytes() == b"[]"
