"""The recipe for CentOS 7.2 against a small repository of our own, signed with a throwaway key: what is installed, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from sandbox import admin
from sandbox.errors import ImageError
from sandbox.imaging.centos import build_centos
from sandbox.imaging.interpreters import run_confined
from sandbox.imaging.manifest import Manifest
from sandbox.imaging.recipe import RECIPES
from sandbox.settings import Settings

pytestmark = pytest.mark.requires("root", "tool:dnf", "tool:rpmbuild", "tool:rpmsign", "tool:createrepo_c", "tool:gpg")

VERSION = "7.2.1511"
RELEASE = "CentOS Linux release 7.2.1511 (Core) \n"

#: `tree` brings an interpreter and all it needs; the release runs a script in the new root, and brings what an image must not have.
SPEC = """
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
%global _build_id_links none
%global _binary_payload w0.gzdio
Name: {name}
Version: 1
Release: 1
Summary: a package for a test
License: none
BuildArch: x86_64
AutoReqProv: no
{head}
%description
A package for a test.
%install
{install}
%files
{files}
"""


@dataclass
class Forge:
    """Makes keys, packages and repositories in one directory."""

    folder: Path
    gnupg: Path

    def run(self, *command: str) -> str:
        # a home of its own: gpg and rpm keep things there
        environment = {**os.environ, "HOME": str(self.folder), "GNUPGHOME": str(self.gnupg)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def key(self, name: str) -> str:
        """A new key; its public half."""
        self.run("gpg", "--batch", "--passphrase", "", "--quick-generate-key", name, "rsa2048", "sign", "never")
        return self.run("gpg", "--batch", "--armor", "--export", name)

    def package(self, name: str, *, install: str, files: str, head: str = "") -> Path:
        spec = self.folder / f"{name}.spec"
        spec.write_text(SPEC.format(name=name, head=head, install=install, files=files))
        self.run("rpmbuild", "-bb", "--quiet", "--define", f"_topdir {self.folder}/build", "--define", f"_tmppath {self.folder}", str(spec))
        return self.folder / f"build/RPMS/x86_64/{name}-1-1.x86_64.rpm"

    def signed(self, package: Path, signer: str) -> Path:
        """The package signed with that key, as a file of its own."""
        copy = self.folder / signer / package.name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(package, copy)
        self.run("rpmsign", "--define", "__gpg /usr/bin/gpg", "--define", f"_gpg_name {signer}", "--addsign", str(copy))
        return copy

    def mirror(self, name: str, *packages: Path) -> str:
        """A mirror with those packages; its URL."""
        for repository in ("os", "updates"):
            folder = self.folder / name / VERSION / repository / "x86_64"
            folder.mkdir(parents=True)
            for package in packages if repository == "os" else ():
                os.link(package, folder / package.name)
            self.run("createrepo_c", "--quiet", str(folder))
        return f"file://{self.folder / name}"


@dataclass
class Place:
    """Mirrors by what is wrong with them, and a recipe that trusts the key of the good one."""

    recipe: Path
    good: str
    unsigned: str
    stranger: str
    interpreter: str


@pytest.fixture(scope="module")
def place(host_image: Path, python27_image: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("forge")
    with tempfile.TemporaryDirectory(dir="/tmp") as gnupg:  # sockets have short names
        forge = Forge(folder, Path(gnupg))
        try:
            yield arrange(forge, python27_image or host_image)
        finally:
            forge.run("gpgconf", "--kill", "all")
    shutil.rmtree(folder)


def arrange(forge: Forge, image: Path) -> Place:
    recipe = forge.folder / "recipe with space"
    shutil.copytree(RECIPES / "centos7", recipe)
    (recipe / "RPM-GPG-KEY-CentOS-7").write_text(forge.key("ours"))
    forge.key("stranger")
    text = (recipe / "centos7.toml").read_text()
    start = text.index("packages = [")
    (recipe / "centos7.toml").write_text(text[:start] + "packages = ['tree', 'centos-release']\n" + text[text.index("]", start) + 1 :])
    (key, interpreter), *_ = json.loads((image / "manifest.json").read_text())["runtimes"].items()
    name = "/usr/bin/" + key.lower()
    tree = forge.folder / "tree"
    shutil.copytree(image / "root", tree, symlinks=True)
    if interpreter != name:
        (tree / name.lstrip("/")).symlink_to(interpreter)
    for mount_point in ("proc", "sys", "dev", "run", "var/user"):
        shutil.rmtree(tree / mount_point)
    (tree / "etc/os-release").unlink(missing_ok=True)
    for link in ("lib64", "bin"):
        assert (tree / link).is_symlink()
    everything = "\n".join(f"/{entry}" for entry in sorted(os.listdir(tree)))
    install = f"cp -a {tree}/. %{{buildroot}}"
    unsigned_tree = forge.package("tree", install=install, files=everything, head="Provides: /bin/sh")
    unsigned = forge.package(
        "centos-release",
        install=f"mkdir -p %{{buildroot}}/etc %{{buildroot}}/usr/bin; printf '{RELEASE}' > %{{buildroot}}/etc/centos-release; "
        "touch %{buildroot}/usr/bin/su",
        files="/etc/centos-release\n%attr(4755, root, root) /usr/bin/su\n%dev(c, 1, 3) %attr(666, root, root) /dev/zero",
        head="Requires: tree\n%post\ntest -d /var/lib/rpm && echo in the root > /etc/script",
    )
    signed_tree = forge.signed(unsigned_tree, "ours")
    return Place(
        recipe,
        forge.mirror("good", signed_tree, forge.signed(unsigned, "ours")),
        forge.mirror("unsigned", signed_tree, unsigned),
        forge.mirror("stranger", signed_tree, forge.signed(unsigned, "stranger")),
        name,
    )


@pytest.fixture(scope="module")
def built(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Manifest, Path, list[str]]]:
    """The image from the good mirror: manifest, directory, what was told meanwhile."""
    home = Settings(home=str(tmp_path_factory.mktemp("built") / "home, with space"))
    seen: list[str] = []
    manifest = build_centos(home, mirror=place.good, recipe_folder=place.recipe, progress=lambda done, total, text: seen.append(text))
    yield manifest, home.images_dir / "centos7", seen
    shutil.rmtree(home.home)


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path / "home"))


def test_the_packages_become_an_image(place: Place, built: tuple[Manifest, Path, list[str]]) -> None:
    manifest, image, seen = built
    assert manifest.release == RELEASE.strip()
    assert manifest.source == f"centos:{VERSION}"
    assert manifest.runtimes == {place.interpreter.removeprefix("/usr/bin/").capitalize(): place.interpreter}
    assert run_confined(f"{image}/root", [place.interpreter, "-c", "import json, ssl, ctypes; print(json.dumps(1))"]).stdout == "1\n"
    assert (image / "root/etc/script").read_text() == "in the root\n"
    assert any("Installing" in text for text in seen)
    assert sorted(os.listdir(image)) == ["manifest.json", "root"]


def test_what_an_image_must_not_have_is_not_there(built: tuple[Manifest, Path, list[str]]) -> None:
    root = built[1] / "root"
    modes = {path: path.lstat().st_mode for path in root.rglob("*")}
    assert not [path for path, mode in modes.items() if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))]
    assert not [path for path, mode in modes.items() if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID)]
    assert [os.listdir(root / name) for name in ("dev", "var/lib/rpm", "var/cache", "var/log", "tmp")] == [[]] * 5
    assert not [path for path in modes if path.name.startswith((".rpm", "rpmdb", "RPM-GPG"))]
    assert os.readlink(root / "lib64") == "usr/lib64"
    assert all((root / name).is_dir() for name in ("var/user", "opt", "home/qcloud"))


def test_an_unsigned_package_is_refused(place: Place, home: Settings) -> None:
    with pytest.raises(ImageError, match=r"centos-release.* is not signed"):
        build_centos(home, mirror=place.unsigned, recipe_folder=place.recipe)
    assert os.listdir(home.images_dir) == [".lock"]


def test_a_package_with_anothers_signature_is_refused(place: Place, home: Settings) -> None:
    with pytest.raises(ImageError, match=r"Public key for centos-release.*GPG check FAILED"):
        build_centos(home, mirror=place.stranger, recipe_folder=place.recipe)
    assert os.listdir(home.images_dir) == [".lock"]


def test_the_real_recipe_refuses_packages_of_our_key(place: Place, home: Settings, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe"
    shutil.copytree(place.recipe, recipe)
    shutil.copyfile(RECIPES / "centos7/RPM-GPG-KEY-CentOS-7", recipe / "RPM-GPG-KEY-CentOS-7")
    with pytest.raises(ImageError, match="GPG"):
        build_centos(home, mirror=place.good, recipe_folder=recipe)


def test_without_a_network_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTH_HOME", str(tmp_path))
    done = CliRunner().invoke(admin.main, ["image", "build", "centos7", "--mirror", "http://127.0.0.1:1/vault"])
    assert done.exit_code == 1
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("error: dnf could not install CentOS: ")
    assert "repomd.xml" in error
    assert hint.startswith("hint: it comes from http://127.0.0.1:1/vault: ")
    assert "--mirror URL" in hint and "hearth image import" in hint
    assert os.listdir(tmp_path / "images") == [".lock"]


@pytest.mark.parametrize("mirror", ["vault", "ftp://x", "http://a b", "http://a,http://b", "--help", "http://$releasever"])
def test_what_is_no_mirror_is_refused(home: Settings, mirror: str) -> None:
    with pytest.raises(ImageError, match="not the URL of a mirror"):
        build_centos(home, mirror=mirror)


def test_the_key_is_centos_own() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        command = ["gpg", "--homedir", folder, "--with-colons", "--show-keys", str(RECIPES / "centos7/RPM-GPG-KEY-CentOS-7")]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    # as CentOS published it: https://www.centos.org/keys/
    assert "fpr:::::::::6341AB2753D78A78A7C27BB124C6A8A7F4A80EB5:" in listed.splitlines()
