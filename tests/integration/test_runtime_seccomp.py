"""The system call filter through a real instance: every refused call is refused, ordinary programs notice nothing, Python 3 and 2.7.

The probes are those of the unit tests; here they also run outside as root, where each must come to something else.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import find_python
from tests.integration.instance import ROOT, Instance, leaving_nothing
from tests.seccomp_probes import BY_ARGUMENT, BY_NUMBER, LIKE_OUTSIDE, X32_GETPID, Probe, is_told_apart

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

#: Time limit of the functions, seconds, below the HTTP client's own 60: what is slow on a busy machine is none of these tests' business.
PATIENT = 55

PAYLOADS = ROOT / "tests/payloads/seccomp"
PROBE, WORKLOADS = (PAYLOADS / "probe.py").read_text(), (PAYLOADS / "workloads.py").read_text()

EXTENSION = r"""
#include <Python.h>
static PyObject *answer(PyObject *self, PyObject *args) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
#if PY_MAJOR_VERSION > 2
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "hearth_extension", "", -1, methods};
PyMODINIT_FUNC PyInit_hearth_extension(void) { return PyModule_Create(&module); }
#else
PyMODINIT_FUNC inithearth_extension(void) { Py_InitModule("hearth_extension", methods); }
#endif
"""


@dataclass(frozen=True)
class Guest:
    """A runtime, its interpreter on the host and which wheels fit it."""

    runtime: str
    python: str
    wheels: tuple[str, ...]
    packages: tuple[str, ...]


@pytest.fixture(scope="module", params=["python3", pytest.param("Python2.7", marks=pytest.mark.requires("python2.7"))])
def guest(request: pytest.FixtureRequest) -> Guest:
    if request.param == "python3":
        return Guest("python3", "/usr/bin/python3", (), ("numpy<2.3", "requests"))
    python = find_python("2.7")
    assert python is not None
    wide = subprocess.check_output([python, "-c", "import sys; print(sys.maxunicode > 65535)"]).strip() == b"True"
    wheels = ("--python-version=2.7", "--implementation=cp", f"--abi=cp27m{'u' if wide else ''}", "--platform=manylinux1_x86_64")
    # one by one, the last of each for 2.7: the pip that looks for them judges what they need by its own Python
    packages = ("numpy==1.16.6", "requests==2.27.1", "urllib3==1.26.20", "chardet==4.0.0", "idna==2.10", "certifi==2021.10.8")
    return Guest("Python2.7", python, (*wheels, "--only-binary=:all:", "--no-deps"), packages)


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance], python27_image: Path | None) -> Iterator[Instance]:
    with leaving_nothing(start(python27_image, default_memory_mb=512)) as instance:
        yield instance


def outside(probes: list[Probe]) -> list[int]:
    """What the kernel tells root without a filter."""
    code = "import json, sys; sys.path.insert(0, sys.argv[1]); import probe; print(probe.main_handler(json.loads(sys.argv[2]), None))"
    request = json.dumps([probe.to_json() for probe in probes])
    answers: list[int] = json.loads(subprocess.check_output(["/usr/bin/python3", "-c", code, str(PAYLOADS), request], timeout=60))
    return answers


def inside(hearth: Instance, guest: Guest, probes: list[Probe], **configuration: object) -> dict[str, int]:
    name = hearth.deploy({"index.py": PROBE}, runtime=guest.runtime, timeout=PATIENT, **configuration)
    answers = hearth.call(name, [probe.to_json() for probe in probes]).ok()
    hearth.delete(name)
    return dict(zip([probe.name for probe in probes], answers, strict=True))


# What is refused --------------------------------------------------------------------------------------------------------------


def test_the_probes_come_to_something_else_without_a_filter() -> None:
    refused = [*BY_NUMBER, *BY_ARGUMENT]
    wrong = {probe.name: answer for probe, answer in zip(refused, outside(refused), strict=True) if not is_told_apart(probe, answer)}
    assert wrong == {}
    assert outside(LIKE_OUTSIDE) == [probe.told for probe in LIKE_OUTSIDE]


@pytest.mark.parametrize("way", ["forked", "started by exec"])
def test_every_refused_call_is_refused_with_the_errno_told(hearth: Instance, guest: Guest, way: str) -> None:
    probes = [*BY_NUMBER, *BY_ARGUMENT, *LIKE_OUTSIDE, X32_GETPID]
    environment = {"PYTHONHASHSEED": "1"} if way == "started by exec" else {}
    assert inside(hearth, guest, probes, environment=environment) == {probe.name: probe.told for probe in probes}


STATE = """
import json, subprocess
def filters(pid):
    with open("/proc/%s/status" % pid) as file:
        found = dict(line.split(":\\t") for line in file.read().splitlines() if line.startswith(("Seccomp", "NoNewPrivs")))
    return [found["NoNewPrivs"], found["Seccomp"], found.get("Seccomp_filters", "2")]
