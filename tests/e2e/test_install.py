"""scripts/install where systemd does not run: what it puts where, that it may be run again, and that it takes everything away.

In namespaces of its own, whose /etc, /opt, /var/lib and /usr/local are overlays: nothing of this machine changes. With systemd it is tested
in machines of its own (tests/vm).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.requires("root", "pypi", "overlay", "tool:dpkg-query")

COVERED = ("etc", "opt", "var/lib", "usr/local")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of wheels, made as for a machine without internet."""
    folder = tmp_path_factory.mktemp("bundle")
    subprocess.run([ROOT / "scripts" / "package", "--wheels", folder], check=True, capture_output=True, timeout=600)
    return folder


class Host:
    """A host made of this one: `run` changes only what lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COVERED:
            (folder / name / "upper").mkdir(parents=True)
            (folder / name / "work").mkdir()

    def run(self, *command: str, status: int = 0) -> str:
        """Both outputs."""
        mounts = [
            f"mount -t overlay -o lowerdir=/{name},upperdir={self.folder}/{name}/upper,workdir={self.folder}/{name}/work overlay /{name}"
            for name in COVERED
        ]
        # a /run without systemd, whatever this machine's has
        script = " && ".join([*mounts, "mount -t tmpfs tmpfs /run", "mkdir -p /run/lock", 'exec "$@"'])
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HEARTH_")}
        done = subprocess.run(
            ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--mount-proc", "bash", "-c", script, "bash", *command],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env=environment,
            cwd="/",
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def install(self, *arguments: str, status: int = 0) -> str:
        return self.run(str(ROOT / "scripts" / "install"), *arguments, status=status)

    def names(self, place: str) -> list[str]:
        return self.run("bash", "-c", f"ls -A {place} 2>/dev/null || true").split()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    # an overlay's upper directory must lie on a file system of its own kind: /tmp may be one itself
    folder = tmp_path / "host"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    try:
        yield Host(folder)
    finally:
        subprocess.run(["umount", folder], check=True)
        shutil.rmtree(folder)


def test_it_installs_from_a_bundle_is_quick_again_and_takes_everything_away(host: Host, bundle: Path) -> None:
    said = host.install("--wheels", str(bundle))
    assert "installed; systemd does not run here" in said
    assert {"venv", "releases", "docs"} <= set(host.names("/opt/hearth"))
    assert host.names("/etc/hearth") == ["hearth.toml"]
    assert {"images", "state", "credential", "api.env"} <= set(host.names("/var/lib/hearth"))
    units = [name for name in host.names("/etc/systemd/system") if name.startswith("hearth")]
    assert {"hearth.target", "hearth-sandboxd.service", "hearth-api.service", "hearth-api.socket"} <= set(units)
    assert "hearth, version" in host.run("hearth", "--version")
    assert host.run("stat", "-c", "%a %U %G", "/etc/hearth/hearth.toml").strip() == "640 root hearth"
    # nothing but the standard library's and the bundle's is imported: the image's recipes came along
    assert "Python3" in host.run("hearth", "image", "ls")

    credential = host.run("cat", "/var/lib/hearth/credential")
    host.run("bash", "-c", "echo 'workers = 3' >> /etc/hearth/hearth.toml; touch -r / /opt/hearth/releases/*/.complete")
    host.install("--wheels", str(bundle))
    assert host.run("cat", "/var/lib/hearth/credential") == credential
    assert "workers = 3" in host.run("cat", "/etc/hearth/hearth.toml")
    assert host.run("bash", "-c", "test / -ot /opt/hearth/releases/*/.complete || echo untouched").strip() == "untouched"

    host.run("bash", "-c", "printf 'wrong = 1\\nprepared = \"x\"\\n' >> /etc/hearth/hearth.toml")
    said = host.install("--wheels", str(bundle), status=1)
    assert "unknown setting 'wrong'" in said
    assert "'x' is not a int" in said
    host.run("sed", "-i", "/^wrong\\|^prepared/d", "/etc/hearth/hearth.toml")

    host.install("--uninstall")
    assert host.names("/opt/hearth") == host.names("/etc/hearth") == []
    assert [name for name in host.names("/etc/systemd/system") if name.startswith("hearth")] == []
    assert host.names("/usr/local/bin/hearth") == []
    assert {"images", "state", "credential", "hearth.toml"} <= set(host.names("/var/lib/hearth"))
    host.install("--uninstall", "--purge")
    assert "hearth" not in host.names("/var/lib")
    host.run("getent", "passwd", "hearth", status=2)


def test_wrong_usage_changes_nothing(host: Host) -> None:
    assert "scripts/install" in host.install("--purge", status=2)
    assert "no such directory" in host.install("--wheels", "/nowhere", status=1)
    assert host.names("/opt/hearth") == []
