"""Container images that really run: archives by hand and by the tools that others use, and pulls from a registry on loopback."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from sandbox.errors import ImageError
from sandbox.imaging.interpreters import run_confined
from sandbox.imaging.registry import pull_image
from sandbox.imaging.tarball import import_tarball
from sandbox.settings import Settings
from tests.integration.instance import Instance, free_port, leaving_nothing, wait_until
from tests.unit.container_archives import Layout, file, packed, tar_of

pytestmark = pytest.mark.requires("root")

ECHO = "import added, sys\ndef main_handler(event, context):\n    return [event, added.WORD, '%d.%d' % sys.version_info[:2]]\n"


def tree_as_layer(root: Path) -> bytes:
    """An image's tree as a layer; everything at the same place."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(root, ".")
    return buffer.getvalue()


def library(root: Path) -> str:
    """The directory of the image's Python library, as a member's name."""
    return str(next((root / "usr/lib").glob("python3.*")).relative_to(root))


@pytest.fixture(scope="module")
def layers(host_image: Path) -> list[bytes]:
    """The host image in two layers: the second adds a module, hides one and takes a program away."""
    where = library(host_image / "root")
    upper = [file(f"{where}/added.py", b"WORD = 'upper'\n"), file(f"{where}/.wh.this.py", b""), file("usr/bin/.wh.tar", b"")]
    return [tree_as_layer(host_image / "root"), tar_of(*upper)]


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path / "home"))


@pytest.fixture(scope="module")
def layout(layers: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An OCI layout of those layers as a directory, as the tools take it."""
    folder = tmp_path_factory.mktemp("layout")
    made = Layout()
    for name, data in made.files(made.image(*layers, name="latest", compress=squeezed, suffix="+gzip")).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    yield folder
    shutil.rmtree(folder)


def squeezed(data: bytes) -> bytes:
    return gzip.compress(data, 1)


def check(home: Settings, name: str) -> None:
    """What the second layer did holds in the image."""
    root = home.images_dir / name / "root"
    assert not (root / library(root) / "this.py").exists()
    assert not (root / "usr/bin/tar").exists()
    (interpreter,) = json.loads((home.images_dir / name / "manifest.json").read_text())["runtimes"].values()
    done = run_confined(str(root), [interpreter, "-c", "import added, ssl; print(added.WORD)"])
    assert (done.stdout, done.stderr) == ("upper\n", "")
    assert [entry for entry in os.listdir(home.images_dir) if entry.startswith(".")] == [".lock"]


@pytest.mark.requires("user", "memcg")
def test_functions_run_in_an_imported_oci_image(layers: list[bytes], tmp_path: Path) -> None:
    archive = tmp_path / "image.tar.zst"
    made = Layout()
    archive.write_bytes(zstandard.compress(packed(made.files(made.image(*layers))), 1))
    home = Settings(home=str(tmp_path / "made"))
    manifest = import_tarball(home, archive, "oci")
    check(home, "oci")
    (runtime,) = manifest.runtimes
    with leaving_nothing(Instance(tmp_path / "instance", home.images_dir / "oci", default_image="oci").start()) as hearth:
        name = hearth.deploy(ECHO, runtime=runtime)
        assert hearth.call(name, {"k": 1}).ok() == [{"k": 1}, "upper", runtime.removeprefix("Python")]


@pytest.mark.requires("tool:skopeo")
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_what_skopeo_archives_is_imported(home: Settings, layout: Path, tmp_path: Path, form: str) -> None:
    archive = tmp_path / "image.tar"
    subprocess.run(["skopeo", "copy", f"oci:{layout}:latest", f"{form}:{archive}:test:1"], check=True, capture_output=True, timeout=120)
    assert import_tarball(home, archive, "real").source == f"{form}:image.tar"
    check(home, "real")


@pytest.mark.requires("tool:umoci")
def test_what_umoci_repacked_is_imported(home: Settings, layers: list[bytes], tmp_path: Path) -> None:
    """umoci makes the whiteouts itself: unpack, change, repack."""

    def umoci(*words: str) -> None:
        subprocess.run(["umoci", *words], cwd=tmp_path, check=True, capture_output=True, timeout=120)

    umoci("init", "--layout", "image")
    umoci("new", "--image", "image:one")
    umoci("unpack", "--image", "image:one", "bundle")
    subprocess.run(["tar", "-x", "-C", "bundle/rootfs"], input=layers[0], cwd=tmp_path, check=True)
    umoci("repack", "--image", "image:one", "bundle")
    root = tmp_path / "bundle/rootfs"
    (root / library(root) / "added.py").write_text("WORD = 'upper'\n")
    (root / library(root) / "this.py").unlink()
    (root / "usr/bin/tar").unlink()
    shutil.rmtree(root / library(root) / "json")
    (root / library(root) / "json").symlink_to("kept")
    shutil.copytree(next(Path("/usr/lib").glob("python3.*/json")), root / library(root) / "kept")
    umoci("repack", "--image", "image:one", "bundle")
    with tarfile.open(tmp_path / "image.tar", "w") as packed_layout:
        packed_layout.add(tmp_path / "image", ".")
    import_tarball(home, tmp_path / "image.tar", "real")
    check(home, "real")


# A registry --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry on loopback, plain HTTP, with test/image:1 in it; its host and port."""
    folder = tmp_path_factory.mktemp("registry")
    place = f"127.0.0.1:{free_port()}"
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '{place}'}}\n"
    )
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        ) as process,
    ):
        push = ["skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:latest", f"docker://{place}/test/image:1"]
        wait_until(
            lambda: subprocess.run(push, capture_output=True, timeout=120, check=False).returncode == 0, "a registry that takes an image"
        )
        yield place
        process.terminate()
    shutil.rmtree(folder)


