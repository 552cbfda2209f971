"""Packages in images that run: an administrator's own without any network, the service's SDKs from PyPI, preloads in zygotes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.errors import ImageError
from sandbox.imaging.host import build_host
from sandbox.imaging.interpreters import run_confined
from sandbox.imaging.manifest import Manifest
from sandbox.imaging.packages import SDKS, Packages, read_pins
from sandbox.settings import Settings
from tests.conftest import find_python
from tests.integration.instance import Instance, leaving_nothing

pytestmark = pytest.mark.requires("root")

IMPORTS = """
import Crypto.Hash.MD5, QcloudApi.qcloudapi, crcmod.predefined, requests, six, xmltodict
import qcloud_cos, tencentserverless.scf, tencentserverless.exception
import tencentcloud.common.credential, tencentcloud.scf.v20180416.scf_client, tencentcloud.scf.v20180416.models
qcloud_cos.CosS3Client(qcloud_cos.CosConfig(Region='ap-guangzhou', SecretId='a', SecretKey='b'))
QcloudApi.qcloudapi.QcloudApi('scf', {'secretId': 'a', 'secretKey': 'b', 'Region': 'gz', 'method': 'GET'})
tencentcloud.scf.v20180416.scf_client.ScfClient(tencentcloud.common.credential.Credential('a', 'b'), 'ap-guangzhou')
tencentserverless.scf.Client(secret_id='a', secret_key='b', region='ap-guangzhou')
import threading
print(threading.active_count())
"""


def wheel(folder: Path, name: str, version: str, code: str, *, requires: str = "") -> Path:
    """A pure wheel with one module of its name."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py2.py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py2-none-any\nTag: py3-none-any\n",
    }

    def record(text: str) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        return f"sha256={digest},{len(text.encode())}"

    files[f"{info}/RECORD"] = "".join(f"{file},{record(text)}\n" for file, text in files.items()) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(home=str(tmp_path / "home"))
    yield settings
    shutil.rmtree(settings.home, ignore_errors=True)


def say(home: Settings, manifest: Manifest, code: str) -> str:
    (interpreter,) = manifest.runtimes.values()
    done = run_confined(str(home.images_dir / manifest.name / "root"), [interpreter, "-W", "ignore", "-c", code])
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def own(tmp_path: Path, *lines: str) -> Packages:
    file = tmp_path / "requirements.txt"
    file.write_text("".join(f"{line}\n" for line in lines))
    return Packages(requirements=(str(file),), wheels=str(tmp_path / "wheels"))


def test_an_administrators_requirements_with_what_they_require(home: Settings, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "upper", "1.0", "import lower\nWORD = lower.WORD.upper()\n", requires="lower>=2")
    wheel(tmp_path / "wheels", "lower", "2.1", "WORD = 'word'\n")
    manifest = build_host(home, packages=own(tmp_path, "upper==1.0"))
    assert manifest.packages == {next(iter(manifest.runtimes)): ["lower==2.1", "upper==1.0"]}
    place = say(home, manifest, "import upper; print(upper.WORD + ' ' + upper.__file__)").removeprefix("WORD ")
    file = home.images_dir / f"host/root{place}"
    facts = file.stat()
    assert (facts.st_uid, facts.st_mode & 0o777) == (0, 0o644)
    assert list(file.parent.rglob("upper.*.pyc"))
    assert sorted(os.listdir(home.images_dir / "host")) == ["manifest.json", "root"]


@pytest.mark.requires("python2.7")
def test_requirements_for_an_interpreter_that_is_not_ours(home: Settings, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "lower", "2.1", "WORD = u'word'\n", requires="nowhere")
    manifest = build_host(home, name="py27", python=find_python("2.7"), packages=own(tmp_path, "lower"))
    assert manifest.packages == {"Python2.7": ["lower==2.1"]}  # its file names everything: nothing is resolved
    assert say(home, manifest, "import lower; print(lower.WORD)") == "word"


