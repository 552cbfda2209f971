"""examples/thumbnail on the built-in buckets, driven by cos-python-sdk-v5 and by boto3 as they come, on Python 3 and on Python 2.7."""

from __future__ import annotations

import io
import os
import platform
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import find_python
from tests.integration.bucketclients import cos_at, localhost_names
from tests.integration.bucketserver import free_port
from tests.integration.fixtures import build_image
from tests.integration.instance import ROOT, Instance, wait_until
from tests.integration.packages import COS, files_of
from tests.integration.test_bucket_functions import bucket, operator, operator_pair, trigger

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids", "nft", "sdks"), pytest.mark.shares_host]

INDEX = (ROOT / "examples/thumbnail/index.py").read_bytes()
PYTHON3 = ("Pillow", "--python-version", ".".join(platform.python_version_tuple()[:2]))
PYTHON2 = ("Pillow==6.2.2", "--python-version", "27", "--implementation", "cp", "--abi", "cp27mu", "--platform", "manylinux1_x86_64")


def pillow(folder: Path, tag: str, requirement: tuple[str, ...]) -> dict[str, bytes]:
    """The files of Pillow's wheel, of HEARTH_TEST_WHEELS or else of PyPI."""
    given = os.environ.get("HEARTH_TEST_WHEELS", "")
    found = sorted(Path(given).glob(f"[Pp]illow-*-{tag}-*.whl")) if given else []
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
        done = subprocess.run([*command, *requirement], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no wheel of Pillow for {tag}: neither HEARTH_TEST_WHEELS nor PyPI has one")
        found = sorted(folder.glob(f"[Pp]illow-*-{tag}-*.whl"))
    with zipfile.ZipFile(found[-1]) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(params=["python3", "Python2.7"])
def hearth(request: pytest.FixtureRequest, start: Callable[..., Instance], tmp_path: Path) -> Iterator[tuple[Instance, str]]:
    """With the function deployed; on Python 2.7 the SDK is the image's, as SCF's own has it."""
    with ExitStack() as stack:
        images, files = [], {"index.py": INDEX}
        if request.param == "Python2.7":
            python = find_python("2.7")
            if python is None:
                pytest.skip("python2.7: there is none on this machine")
            wheels = os.environ.get("HEARTH_TEST_WHEELS", "")
            images = [build_image(tmp_path / "home", "py27", "--python", python, "--sdks", *(["--wheels", wheels] if wheels else []))]
            stack.callback(shutil.rmtree, tmp_path / "home")
            files |= pillow(tmp_path, "cp27", PYTHON2)
        else:
            files |= files_of(*COS) | pillow(tmp_path, f"cp{sys.version_info.major}{sys.version_info.minor}", PYTHON3)
        instance = start(*images, prepared=1, bucket_listen=f"127.0.0.1:{free_port()}")
        stack.callback(instance.close)
        photos, small = bucket(instance, "photos"), bucket(instance, "small")
        name = instance.deploy(files, name="thumbnail", runtime=request.param, timeout=60, memory=512, environment={"TARGET": small})
        trigger(instance, name, photos)
        yield instance, name


def picture(width: int, height: int) -> bytes:
    """A PNG of one colour, made by hand."""
    rows = b"".join(b"\0" + b"\x20\x80\xe0" * width for _ in range(height))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    made = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + made


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_a_picture_becomes_a_thumbnail_in_another_bucket(hearth: tuple[Instance, str]) -> None:
    instance, name = hearth
    photos, small = "photos-1250000000", "small-1250000000"
    port = int(instance.environment["HEARTH_BUCKET_LISTEN"].rpartition(":")[2])

    def made(client: Any, key: str) -> bytes | None:
        listed = client.list_objects_v2(Bucket=small, Prefix=key)
        return client.get_object(Bucket=small, Key=key)["Body"].read() if listed["KeyCount"] else None

    with operator(instance) as s3, localhost_names(), cos_at(port, operator_pair(instance)) as cos:
        s3.put_object(Bucket=photos, Key="by/boto3.png", Body=picture(640, 320), ContentType="image/png")
        cos.put_object(Bucket=photos, Key="by/größe.png", Body=io.BytesIO(picture(300, 600)))
        first = wait_until(lambda: made(s3, "by/boto3.png"), "the first thumbnail", 60)
        second = wait_until(lambda: made(s3, "by/größe.png"), "the second thumbnail", 60)
        assert (size(first or b""), size(second or b"")) == ((128, 64), (64, 128))
        body = cos.get_object(Bucket=small, Key="by/größe.png")["Body"].get_raw_stream().read()
        assert body == second
    rows = wait_until(lambda: (found := instance.records(name)) and len(found) == 2 and found, "both records", 30)
    assert rows is not None
    assert {(row["state"], row["trigger"]) for row in rows} == {("succeeded", photos)}