REGISTRY = pytest.mark.requires("tool:skopeo", "tool:docker-registry")


@REGISTRY
def test_an_image_is_pulled(home: Settings, registry: str) -> None:
    seen: list[str] = []
    reference = f"{registry}/test/image:1"
    manifest = pull_image(home, reference, "pulled", verify_tls=False, progress=lambda done, total, text: seen.append(text))
    check(home, "pulled")
    assert manifest.source == f"registry:{reference}"
    by_digest = pull_image(home, f"docker://{registry}/test/image@sha256:{manifest.sha256}", "again", verify_tls=False)
    assert by_digest.runtimes == manifest.runtimes
    assert any("Copying blob" in text for text in seen)
    assert "layer 2 of 2" in seen


@REGISTRY
def test_a_pull_that_fails_says_why_and_leaves_nothing(home: Settings, registry: str) -> None:
    with pytest.raises(ImageError, match=r"skopeo could not pull .*missing:1: .*manifest unknown") as caught:
        pull_image(home, f"{registry}/missing:1", "none", verify_tls=False)
    assert "--authfile" in caught.value.hint
    with pytest.raises(ImageError, match=r"skopeo could not pull .*HTTPS"):
        pull_image(home, f"{registry}/test/image:1", "none")
    with pytest.raises(ImageError, match="connection refused"):
        pull_image(home, f"127.0.0.1:{free_port()}/test/image:1", "none", verify_tls=False)
    assert os.listdir(home.images_dir) == [".lock"]


@pytest.mark.parametrize("reference", ["", "--help", "a b", "oci:/etc", "dir:/etc", "$(id)", "../x", "/etc/passwd"])
def test_what_is_no_reference_is_refused(home: Settings, reference: str) -> None:
    with pytest.raises(ImageError):
        pull_image(home, reference, "none", verify_tls=False)


def test_a_machine_without_skopeo_is_told_what_to_install(tmp_path: Path) -> None:
    environment = {**os.environ, "HEARTH_HOME": str(tmp_path), "PATH": str(tmp_path)}
    script = "import shutil; shutil.which = lambda *a, **k: None\nfrom sandbox.admin import main; main()"
    command = [sys.executable, "-c", script, "image", "pull", "python:3.11", "--name", "x"]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == ["error: skopeo is missing", "hint: apt-get install skopeo"]
