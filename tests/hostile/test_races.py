"""Names that lead elsewhere: in packages that are deployed, and in a /tmp that changes while the host looks at it.

The control: the same package without its trick is taken, and the link does lead somewhere inside the sandbox.
"""

from __future__ import annotations

import base64
import io
import os
import stat
import zipfile
from pathlib import Path

import pytest

from tests.integration.instance import Answer, Instance, wait_until

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

HANDLER = b"import os\ndef main_handler(event, context):\n    return os.stat('/var/user/index.py').st_mode & 0o7777\n"
LINK = stat.S_IFLNK | 0o777

#: name → (members as (name, bytes, mode), source)
PACKAGES: dict[str, tuple[list[tuple[str, bytes, int]], str]] = {
    "a name above the package": ([("../escaped", b"x", 0o100644)], "CVE-2018-1000544 (zip slip)"),
    "a name deep above": ([("a/../../../../escaped", b"x", 0o100644)], "CVE-2018-1002200 (zip slip)"),
    "an absolute name": ([("/tmp/escaped", b"x", 0o100644)], "CVE-2018-1002200 (zip slip)"),
    "a link out": ([("out", b"../../../..", LINK)], "CVE-2018-20834 (node-tar)"),
    "an absolute link": ([("out", b"/etc", LINK)], "CVE-2018-20834 (node-tar)"),
    "a file through a link": ([("out", b"/tmp", LINK), ("out/escaped", b"x", 0o100644)], "CVE-2018-20834 (node-tar)"),
    "a link to itself": ([("out", b"out", LINK), ("out/escaped", b"x", 0o100644)], "symlink(7) ELOOP"),
    "two links that meet outside": ([("a", b"b/..", LINK), ("b", b"..", LINK)], "CVE-2021-37701 (node-tar)"),
    "a link in the handler's place": ([("index2.py", b"/etc/passwd", LINK)], "symlink(7)"),
    "a device": ([("disk", b"", stat.S_IFBLK | 0o666)], "mknod(2)"),
    "a fifo": ([("pipe", b"", stat.S_IFIFO | 0o666)], "mkfifo(3)"),
}


def deploy(hearth: Instance, name: str, members: list[tuple[str, bytes, int]], mode: int = 0o100644) -> Answer:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data, its_mode in [("index.py", HANDLER, mode), *members]:
            info = zipfile.ZipInfo(member)
            info.create_system, info.external_attr = 3, its_mode << 16
            archive.writestr(info, data)
    code = {"zip": base64.b64encode(buffer.getvalue()).decode()}
    wanted = {"name": name, "runtime": "python3", "handler": "index.main_handler", "code": code}
    return hearth.request("POST", "/v1/functions", json=wanted)


@pytest.mark.parametrize("what", PACKAGES)
def test_a_package_with(hearth: Instance, what: str) -> None:
    members, _ = PACKAGES[what]
    before = sorted(os.listdir(hearth.home / "state/code"))
    assert deploy(hearth, "trick", members).status == 400
    assert sorted(os.listdir(hearth.home / "state/code")) == before
    assert not Path("/tmp/escaped").exists() and not (hearth.home / "state/escaped").exists() and not (hearth.home / "escaped").exists()


def test_the_control_is_taken(hearth: Instance) -> None:
    assert deploy(hearth, "honest", [("inside", b"index.py", LINK), ("a/b", b"x", 0o100644)]).status == 201
    assert hearth.call("honest").ok() == 0o644


def test_a_package_brings_no_setuid_bit_and_nothing_that_others_may_write(hearth: Instance) -> None:
    assert deploy(hearth, "setuid", [], mode=0o106777).status == 201
    assert hearth.call("setuid").ok() == 0o755
    hearth.delete("setuid")


EXCHANGE = """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
def main_handler(event, context):
    os.mkdir("/tmp/a")
    with open("/tmp/a/data", "wb") as file:
        file.write(b"x" * (3 << 20))
    os.symlink("/", "/tmp/b")
    rounds, end = 0, time.time() + event["seconds"]
    while time.time() < end:
        assert libc.renameat2(-100, b"/tmp/a", -100, b"/tmp/b", 2) == 0  # RENAME_EXCHANGE
        rounds += 1
    return [rounds, sorted(os.listdir("/tmp"))]
"""


def test_directories_exchanged_for_links_while_the_host_measures(hearth: Instance) -> None:
    """renameat2(2) RENAME_EXCHANGE; CVE-2018-15664 (docker cp). sandboxd looks into /tmp of a running function only as a file system."""
    name = hearth.deploy(EXCHANGE, timeout=5)
    call = hearth.call_soon(name, {"seconds": 1})
    wait_until(lambda: hearth.sandboxes(name), "it runs")
    looks = 0
    while not call.done():
        rows = hearth.sandboxes(name)
        assert all(row["tmp_bytes"] < 16 << 20 for row in rows)
        looks += 1
    rounds, left = call.result().ok()
    assert rounds > 100 and looks > 3 and left == ["a", "b"]
    hearth.delete(name)


def test_the_whole_tmp_cannot_be_exchanged(hearth: Instance) -> None:
    """A mount point stays where it is, rename(2) EBUSY; its parent is read-only besides."""
    code = """
        import errno, os
        def main_handler(event, context):
            told = []
            for act in (lambda: os.rename("/tmp", "/elsewhere"), lambda: os.rmdir("/tmp"), lambda: os.symlink("/etc", "/tmp")):
                try:
                    act()
                except OSError as error:
                    told.append(errno.errorcode[error.errno])
            return told
    """
    name = hearth.deploy(code)
    assert set(hearth.call(name).ok()) <= {"EBUSY", "EROFS", "EACCES", "EEXIST"}
    assert len(hearth.call(name).ok()) == 3
    hearth.delete(name)
