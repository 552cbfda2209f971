"""The default image: the host's own Python, its standard library and exactly the shared libraries they need. No network.

Files keep their absolute paths, so that sys.prefix and RPATHs hold; links are copied as links along with what they point to.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sandbox.errors import ImageError
from sandbox.image import ROOT
from sandbox.imaging import Progress, silent
from sandbox.imaging.manifest import NO_PACKAGES, Manifest, complete
from sandbox.imaging.mirror import Mirror
from sandbox.imaging.packages import Packages
from sandbox.imaging.recipe import load_recipe
from sandbox.imaging.rootfs import resolve_in_root, sanitise
from sandbox.imaging.store import staged
from sandbox.settings import Settings

_CERTIFICATES: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")

_DESCRIBE: Final = """
import json, sys, sysconfig
try:
    import ssl
    cafile = ssl.get_default_verify_paths().openssl_cafile
except ImportError:
    cafile = ""
print(json.dumps({
    "executable": getattr(sys, "_base_executable", None) or sys.executable,
    "version": "%d.%d" % sys.version_info[:2],
    "virtual": getattr(sys, "base_prefix", sys.prefix) != sys.prefix or hasattr(sys, "real_prefix"),
    "library": sorted(set(sysconfig.get_path(key) for key in ("stdlib", "platstdlib"))),
    "cafile": cafile,
}))
"""


@dataclass(frozen=True, slots=True)
class HostPython:
    """An interpreter of the host: its executable, "3.11", the directories of its library, OpenSSL's certificate file."""

    executable: str
    version: str
    library: tuple[str, ...]
    cafile: str


def build_host(
    settings: Settings,
    *,
    name: str = "host",
    python: str | None = None,
    progress: Progress = silent,
    force: bool = False,
    packages: Packages = NO_PACKAGES,
) -> Manifest:
    """Build the image and return its manifest. Raises ImageError: name taken, interpreter missing, nothing runs in the result."""
    found = describe_python(python or _default_python())
    recipe = load_recipe("host")
    with staged(settings.images_dir, name, force=force) as stage:
        root = str(stage / ROOT)
        mirror = Mirror(root, excluded=re.compile("|".join(f"(?:{pattern})" for pattern in recipe["excluded"])))
        progress(0, None, f"copying Python {found.version}")
        _copy_python(mirror, found)
        progress(mirror.copied_bytes, None, "copying programs and data")
        _copy_system(mirror, recipe)
        progress(mirror.copied_bytes, None, "copying shared libraries")
        for path in closure(_loadable(mirror)):
            mirror.add(path)
        _trust_certificates(root, found)
        _compile(root, found)
        sanitise(root)
        subprocess.run(["/sbin/ldconfig", "-r", root], check=False, capture_output=True)
        # `extra`: an interpreter outside the usual folders (a pyenv's) is found by its own path.
        return complete(
            stage,
            name,
            source=f"host:{found.executable}",
            progress=progress,
            extra=[_exact_name(found)],
            packages=packages,
            preloads=recipe.get("preloads", ()),
        )


def describe_python(path: str) -> HostPython:
    """Ask an interpreter about itself. A virtual environment's is followed to the one it was made from."""
    data = _ask(path)
    if data["virtual"]:
        # A 2.7 of virtualenv has no _base_executable and says itself; asking once more would not end.
        if os.path.realpath(data["executable"]) == os.path.realpath(path) and data["executable"] == path:
            raise ImageError(f"{path} belongs to a virtual environment", hint="name the interpreter that it was made from")
        data = _ask(os.path.realpath(data["executable"]))
    return HostPython(os.path.realpath(data["executable"]), data["version"], tuple(data["library"]), data["cafile"])


def closure(paths: Iterable[str]) -> list[str]:
    """The shared libraries that the given files need, all the way, and the loader. Raises ImageError if ldd is missing.

    ldd(1) runs the loader, so the answer has the host's search order in it; only files of the host itself are asked about.
    """
    try:
        done = subprocess.run(
            ["ldd", *paths], stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False
        )
    except FileNotFoundError as error:
        raise ImageError("ldd is missing", hint="it comes with the C library: apt-get install libc-bin") from error
    return sorted(set(re.findall(r"(?:=> |^\t)(/\S+) \(0x", done.stdout, re.MULTILINE)))