def test_what_cannot_be_had_is_told_and_leaves_nothing(home: Settings, tmp_path: Path) -> None:
    path = wheel(tmp_path / "wheels", "lower", "2.1", "")
    with pytest.raises(ImageError, match=r"nosuchthing") as caught:
        build_host(home, packages=own(tmp_path, "nosuchthing"))
    assert "--wheels DIR" in caught.value.hint
    with pytest.raises(ImageError, match=r"(?i)hash"):
        build_host(home, packages=own(tmp_path, f"lower==2.1 --hash=sha256:{'0' * 64}"))
    path.write_bytes(b"no wheel")
    with pytest.raises(ImageError, match="pip could not install packages"):
        build_host(home, packages=own(tmp_path, "lower"))
    with pytest.raises(ImageError, match=r"certifi"):
        build_host(home, packages=Packages(sdks=True, wheels=str(tmp_path / "wheels")))
    assert os.listdir(home.images_dir) == [".lock"]


# The SDKs ----------------------------------------------------------------------------------------------------------------------


def sdks() -> Packages:
    return Packages(sdks=True, wheels=os.environ.get("HEARTH_TEST_WHEELS", ""))


@pytest.mark.requires("sdks", "python2.7")
def test_the_sdks_import_on_python_2(home: Settings) -> None:
    manifest = build_host(home, name="py27", python=find_python("2.7"), packages=sdks())
    assert say(home, manifest, IMPORTS) == "1"
    assert "requests" in manifest.preloads["Python2.7"]
    pinned = {pin.line.split(" ")[0] for pin in read_pins(SDKS / "python2.txt")}
    assert {
        re.sub("[._-]+", "-", text.partition("==")[0]).lower() + text[text.index("==") :] for text in manifest.packages["Python2.7"]
    } == pinned


@pytest.mark.requires("sdks", "user", "memcg")
def test_the_sdks_import_on_python_3_and_are_preloaded(home: Settings, tmp_path: Path) -> None:
    manifest = build_host(home, packages=sdks())
    assert say(home, manifest, IMPORTS) == "1"
    (runtime,) = manifest.runtimes
    assert "requests" in manifest.preloads[runtime]
    code = f"import sys\nBEFORE = 'requests' in sys.modules\ndef main_handler(event, context):\n    exec({IMPORTS!r}, {{}})\n"
    code += "    return BEFORE\n"
    with leaving_nothing(Instance(tmp_path / "instance", home.images_dir / "host").start()) as hearth:
        name = hearth.deploy(code, runtime=runtime, timeout=60, memory=512)
        assert hearth.call(name).ok() is True
        # a package that the function brings itself is the one it gets
        brought = {
            "index.py": "import requests\ndef main_handler(event, context):\n    return requests.MINE\n",
            "requests.py": "MINE = 1\n",
        }
        assert hearth.call(hearth.deploy(brought, runtime=runtime)).ok() == 1


@pytest.mark.requires("sdks")
def test_every_pin_is_needed(home: Settings, tmp_path: Path) -> None:
    """What the pinned packages require is pinned: the image's own metadata says so."""
    manifest = build_host(home, packages=sdks())
    code = (
        "import json, re\nfrom importlib.metadata import distributions\nneeded = []\n"
        "for found in distributions():\n"
        "    needed += [re.match('[A-Za-z0-9._-]+', text).group() for text in found.requires or () if 'extra' not in text]\n"
        "print(json.dumps(needed))"
    )
    needed = {name.lower().replace("_", "-") for name in json.loads(say(home, manifest, code))}
    pinned = {line.partition("==")[0] for line in (SDKS / "python3.txt").read_text().splitlines() if "==" in line}
    assert needed <= pinned


def test_the_command_line_has_the_options(tmp_path: Path) -> None:
    for command in (["import"], ["pull"], ["build", "host"], ["build", "debian"], ["build", "centos7"]):
        line = [sys.executable, "-m", "sandbox.admin", "image", *command, "--help"]
        done = subprocess.run(line, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=True)
        assert all(option in done.stdout for option in ("--sdks", "--requirements", "--wheels"))
