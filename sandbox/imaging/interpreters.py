"""Which Pythons an image has and which of them really run there.

Each candidate is started chrooted, as nobody, in namespaces of its own (mount, pid, net, ipc, uts), with a `/dev` of three bind
mounts and a `/proc`; it says its version and which modules import. One that doesn't run is left out with a reason.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sandbox.errors import ImageError
from sandbox.imaging.rootfs import resolve_in_root

_FOLDERS: Final = ("usr/bin", "bin", "usr/local/bin", "opt/*/bin", "var/lang/*/bin", "var/lang/bin")
_NAME: Final = re.compile(r"python(2\.7|3\.\d+|2|3)")
_TIMEOUT_SECONDS: Final = 60

#: The guest program can't do without them.
_NEEDED: Final = ("json", "socket", "select", "ctypes")

_BOTH: Final = (
    "json logging threading socket select ssl ctypes datetime decimal fractions re base64 binascii hashlib hmac uuid tempfile collections "
    "functools itertools operator random math string struct time calendar copy io os os.path errno stat shutil glob fnmatch zlib gzip "
    "zipfile tarfile csv pickle traceback linecache inspect types weakref contextlib abc codecs locale heapq bisect textwrap pprint "
    "platform signal subprocess mimetypes urllib email xml.etree.ElementTree sqlite3 unicodedata"
).split()
_ONLY: Final = {
    2: "urllib2 httplib urlparse cookielib Cookie StringIO cStringIO Queue HTMLParser email.mime.text __future__".split(),
    3: (
        "urllib.request urllib.parse urllib.error http.client http.cookies http.cookiejar queue html typing enum dataclasses pathlib "
        "concurrent.futures asyncio ipaddress secrets statistics email.message importlib.metadata contextvars"
    ).split(),
}

# Runs inside the image, on anything from 2.7 on. One import at a time: a module that starts a thread or fails is no preload.
_PROBE: Final = """
import sys
sys.stdout.write("HEARTH version %d.%d.%d\\n" % sys.version_info[:3])
for name in sys.argv[1:]:
    try:
        __import__(name)
    except BaseException:
        sys.stdout.write("HEARTH no %s %s\\n" % (name, str(sys.exc_info()[1]).replace("\\n", " ")))
    else:
        threads = len(sys._current_frames()) > 1
        sys.stdout.write("HEARTH %s %s\\n" % ("threads" if threads else "ok", name))
        if threads:
            break
    sys.stdout.flush()
"""

# $1 is the root, $2 its /dev, $3 its /proc (both as host paths without links), then the program.
_CONFINE: Final = """
set -e
root=$1 dev=$2 proc=$3
shift 3
mount -t tmpfs -o mode=755,size=64k hearth-probe "$dev"
for node in null urandom random; do : > "$dev/$node"; mount --bind "/dev/$node" "$dev/$node"; done
mount -t proc proc "$proc" || true
exec chroot --userspec=+65534:+65534 --groups= "$root" "$@"
"""


@dataclass(slots=True)
class Interpreters:
    """What was found: the manifest's three tables, and one warning for each candidate that didn't do."""

    runtimes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    preloads: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Answer:
    version: str = ""
    working: list[str] = field(default_factory=list)
    failing: dict[str, str] = field(default_factory=dict)
    complaint: str = ""


def find_interpreters(root: str, *, extra: Iterable[str] = (), folders: Iterable[str] = (), preloads: Iterable[str] = ()) -> Interpreters:
    """Look in the usual places, in `folders` and at `extra` (absolute paths inside the image), and try each interpreter once.

    `preloads` are modules that may become preloads beside the standard library's.
    """
    preloads = list(preloads)
    found = Interpreters()
    for path in _candidates(root, extra, folders):
        answer = _ask(root, path, _NEEDED)
        if not answer.version:
            found.warnings.append(f"{path} does not run: {answer.complaint}")
            continue
        if reasons := [f"{name} ({why})" for name, why in answer.failing.items()]:
            found.warnings.append(f"{path} lacks {', '.join(reasons)}")
            continue
        key = "Python" + answer.version.rpartition(".")[0]
        if key not in found.runtimes:
            found.runtimes[key] = path
            found.versions[key] = answer.version
            found.preloads[key] = _preloads(root, path, answer.version, preloads)
    return found


def run_confined(root: str, command: list[str], *, timeout_seconds: float = _TIMEOUT_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run a program of the image, chrooted, as nobody, in its own namespaces. Raises subprocess.TimeoutExpired."""
    dev, proc = resolve_in_root(root, "dev"), resolve_in_root(root, "proc")
    return subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts", "--", "sh", "-c", _CONFINE, "sh"]
        + [root, dev, proc, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"},
        timeout=timeout_seconds,
        check=False,
    )


def _candidates(root: str, extra: Iterable[str], folders: Iterable[str]) -> list[str]:
    """Paths inside the image, each real file once, exact names ("python3.6") before loose ones ("python3")."""
    named: list[str] = []
    for folder in (*_folders(root), *(folder.strip("/") for folder in folders)):
        named += [f"/{folder}/{name}" for name in _listing(root, folder) if _NAME.fullmatch(name)]
    named.sort(key=lambda path: "." not in os.path.basename(path))  # stable: the folders keep their order
    paths = [*extra, *named]
    return list({resolve_in_root(root, path): path for path in reversed(paths)}.values())[::-1]


def _folders(root: str) -> Iterator[str]:
    """The usual places, `*` filled in with what the image has there."""
    for folder in _FOLDERS:
        above, star, below = folder.partition("*")
        yield from (f"{above}{name}{below}" for name in _listing(root, above)) if star else (folder,)


def _listing(root: str, folder: str) -> list[str]:
    """What a directory of the image holds, wherever the image's links put it: /bin may be an absolute one. Nothing where there is none."""
    try:
        return sorted(os.listdir(resolve_in_root(root, folder)))
    except (OSError, ImageError):
        return []


def _preloads(root: str, path: str, version: str, more: list[str]) -> list[str]:
    names = [*_BOTH, *_ONLY.get(int(version.partition(".")[0]), []), *more]
    # A module that starts a thread ends the probe: it is struck out and the rest tried again.
    while True:
        answer = _ask(root, path, names)
        threaded = [name for name, why in answer.failing.items() if why == "starts a thread"]
        if not threaded:
            return answer.working
        names = [name for name in names if name not in threaded]


def _ask(root: str, path: str, names: Iterable[str]) -> _Answer:
    answer = _Answer()
    try:
        done = run_confined(root, [path, "-sEB", "-c", _PROBE, *names])
    except subprocess.TimeoutExpired:
        answer.complaint = f"no answer in {_TIMEOUT_SECONDS} seconds"
        return answer
    for line in done.stdout.splitlines():
        mark, _, rest = line.partition(" ")
        kind, _, rest = rest.partition(" ")
        name, _, why = rest.partition(" ")
        if mark != "HEARTH":
            continue
        if kind == "version":
            answer.version = name
        elif kind == "ok":
            answer.working.append(name)
        else:
            answer.failing[name] = "starts a thread" if kind == "threads" else why
    if not answer.version:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        answer.complaint = lines[-1]
    return answer
