"""Layers as functions find them at /opt, in sandboxes of both factories: order, conflicts, imports, what stays hidden, what is left."""

from __future__ import annotations

import subprocess
import sysconfig
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import find_python
from tests.integration.instance import Instance, leaving_nothing, packed, wait_until

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids", "overlay"), pytest.mark.shares_host]

COLD_STARTS = 200
Use = dict[str, Any]
Files = Mapping[str, str | bytes]

#: Runs what it is sent; `result` is the answer. Python 2.7 and 3.
PROBE = """
    import errno, os, subprocess, sys
    def tree(root):
        found = {}
        for place, _, names in os.walk(root):
            for name in names:
                with open(os.path.join(place, name)) as file:
                    found[os.path.relpath(os.path.join(place, name), root)] = file.read()
        return found
    def denied(action):
        try:
            action()
        except EnvironmentError as error:
            return errno.errorcode[error.errno]
    def main_handler(event, context):
        scope = dict(globals())
        exec(event["code"], scope)
        return scope["result"]
"""


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance], python27_image: Path | None) -> Iterator[Instance]:
    with leaving_nothing(start(python27_image, limit_layers=1000)) as instance:
        yield instance


@pytest.fixture(params=["zygote", "exec"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """Of a function that a zygote's fork serves, and of one with an interpreter of its own."""
    return {"PYTHONHASHSEED": "7"} if request.param == "exec" else {}


def publish(hearth: Instance, name: str, files: Files, *runtimes: str) -> Use:
    body = {"runtimes": runtimes or ["python3", "python2"], "code": {"zip": packed(files)}}
    answer = hearth.request("POST", f"/v1/layers/{name}/versions", json=body)
    assert answer.status == 201, answer.content
    return {"name": name, "version": answer.body["version"]}


def look(hearth: Instance, function: str, code: str) -> Any:
    return hearth.call(function, {"code": textwrap.dedent(code)}).ok()


def opt(hearth: Instance, *layers: Use, **configuration: Any) -> Any:
    """The files that a function with these layers finds at /opt."""
    return look(hearth, hearth.deploy(PROBE, layers=list(layers), **configuration), "result = tree('/opt')")


def change(hearth: Instance, function: str, **changes: Any) -> None:
    assert hearth.request("PATCH", f"/v1/functions/{function}", json=changes).status == 200


# What is at /opt ----------------------------------------------------------------------------------------------------------


def test_later_layers_win_and_directories_are_merged(hearth: Instance, environment: dict[str, str]) -> None:
    first = publish(hearth, "first", {"same": "1", "dir/a": "1", "dir/same": "1", "dir/deep/a": "1", "only": "1"})
    second = publish(hearth, "second", {"same": "2", "dir/b": "2", "dir/same": "2", "dir/deep/b": "2"})
    merged = {"dir/a": "1", "dir/b": "2", "dir/deep/a": "1", "dir/deep/b": "2", "only": "1"}
    assert opt(hearth, first, second, environment=environment) == {**merged, "same": "2", "dir/same": "2"}
    assert opt(hearth, second, first, environment=environment) == {**merged, "same": "1", "dir/same": "1"}


def test_a_file_replaces_a_directory_and_the_reverse(hearth: Instance, environment: dict[str, str]) -> None:
    directory = publish(hearth, "directory", {"thing/a": "a"})
    file = publish(hearth, "file", {"thing": "file"})
    other = publish(hearth, "other", {"thing/b": "b"})
    assert opt(hearth, directory, file, environment=environment) == {"thing": "file"}
    assert opt(hearth, file, directory, environment=environment) == {"thing/a": "a"}
    assert opt(hearth, directory, file, other, environment=environment) == {"thing/b": "b"}  # as if unpacked one after the other
    assert opt(hearth, file, directory, other, environment=environment) == {"thing/a": "a", "thing/b": "b"}


def test_one_layer_and_none(hearth: Instance, environment: dict[str, str]) -> None:
    one = publish(hearth, "one", {"a": "1", "b/c": "2"})
    assert opt(hearth, one, environment=environment) == {"a": "1", "b/c": "2"}
    assert opt(hearth, environment=environment) == {}


def test_five_layers_are_merged_in_order(hearth: Instance, environment: dict[str, str]) -> None:
    five = [publish(hearth, f"five{n}", {"same": str(n), f"own/{n}": str(n)}) for n in range(5)]
    everything = {f"own/{n}": str(n) for n in range(5)}
    assert opt(hearth, *five, environment=environment) == {**everything, "same": "4"}
    assert opt(hearth, *five[::-1], environment=environment) == {**everything, "same": "0"}
    six = {"layers": [*five, {"name": "five0", "version": 2}]}
    refused = hearth.request("PATCH", f"/v1/functions/{hearth.deploy(PROBE)}", json=six)
    assert (refused.status, refused.body["code"]) == (400, "too_many_layers")


def test_the_same_package_by_two_names_is_there_once(hearth: Instance) -> None:
    files = {"same": "twice"}
    first, second, third = publish(hearth, "twice", files), publish(hearth, "again", files), publish(hearth, "between", {"same": "once"})
    assert opt(hearth, first, second) == files
    assert opt(hearth, first, third, second) == files
    assert opt(hearth, first, second, third) == {"same": "once"}


def test_names_that_mean_something_to_overlays_are_just_names(hearth: Instance) -> None:
    lower = publish(hearth, "lower", {"a": "1", "dir/b": "1"})
    upper = publish(hearth, "upper", {".wh.a": "", "dir/.wh..wh..opq": ""})
    assert opt(hearth, lower, upper) == {"a": "1", "dir/b": "1", ".wh.a": "", "dir/.wh..wh..opq": ""}


@pytest.mark.parametrize("count", [1, 3])
def test_nothing_at_opt_can_be_written(hearth: Instance, environment: dict[str, str], count: int) -> None:
    layers = [publish(hearth, f"fixed{n}", {"file": str(n), "dir/file": "x"}) for n in range(count)]
    function = hearth.deploy(PROBE, layers=layers, environment=environment)
    code = """
        making = [lambda: open('/opt/new', 'w'), lambda: open('/opt/dir/new', 'w'), lambda: os.mkdir('/opt/d'),
                  lambda: os.unlink('/opt/file')]
        changing = [lambda: open('/opt/file', 'a'), lambda: os.rename('/opt/file', '/opt/g'), lambda: os.chmod('/opt/dir', 0o777)]
        result = [denied(attempt) for attempt in making], [denied(attempt) for attempt in changing], sorted(tree('/opt'))
    """
    making, changing, left = look(hearth, function, code)
    assert set(making) == {"EROFS"}
    assert set(changing) <= {"EROFS", "EACCES", "EPERM"}  # the owner is nobody's, so the mode may be looked at first
    assert left == ["dir/file", "file"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_mount_is_read_only_nosuid_nodev_and_tells_no_path_of_the_host(
    hearth: Instance, environment: dict[str, str], count: int
) -> None:
    layers = [publish(hearth, f"hidden{n}", {f"file{n}": "x"}) for n in range(count)]
    function = hearth.deploy(PROBE, layers=layers, environment=environment)
    (line,) = look(hearth, function, "result = [l for l in open('/proc/self/mountinfo').read().splitlines() if l.split()[4] == '/opt']")
    assert {"ro", "nosuid", "nodev"} <= set(line.split()[5].split(","))
    # A bind shows where its directory is in its file system, as that of the code does: by digest. An overlay shows nothing of the sort.
    home = str(hearth.home.parent)
    assert home not in line.partition(" - ")[2]
    assert home not in look(hearth, function, "result = open('/proc/self/mounts').read() + open('/proc/self/maps').read()")
    if count > 1:
        assert home not in line and line.split()[3] == "/"


# Importing ----------------------------------------------------------------------------------------------------------------

LIBRARY = "int layer_answer(void) { return 42; }\n"
EXTENSION = r"""
    #include <Python.h>
    extern int layer_answer(void);
    static PyObject *answer(PyObject *self, PyObject *nothing) { return Py_BuildValue("i", layer_answer()); }
    static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
    #if PY_MAJOR_VERSION >= 3
    static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "native", "", -1, methods};
    PyMODINIT_FUNC PyInit_native(void) { return PyModule_Create(&definition); }
    #else
    PyMODINIT_FUNC initnative(void) { Py_InitModule("native", methods); }
    #endif
"""


def compiled(folder: Path, include: str) -> Files:
    """An extension module for that Python which needs a library that only LD_LIBRARY_PATH leads to."""
    (folder / "library.c").write_text(LIBRARY)
    (folder / "native.c").write_text(textwrap.dedent(EXTENSION))
    for command in (
        ["gcc", "-shared", "-fPIC", "-o", "liblayeranswer.so", "library.c"],
        ["gcc", "-shared", "-fPIC", f"-I{include}", "-o", "native.so", "native.c", "-L.", "-llayeranswer"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return {"liblayeranswer.so": (folder / "liblayeranswer.so").read_bytes(), "python/native.so": (folder / "native.so").read_bytes()}


def import_everything(hearth: Instance, native: Files, **configuration: Any) -> Any:
    pure = publish(hearth, "pure", {"toplevel.py": "X = 'top'\n", "python/below.py": "X = 'python'\n", "python/pkg/__init__.py": ""})
    more = publish(hearth, "more", {"python/pkg/__init__.py": "X = 'package'\n", "python/pkg/inner.py": "X = 'inner'\n"})
    compiled = publish(hearth, "compiled", native)
    function = hearth.deploy(
        """
        import ctypes, sys
        import toplevel, below, pkg, pkg.inner, native
        def main_handler(event, context):
            library = ctypes.CDLL("liblayeranswer.so")
            found = [toplevel.X, below.X, pkg.X, pkg.inner.X, native.answer(), library.layer_answer(), native.__file__]
            return found + [list(sys.version_info[:2])]
        """,
        layers=[pure, more, compiled],
        **configuration,
    )
    return hearth.call(function).ok()


EVERYTHING = ["top", "python", "package", "inner", 42, 42, "/opt/python/native.so"]


@pytest.mark.requires("tool:gcc", "python.h")
def test_python_3_imports_from_layers(hearth: Instance, environment: dict[str, str], tmp_path: Path) -> None:
    native = compiled(tmp_path, sysconfig.get_paths()["include"])
    assert import_everything(hearth, native, environment=environment)[:7] == EVERYTHING


@pytest.mark.requires("tool:gcc", "python2.7")
def test_python_2_7_imports_from_layers(hearth: Instance, environment: dict[str, str], tmp_path: Path) -> None:
    python = find_python("2.7")
    assert python is not None
    command = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"]
    include = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    answer = import_everything(hearth, compiled(tmp_path, include), environment=environment, runtime="Python2.7")
    assert answer == [*EVERYTHING, [2, 7]]


def test_the_function_s_own_modules_come_before_those_of_its_layers(hearth: Instance) -> None:
    layer = publish(hearth, "shadowed", {"module.py": "X = 'layer'\n", "other.py": "X = 'layer'\n"})
    code = "import module, other\ndef main_handler(event, context):\n    return [module.X, other.X]\n"
    assert hearth.call(hearth.deploy({"index.py": code, "module.py": "X = 'own'\n"}, layers=[layer])).ok() == ["own", "layer"]


def test_a_handler_may_be_in_a_layer_s_module(hearth: Instance) -> None:
    layer = publish(hearth, "handlers", {"shared.py": "def main_handler(event, context):\n    return 'shared'\n"})
    assert hearth.call(hearth.deploy("from shared import main_handler\n", layers=[layer])).ok() == "shared"


# Changes ------------------------------------------------------------------------------------------------------------------


def test_a_running_call_ends_on_its_layers_and_the_next_has_the_new_ones(hearth: Instance) -> None:
    old, new = publish(hearth, "changing", {"value.txt": "old"}), publish(hearth, "changing", {"value.txt": "new"})
    name = hearth.deploy(
        """
        import time
        def main_handler(event, context):
            time.sleep(event["seconds"])
            return open("/opt/value.txt").read()
        """,
        layers=[old],
        timeout=10,
    )
    running = hearth.call_soon(name, {"seconds": 1.5})
    wait_until(lambda: [row for row in hearth.sandboxes(name) if row["state"] == "leased"], "the call runs")
    change(hearth, name, layers=[new])
    answer = hearth.call(name, {"seconds": 0})
    assert not running.done()
    assert (answer.ok(), answer.start, running.result().ok()) == ("new", "cold", "old")
    assert hearth.call(name, {"seconds": 0}).ok() == "new"


def test_a_deleted_version_goes_on_in_new_sandboxes_of_those_that_have_it(hearth: Instance) -> None:
    layer, other = publish(hearth, "doomed", {"a": "1"}), publish(hearth, "staying", {"b": "2"})
    function = hearth.deploy(PROBE, layers=[layer, other])
    assert hearth.request("DELETE", "/v1/layers/doomed/versions/1").status == 204
    assert look(hearth, function, "result = tree('/opt')") == {"a": "1", "b": "2"}
    change(hearth, function, description="a new generation, so new sandboxes")
    assert look(hearth, function, "result = tree('/opt')") == {"a": "1", "b": "2"}
    refused = hearth.request("PATCH", f"/v1/functions/{hearth.deploy(PROBE)}", json={"layers": [layer]})
    assert (refused.status, refused.body["code"]) == (400, "layer_not_found")


def test_a_layer_that_vanished_from_the_store_is_a_clear_fault_and_not_an_empty_directory(hearth: Instance) -> None:
    layer = publish(hearth, "vanishing", {"a": "vanishing"})
    digest = hearth.request("GET", "/v1/layers/vanishing/versions/1").body["code_sha256"]
    function = hearth.deploy(PROBE, layers=[layer])
    tree = hearth.home / "state" / "code" / digest
    tree.rename(tree.with_name("elsewhere"))
    answer = hearth.call(function, {"code": "result = 1"})
    tree.with_name("elsewhere").rename(tree)
    assert (answer.status, answer.body["code"]) == (500, "image_error")
    assert look(hearth, function, "result = tree('/opt')") == {"a": "vanishing"}


def test_a_hostile_package_is_refused_as_a_layer_too(hearth: Instance) -> None:
    body = {"runtimes": ["python3"], "code": {"zip": packed({"../../escaped": "x"})}}
    answer = hearth.request("POST", "/v1/layers/hostile/versions", json=body)
    assert (answer.status, answer.body["code"]) == (400, "invalid_code")
    assert hearth.request("GET", "/v1/layers/hostile/versions").status == 404


# What is left -------------------------------------------------------------------------------------------------------------


def layered() -> set[str]:
    """Processes in whose mount namespace there are layers merged."""
    found = set()
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if " - overlay layers " in (place / "mountinfo").read_text():
                    found.add(place.name)
            except OSError:
                continue  # it has just ended
    return found


def test_nothing_is_left_of_many_cold_starts_with_layers(hearth: Instance) -> None:
    layers = [publish(hearth, f"left{n}", {f"file{n}": "x"}) for n in range(3)]
    function, others = hearth.deploy(PROBE, layers=layers), layered()
    look(hearth, function, "result = 1")
    assert layered() - others
    (daemon,) = hearth.part("sandbox.daemon")
    mounts = len(Path(f"/proc/{daemon}/mountinfo").read_text().splitlines())
    before = hearth.counters()
    for number in range(COLD_STARTS):
        change(hearth, function, description=str(number))
        answer = hearth.call(function, {"code": "result = sorted(tree('/opt'))"})
        assert (answer.ok(), answer.start) == (["file0", "file1", "file2"], "cold")
    after = hearth.counters()
    assert after["cold"] - before["cold"] == COLD_STARTS
    hearth.delete(function)
    wait_until(lambda: layered() <= others, "no process has these layers mounted")
    assert len(Path(f"/proc/{daemon}/mountinfo").read_text().splitlines()) == mounts
    wait_until(lambda: hearth.counters()["descriptors"] <= before["descriptors"] + 8, "sandboxd has no more descriptors than before")