def main_handler(event, context):
    return [filters(1), filters("self"), filters(subprocess.Popen(["sleep", "60"]).pid)]
"""


@pytest.mark.parametrize("environment", [{}, {"PYTHONHASHSEED": "1"}], ids=["forked", "exec"])
def test_init_worker_and_what_it_starts_are_filtered_and_cannot_gain_privileges(
    hearth: Instance, guest: Guest, environment: dict[str, str]
) -> None:
    name = hearth.deploy(STATE, runtime=guest.runtime, environment=environment)
    assert hearth.call(name).ok() == [["1", "2", "2"]] * 3
    hearth.delete(name)


def test_a_zygote_is_filtered_too(hearth: Instance) -> None:
    zygotes = hearth.part("zygote.py")
    assert zygotes
    for pid in zygotes:
        assert "\nSeccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text()


# What goes on working -----------------------------------------------------------------------------------------------------------

EVERYWHERE = ["threads", "processes", "multiprocessing_fork", "sockets", "files", "database", "signals_and_time"]
ONLY_3 = ["multiprocessing_spawn", "shared_memory", "event_loop"]


@pytest.mark.parametrize("workload", [*EVERYWHERE, *ONLY_3])
def test_ordinary_programs_notice_nothing(hearth: Instance, guest: Guest, workload: str) -> None:
    if workload in ONLY_3 and guest.runtime != "python3":
        return
    code = {"index.py": WORKLOADS, "event_loop.py": (PAYLOADS / "event_loop.py").read_text()}
    name = hearth.deploy(code, runtime=guest.runtime, timeout=PATIENT)
    assert hearth.call(name, workload).ok() is True
    hearth.delete(name)


@pytest.mark.requires("tool:gcc")
def test_a_c_extension_works(hearth: Instance, guest: Guest, tmp_path: Path) -> None:
    include = subprocess.check_output([guest.python, "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"], text=True).strip()
    (tmp_path / "extension.c").write_text(EXTENSION)
    built = tmp_path / "hearth_extension.so"
    subprocess.run(["gcc", "-shared", "-fPIC", f"-I{include}", "-o", str(built), str(tmp_path / "extension.c")], check=True)
    name = hearth.deploy({"index.py": WORKLOADS, built.name: built.read_bytes()}, runtime=guest.runtime)
    assert hearth.call(name, "extension").ok() is True
    hearth.delete(name)


def install(guest: Guest, folder: Path, *packages: str) -> dict[str, str | bytes]:
    """A function's files with these packages in it."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", "--target", str(folder)]
    subprocess.run([*command, *guest.wheels, *packages], check=True, capture_output=True, timeout=300)
    skipped = {"tests", "bin", "include"}
    found: dict[str, str | bytes] = {"index.py": WORKLOADS}
    for path in folder.rglob("*"):
        if path.is_file() and not skipped & set(path.relative_to(folder).parts[:-1]):
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.mark.requires("pypi")
def test_numpy_and_requests_work(hearth: Instance, guest: Guest, tmp_path: Path) -> None:
    name = hearth.deploy(install(guest, tmp_path, *guest.packages), runtime=guest.runtime, timeout=PATIENT)
    assert hearth.call(name, "arrays").ok() is True
    assert hearth.call(name, "requests_to_a_server").ok() is True
    hearth.delete(name)


@pytest.mark.requires("pypi")
def test_pip_installs_in_a_sandbox(hearth: Instance, tmp_path: Path) -> None:
    packages = install(Guest("python3", "", (), ()), tmp_path / "site", "pip")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(tmp_path), "six"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("six-*.whl")
    name = hearth.deploy({**packages, wheel.name: wheel.read_bytes()}, timeout=PATIENT)
    assert hearth.call(name, "installing").ok() is True
    hearth.delete(name)