def _ask(path: str) -> dict[str, Any]:
    try:
        done = subprocess.run([path, "-sE", "-c", _DESCRIBE], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _no_python(path, error.strerror if isinstance(error, OSError) else "no answer") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        said = done.stderr.strip().splitlines()
        raise _no_python(path, said[-1] if said else f"exit status {done.returncode}")
    return answer


def _no_python(path: str, reason: str | None) -> ImageError:
    return ImageError(f"{path} is not a Python that runs: {reason}", hint="--python takes the path of an interpreter")


def _default_python() -> str:
    path = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else shutil.which("python3")
    if path is None:
        raise ImageError("there is no /usr/bin/python3", hint="--python takes the path of another interpreter")
    return path


def _copy_python(mirror: Mirror, found: HostPython) -> None:
    folder = os.path.dirname(found.executable)
    for name in (f"python{found.version}", f"python{found.version[0]}", "python"):
        path = os.path.join(folder, name)
        # Another Python's name beside this one (python2 beside 3) would bring an interpreter without its library.
        if os.path.realpath(path) == found.executable and os.path.exists(path):
            mirror.add(path)
    mirror.add(found.executable)
    for library in found.library:
        mirror.add_tree(library)


def _exact_name(found: HostPython) -> str:
    exact = os.path.join(os.path.dirname(found.executable), f"python{found.version}")
    return exact if os.path.realpath(exact) == found.executable else found.executable


def _copy_system(mirror: Mirror, recipe: dict[str, list[str]]) -> None:
    for name in recipe["programs"]:
        for folder in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
            if os.path.isfile(path := f"{folder}/{name}"):
                mirror.add(path)
                break
    if os.path.isfile("/bin/sh"):
        mirror.add("/bin/sh")
    for path in recipe["data"]:
        if os.path.isdir(path):
            mirror.add_tree(path, skip=recipe["excluded_data"])
        elif os.path.isfile(path):
            mirror.add(path)
    libc = next((path for path in closure(["/bin/sh"]) if os.path.basename(path).startswith("libc.so")), "")
    for name in recipe["runtime_libraries"]:
        if libc and os.path.exists(path := os.path.join(os.path.dirname(libc), name)):
            mirror.add(path)
    # A host of usrmerge has them, and "#!/bin/sh" and the loader's path depend on them.
    for path in ("/bin", "/sbin", "/lib", "/lib64"):
        mirror.add_links(path)


def _loadable(mirror: Mirror) -> Iterator[str]:
    """Host paths of the copied files that may need libraries."""
    for path in mirror.files:
        if ".so" in os.path.basename(path) or os.access(path, os.X_OK):
            with open(path, "rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def _trust_certificates(root: str, found: HostPython) -> None:
    """OpenSSL looks for one file first; a Debian host keeps a directory of hashed links instead, which we don't copy."""
    bundle = next((path for path in _CERTIFICATES if os.path.isfile(resolve_in_root(root, path))), None)
    if not bundle or not found.cafile.startswith("/"):
        return
    target = resolve_in_root(root, found.cafile)
    if not os.path.lexists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(bundle, target)


def _compile(root: str, found: HostPython) -> None:
    """Byte-compile the library if the host has not, or every zygote and every exec would again. Best effort, it only costs time."""
    for library in found.library:
        inside = resolve_in_root(root, library)
        sources = len(glob.glob(f"{glob.escape(inside)}/*.py"))
        compiled = len(glob.glob(f"{glob.escape(inside)}/*.pyc")) + len(glob.glob(f"{glob.escape(inside)}/__pycache__/*.pyc"))
        if compiled * 2 < sources:
            command = ["chroot", root, found.executable, "-sE", "-m", "compileall", "-q", library]
            subprocess.run(command, check=False, capture_output=True, timeout=300)
