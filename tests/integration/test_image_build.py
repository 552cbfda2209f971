"""Images that really run: built from the host's Python, packed in CentOS 7.2's shape, imported again, replaced while in use."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from sandbox import admin
from sandbox.errors import ImageError
from sandbox.image import load_images
from sandbox.imaging.debian import build_debian
from sandbox.imaging.host import build_host, closure, describe_python
from sandbox.imaging.interpreters import find_interpreters, run_confined
from sandbox.imaging.store import sweep
from sandbox.imaging.tarball import import_tarball
from sandbox.settings import Settings

pytestmark = pytest.mark.requires("root")

# A version manager's shim in PATH may exist without a 2.7 behind it.
PYTHON27 = next(iter(glob.glob("/root/.pyenv/versions/2.7.*/bin/python2.7")), None) or shutil.which("python2.7")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    path = tmp_path_factory.mktemp("images")
    settings = Settings(home=str(path))
    build_host(settings)
    yield settings
    shutil.rmtree(path)


def say(root: str, interpreter: str, code: str) -> str:
    done = run_confined(root, [interpreter, "-c", code])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_host_image_is_listed_with_its_runtime(home: Settings) -> None:
    image = load_images(home.images_dir)["host"]
    key = "Python" + describe_python("/usr/bin/python3").version
    assert image.runtimes == {key: image.runtimes[key]}
    assert image.versions[key].startswith(key.removeprefix("Python") + ".")
    assert {"json", "ssl", "ctypes", "urllib.request", "http.client"} <= set(image.preloads[key])
    assert len(image.sha256) == 64
    assert image.release


def test_the_host_images_python_works(home: Settings) -> None:
    image = load_images(home.images_dir)["host"]
    (interpreter,) = image.runtimes.values()
    code = (
        "import ctypes, json, os, socket, sqlite3, ssl, subprocess, sys, zoneinfo\n"
        "ctypes.CDLL('libc.so.6').getpid()\n"
        "assert ssl.create_default_context() and socket.getaddrinfo('localhost', 80)\n"
        "print(json.dumps([sys.prefix, os.getuid(), subprocess.check_output('echo $((1+1))', shell=True).decode()]))"
    )
    assert json.loads(say(image.root, interpreter, code)) == ["/usr", 65534, "2\n"]


def test_the_host_images_library_is_already_compiled(home: Settings) -> None:
    image = load_images(home.images_dir)["host"]
    (interpreter,) = image.runtimes.values()
    code = "import asyncio, importlib.util as u; print(u.cache_from_source(asyncio.__file__))"
    assert os.path.exists(image.root + say(image.root, interpreter, code))


def test_nothing_of_the_host_is_in_it_that_has_no_place_there(home: Settings) -> None:
    image = load_images(home.images_dir)["host"]
    names = {name for _, folders, files in os.walk(image.root) for name in (*folders, *files)}
    assert not names & {"dist-packages", "site-packages", "idlelib", "tkinter", "ensurepip", "shadow"}
    assert image.size_bytes < 200_000_000


def test_threads_can_be_cancelled_in_it(home: Settings) -> None:
    # glibc loads libgcc_s by name when a thread exits early; without it the process aborts.
    image = load_images(home.images_dir)["host"]
    (interpreter,) = image.runtimes.values()
    say(image.root, interpreter, "import ctypes, threading; ctypes.CDLL('libgcc_s.so.1'); threading.Thread(target=int).start()")


@pytest.mark.requires("python2.7")
def test_an_image_is_built_from_another_interpreter(home: Settings) -> None:
    manifest = build_host(home, name="py27", python=PYTHON27)
    assert manifest.versions["Python2.7"].startswith("2.7.")
    assert "urllib2" in manifest.preloads["Python2.7"]
    root = str(home.images_dir / "py27/root")
    assert say(root, manifest.runtimes["Python2.7"], "import ssl, json, ctypes; print(json.dumps(1))") == "1"


@pytest.mark.parametrize("name", ["libstdc++.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1"])
def test_what_binary_wheels_expect_of_a_system_is_there(home: Settings, name: str) -> None:
    image = load_images(home.images_dir)["host"]
    (interpreter,) = image.runtimes.values()
    say(image.root, interpreter, f"import ctypes; ctypes.CDLL({name!r})")


def test_a_virtual_environment_is_followed_to_its_interpreter() -> None:
    found = describe_python(sys.executable)
    assert os.path.realpath(sys.executable) == found.executable
    assert all(not path.startswith(sys.prefix) for path in found.library) or sys.prefix == sys.base_prefix


def test_what_is_no_python_is_refused(home: Settings) -> None:
    for path in ("/bin/true", "/nowhere/python", "/etc/passwd"):
        with pytest.raises(ImageError, match="not a Python that runs"):
            build_host(home, name="none", python=path)
    assert "none" not in load_images(home.images_dir)


def test_the_closure_has_the_c_library_and_the_loader() -> None:
    names = {os.path.basename(path) for path in closure(["/bin/sh"])}
    assert any(name.startswith("libc.so") for name in names)
    assert any(name.startswith("ld-linux") for name in names)


def pack(root: str, file: Path, *, mode: str, arrange: dict[str, str]) -> None:
    """A tarball of an image as a distribution would have packed it: no devices, given links, given files."""
    with tarfile.open(file, mode, compresslevel=1) as archive:  # type: ignore[call-overload]
        archive.add(root, ".", filter=lambda member: None if member.name.split("/")[1:2] == ["dev"] else member)
        for name, target in arrange.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)


def test_a_tarball_in_the_shape_of_centos_7_imports_and_runs(home: Settings, tmp_path: Path) -> None:
    """/bin, /lib and /lib64 merged into /usr, no /dev, release in /etc/centos-release, python as a chain of links, closed modes."""
    tree = tmp_path / "tree"
    shutil.copytree(load_images(home.images_dir)["host"].root, tree, symlinks=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if (tree / name).is_symlink():
            (tree / name).unlink()
            (tree / name).symlink_to(f"/usr/{name}" if name == "lib64" else f"usr/{name}")
    (tree / "etc/os-release").unlink(missing_ok=True)
    (tree / "etc/centos-release").write_text("CentOS Linux release 7.2.1511 (Core) \n")
    (tree / "usr").chmod(0o700)  # an unprivileged sandbox could not get in
    (tree / "etc/resolv.conf").unlink()
    (tree / "etc/resolv.conf").symlink_to("/run/resolv.conf")
    pack(str(tree), tmp_path / "centos.tar.gz", mode="w:gz", arrange={"./usr/local/bin/python3": "/usr/bin/python3"})
    manifest = import_tarball(home, tmp_path / "centos.tar.gz", "centos7")
    host = load_images(home.images_dir)["host"]
    assert manifest.release == "CentOS Linux release 7.2.1511 (Core)"
    assert manifest.runtimes == host.runtimes
    assert manifest.preloads == {key: list(names) for key, names in host.preloads.items()}
    (interpreter,) = manifest.runtimes.values()
    assert say(str(home.images_dir / "centos7/root"), interpreter, "import ssl, os; print(os.getuid())") == "65534"


def test_an_interpreter_that_does_not_run_is_left_out_with_the_reason(home: Settings, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(load_images(home.images_dir)["host"].root, tree, symlinks=True)
    (tree / "usr/local/bin").mkdir(parents=True)
    (tree / "usr/local/bin/python3.99").write_text("#!/no/such/interpreter\n")
    (tree / "usr/local/bin/python3.98").symlink_to("/missing")
    (tree / "usr/local/bin/python3.99").chmod(0o755)
    found = find_interpreters(str(tree))
    assert found.runtimes == load_images(home.images_dir)["host"].runtimes
    assert [warning.split(" ")[0] for warning in found.warnings] == ["/usr/local/bin/python3.98", "/usr/local/bin/python3.99"]
    assert "No such file" in found.warnings[1]


def test_an_interpreter_without_json_is_left_out(home: Settings, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(load_images(home.images_dir)["host"].root, tree, symlinks=True)
    (library,) = (tree / "usr/lib").glob("python3.*/json")
    shutil.rmtree(library)
    found = find_interpreters(str(tree))
    assert found.runtimes == {}
    assert "lacks json" in found.warnings[0]


def test_a_module_that_starts_a_thread_is_no_preload(home: Settings, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(load_images(home.images_dir)["host"].root, tree, symlinks=True)
    (library,) = (tree / "usr/lib").glob("python3.*/uuid.py")
    library.write_text("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n")
    (preloads,) = find_interpreters(str(tree)).preloads.values()
    assert "uuid" not in preloads
    assert {"json", "ssl", "http.client"} <= set(preloads)


def test_a_replaced_image_stays_while_something_has_it_mounted(home: Settings, tmp_path: Path) -> None:
    build_host(home, name="busy")
    mount = 'mount --bind "$1" "$1" && cd "$1" && echo ready && read line && ls usr/bin/env'
    user = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", mount, "sh", str(home.images_dir / "busy/root")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with user:
        assert user.stdout is not None
        assert user.stdout.readline() == "ready\n"
        build_host(home, name="busy", force=True)
        assert [name for name in os.listdir(home.images_dir) if name.startswith(".old-busy-")]
        assert user.communicate("go\n")[0] == "usr/bin/env\n"
    sweep(home.images_dir)
    assert not [name for name in os.listdir(home.images_dir) if name.startswith(".") and name != ".lock"]


def test_the_command_line_tells_what_there_is_and_what_went_wrong(home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTH_HOME", home.home)
    run = CliRunner().invoke
    listed = run(admin.main, ["image", "ls", "--json"])
    assert listed.exit_code == 0
    assert "host" in {entry["name"] for entry in json.loads(listed.stdout)}
    assert "RUNTIMES" in run(admin.main, ["image", "ls"]).stdout
    bad = tmp_path / "bad.tar"
    bad.write_text("no tarball")
    failed = run(admin.main, ["image", "import", str(bad), "--name", "bad"])
    assert failed.exit_code == 1
    assert failed.stderr.splitlines()[-2].startswith("error: ")
    assert failed.stderr.splitlines()[-1].startswith("hint: ")
    assert run(admin.main, ["image", "import", str(bad)]).exit_code == 2
    assert run(admin.main, ["image", "rm", "nothing"]).exit_code == 1


def test_a_terminated_import_leaves_nothing(tmp_path: Path) -> None:
    fifo = tmp_path / "archive"
    os.mkfifo(fifo)
    environment = {**os.environ, "HEARTH_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "sandbox.admin", "image", "import", str(fifo), "--name", "slow"]
    # open() of a fifo returns once the import has opened the other end, which it does after staging.
    with subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2]) as process, open(fifo, "wb"):
        assert any(name.startswith(".tmp-slow-") for name in os.listdir(tmp_path / "home/images"))
        process.terminate()
        assert process.wait(10) != 0
    assert os.listdir(tmp_path / "home/images") == [".lock"]


@pytest.mark.requires("tool:debootstrap")
def test_a_suite_that_does_not_exist_is_told_in_debootstraps_words(tmp_path: Path) -> None:
    home = Settings(home=str(tmp_path))
    with pytest.raises(ImageError, match="nosuchsuite"):
        build_debian(home, suite="nosuchsuite", name="debian")
    with pytest.raises(ImageError, match="not the name of a suite"):
        build_debian(home, suite="--help", name="debian")
    assert os.listdir(home.images_dir) == [".lock"]
