"""Layers through the real database and code store: publishing, listing, deleting, and what functions bind of them."""

from __future__ import annotations

import base64
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from sandbox.settings import Settings
from server.errors import ApiError, BadRequest, LayerNotFound, LayerVersionNotFound, LimitExceeded, PayloadTooLarge
from server.functions import CodeStore, Functions
from server.functions.collection import used_digests
from server.functions.handlers import runs_on
from server.functions.layers import Layers
from server.functions.namespaces import Namespaces
from server.store import open_database


def packed(**files: str) -> dict[str, str]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{name}.py", content)
    return {"zip": base64.b64encode(out.getvalue()).decode()}


def publication(content: str = "X = 1", **changes: Any) -> dict[str, Any]:
    return {"runtimes": ["Python3.9"], "code": packed(module=content), **changes}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=str(tmp_path), limit_layers=3, limit_layer_versions=4, limit_unpacked_bytes=100_000, limit_code_bytes=50_000, limit_functions=5
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = open_database(settings)
    Namespaces(engine, settings).create({"name": "alice"})
    yield engine
    engine.dispose()


@pytest.fixture
def store(settings: Settings) -> CodeStore:
    store = CodeStore(settings)
    store.open()
    return store


@pytest.fixture
def layers(settings: Settings, engine: Engine, store: CodeStore) -> Layers:
    return Layers(engine, settings, store)


@pytest.fixture
def functions(settings: Settings, engine: Engine, store: CodeStore) -> Functions:
    return Functions(engine, settings, store)


def make(functions: Functions, *bound: tuple[str, int], name: str = "hello", **changes: Any) -> Any:
    code = packed(index="def main_handler(event, context): return event\n")
    wanted = [{"name": layer, "version": version} for layer, version in bound]
    return functions.create(
        {"name": name, "runtime": "Python3.9", "handler": "index.main_handler", "code": code, "layers": wanted, **changes}
    )


def use(*bound: tuple[str, int]) -> dict[str, Any]:
    return {"layers": [{"name": name, "version": version} for name, version in bound]}


# Publishing ---------------------------------------------------------------------------------------------------------------


def test_a_version_is_what_was_published_and_can_be_read_back(layers: Layers, store: CodeStore) -> None:
    made = layers.publish("numpy", publication("X = 'ü'", description="fast", license="BSD", runtimes=["PYTHON3.9", "python2", "Go1"]))
    assert layers.get("numpy", 1) == made
    assert layers.content("numpy", 1) == base64.b64decode(packed(module="X = 'ü'")["zip"])
    shown = made.to_json()
    for key in ("created_at", "code_sha256"):
        assert shown.pop(key)
    assert shown == {
        "namespace": "default",
        "name": "numpy",
        "version": 1,
        "runtimes": ["Python3.9", "python2", "Go1"],
        "description": "fast",
        "license": "BSD",
        "code_size": len(layers.content("numpy", 1)),
        "unpacked_size": len("X = 'ü'".encode()),
        "state": "Active",
    }
    assert (store.path(made.code) / "module.py").read_text() == "X = 'ü'"


def test_numbers_count_up_and_are_never_given_twice(layers: Layers) -> None:
    assert [layers.publish("numpy", publication(f"X = {n}")).version for n in range(3)] == [1, 2, 3]
    layers.delete("numpy", 3)
    assert layers.publish("numpy", publication()).version == 4
    for version in (1, 2, 4):
        layers.delete("numpy", version)
    with pytest.raises(LayerNotFound):
        layers.versions("numpy")
    assert layers.publish("numpy", publication()).version == 5


def test_publishing_at_once_gives_each_a_number_of_its_own_and_passes_no_limit(layers: Layers) -> None:
    came: list[Any] = []

    def publish(number: int) -> None:
        try:
            came.append(layers.publish("numpy", publication(f"X = {number}")).version)
        except LimitExceeded:
            came.append("full")

    threads = [threading.Thread(target=publish, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(came, key=str) == [1, 2, 3, 4, *["full"] * 4]


def test_namespaces_have_layers_of_their_own(layers: Layers) -> None:
    layers.publish("numpy", publication("X = 1"))
    assert layers.publish("numpy", publication("X = 2"), "alice").version == 1
    assert layers.get("numpy", 1).code != layers.get("numpy", 1, "alice").code
    assert [total for total, _ in (layers.list(), layers.list("alice"), layers.list("bob"))] == [1, 1, 0]
    with pytest.raises(LayerNotFound):
        layers.get("numpy", 1, "bob")


def test_limits_of_layers_and_versions_are_told(layers: Layers) -> None:
    for name in ("aa", "bb", "cc"):
        layers.publish(name, publication())
    with pytest.raises(LimitExceeded, match="3 layers, limit 3"):
        layers.publish("dd", publication())
    for _ in range(3):
        layers.publish("aa", publication())
    with pytest.raises(LimitExceeded, match="layer aa has 4 versions, limit 4"):
        layers.publish("aa", publication())
    layers.delete("bb", 1)
    assert layers.publish("dd", publication()).version == 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"runtimes": []}, "not a list of 1 to 20"),
    ({"runtimes": "Python3.9"}, "not a list"),
    ({"runtimes": ["Cobol"]}, "'Cobol' is not known"),
    ({"runtimes": ["python3\0"]}, "NUL"),
    ({"runtimes": [3]}, "not a string"),
    ({"runtimes": None}, "runtimes is missing"),
    ({"code": None}, "code is missing"),
    ({"code": {"zip": "!"}}, "not base64"),
    ({"code": {"zip": base64.b64encode(b"no zip").decode()}}, "not a readable zip"),
    ({"description": "x" * 1001}, "1001 characters"),
    ({"license": "x" * 1001}, "1001 characters"),
    ({"license": "\ud800"}, "surrogate"),
    ({"version": 7}, "unknown field 'version'"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_a_wrong_field_is_refused_by_name(layers: Layers, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        layers.publish("numpy", publication(**changes))
    assert message in refused.value.detail
    assert layers.list() == (0, [])


@pytest.mark.parametrize("name", ["", "1a", "a-", "a_", "a" * 65, "a b", "ä", "a\n", "../x"])
def test_a_name_that_cannot_be_one_is_refused(layers: Layers, name: str) -> None:
    with pytest.raises(BadRequest, match="not a valid name of a layer"):
        layers.publish(name, publication())
    for look in (lambda: layers.get(name, 1), lambda: layers.versions(name), lambda: layers.delete(name, 1)):
        with pytest.raises(LayerNotFound):
            look()


@pytest.mark.parametrize("name", ["a", "A1", "a" * 64, "a-_b"])
def test_names_may_be_as_scf_has_them(layers: Layers, name: str) -> None:
    assert layers.publish(name, publication()).name == name


def hostile(*members: tuple[str, int, bytes]) -> dict[str, str]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, mode, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return {"zip": base64.b64encode(out.getvalue()).decode()}


HOSTILE = [
    (hostile(("../x", 0o100644, b"")), "leads out of the package"),
    (hostile(("/etc/x", 0o100644, b"")), "absolute name"),
    (hostile(("f", 0o100644, b""), ("x", 0o120777, b"/etc/passwd")), "absolute path"),
    (hostile(("f", 0o100644, b""), ("x", 0o120777, b"../../state")), "links out of the package"),
    (hostile(("x", 0o020666, b"")), "neither a file"),
    (hostile(("x", 0o100644, b"\0" * 100_001)), "unpacks to more than"),
]


@pytest.mark.parametrize(("code", "message"), HOSTILE)
def test_a_hostile_zip_is_refused_and_leaves_nothing(layers: Layers, settings: Settings, code: dict[str, str], message: str) -> None:
    with pytest.raises((BadRequest, PayloadTooLarge)) as refused:
        layers.publish("numpy", publication(code=code))
    assert message in refused.value.detail
    assert layers.list() == (0, [])
    assert [path.name for path in settings.code_dir.iterdir() if path.name != ".lock"] == []


# Listing ------------------------------------------------------------------------------------------------------------------


def names(found: tuple[int, Any]) -> tuple[int, list[str]]:
    return found[0], [f"{version.name}:{version.version}" for version in found[1]]


def test_layers_are_listed_by_their_latest_version(layers: Layers) -> None:
    for name, runtime in (("two", "Python2.7"), ("numpy", "Python3.9"), ("numpy", "Python2.7"), ("Pillow", "python3")):
        layers.publish(name, publication(runtimes=[runtime]))
    assert names(layers.list()) == (3, ["Pillow:1", "numpy:2", "two:1"])
    assert names(layers.list(offset=1, limit=1)) == (3, ["numpy:2"])
    assert names(layers.list(limit=0)) == (3, [])
    assert names(layers.list(offset=9)) == (3, [])
    assert names(layers.list(search="NUM")) == (1, ["numpy:2"])
    assert names(layers.list(search="%")) == (0, [])
    assert names(layers.list(runtimes=["python3.9"])) == (2, ["Pillow:1", "numpy:1"])
    assert names(layers.list(runtimes=["Python2.7"])) == (2, ["numpy:2", "two:1"])
    with pytest.raises(BadRequest, match="'Cobol'"):
        layers.list(runtimes=["Cobol"])


def test_versions_are_listed_the_latest_first(layers: Layers) -> None:
    for runtime in ("Python3.9", "Python2.7", "Python3.9"):
        layers.publish("numpy", publication(runtimes=[runtime]))
    assert [version.version for version in layers.versions("numpy")] == [3, 2, 1]
    assert [version.version for version in layers.versions("numpy", runtimes=["Python3.9"])] == [3, 1]
    assert [version.version for version in layers.versions("numpy", runtimes=["Go1", "Python2.7"])] == [2]
    assert layers.versions("numpy", runtimes=["Go1"]) == []
    with pytest.raises(LayerNotFound, match="no layer 'scipy'"):
        layers.versions("scipy")


@pytest.mark.parametrize("version", [0, -1, 2, 2**31, 2**70])
def test_a_version_that_is_not_there_is_told_from_a_layer_that_is_not(layers: Layers, version: int) -> None:
    layers.publish("numpy", publication())
    for look in (layers.get, layers.content, layers.delete):
        with pytest.raises(LayerVersionNotFound, match=f"layer numpy has no version {version}"):
            look("numpy", version)
        with pytest.raises(LayerNotFound):
            look("scipy", version)


@pytest.mark.parametrize(
    ("runtime", "declared", "fits"),
    [
        ("Python3.9", ["Python3.9"], True),
        ("Python3.9", ["Python3.6", "Python2.7"], False),
        ("Python3.9", ["python3"], True),
        ("python3", ["Python3.6"], True),
        ("python3", ["python3"], True),
        ("python3", ["Python2.7"], False),
        ("Python2.7", ["python3"], False),
        ("Python3.10", ["Python3.1"], False),
        ("Go1", ["Go1"], True),
        ("python3", [], False),
    ],
)
def test_a_runtime_fits_when_it_is_named_or_its_family_is(runtime: str, declared: list[str], fits: bool) -> None:
    assert runs_on(runtime, declared) is fits


# Functions ----------------------------------------------------------------------------------------------------------------


def test_a_function_has_its_layers_in_order(layers: Layers, functions: Functions) -> None:
    codes = [layers.publish(name, publication(f"X = '{name}'")).code for name in ("aa", "bb")]
    made = make(functions, ("bb", 1), ("aa", 1))
    assert made == functions.get("hello")
    assert made.to_json()["layers"] == [{"name": "bb", "version": 1}, {"name": "aa", "version": 1}]
    assert made.spec().layers == (codes[1], codes[0])


def test_a_change_of_layers_is_a_new_generation(layers: Layers, functions: Functions) -> None:
    layers.publish("aa", publication())
    make(functions)
    changed = functions.update("hello", use(("aa", 1)))
    assert (changed.generation, len(changed.layers)) == (2, 1)
    assert functions.update("hello", {"memory": 256}).layers == changed.layers
    assert functions.update("hello", {"layers": []}).layers == ()


@pytest.mark.parametrize(
    ("wanted", "code", "message"),
    [
        (("zz", 1), "layer_not_found", "no layer 'zz'"),
        (("aa", 2), "layer_version_not_found", "layer aa has no version 2"),
        (("two", 1), "layer_incompatible", "two:1 is for Python2.7, the function's runtime is Python3.9"),
        (("other", 1), "layer_not_found", "no layer 'other'"),
    ],
)
def test_a_layer_that_cannot_be_bound_is_told(
    layers: Layers, functions: Functions, wanted: tuple[str, int], code: str, message: str
) -> None:
    layers.publish("aa", publication())
    layers.publish("two", publication(runtimes=["Python2.7"]))
    layers.publish("other", publication(), "alice")
    make(functions, name="there")
    for bind in (lambda: make(functions, wanted), lambda: functions.update("there", use(wanted))):
        with pytest.raises(BadRequest) as refused:
            bind()
        assert (refused.value.code, refused.value.status) == (code, 400) and message in refused.value.detail
    assert [function.name for function in functions.list()[1]] == ["there"]
    assert functions.get("there").generation == 1


def test_a_runtime_is_not_changed_to_one_that_a_layer_is_not_for(layers: Layers, functions: Functions) -> None:
    layers.publish("aa", publication())
    make(functions, ("aa", 1))
    with pytest.raises(BadRequest, match=r"aa:1 is for Python3\.9"):
        functions.update("hello", {"runtime": "Python2.7"})
    assert functions.update("hello", {"runtime": "Python2.7", "layers": []}).runtime == "Python2.7"


def test_code_and_layers_together_have_one_limit(layers: Layers, functions: Functions) -> None:
    layers.publish("aa", publication("x" * 50_000))
    layers.publish("bb", publication("y" * 49_000))
    make(functions, ("aa", 1), ("bb", 1))
    layers.publish("bb", publication("z" * 50_000))
    for change in (
        lambda: functions.update("hello", use(("aa", 1), ("bb", 2))),
        lambda: functions.update_code("hello", base64.b64decode(packed(index="#" * 2_000)["zip"])),
        lambda: make(functions, ("aa", 1), ("bb", 2), name="other"),
    ):
        with pytest.raises(BadRequest, match=r"unpack to \d+ bytes, limit 100000") as refused:
            change()
        assert refused.value.code == "layers_too_large"
    assert functions.get("hello").generation == 1


def test_a_package_that_comes_twice_counts_once(layers: Layers, functions: Functions) -> None:
    for name in ("aa", "bb"):
        layers.publish(name, publication("x" * 60_000))
    assert len(make(functions, ("aa", 1), ("bb", 1)).spec().layers) == 2


def test_a_deleted_version_stays_with_those_that_have_it_and_goes_to_no_one_else(layers: Layers, functions: Functions) -> None:
    layers.publish("aa", publication())
    made = make(functions, ("aa", 1))
    make(functions, name="other")
    layers.delete("aa", 1)
    assert functions.get("hello").spec().layers == made.spec().layers
    with pytest.raises(BadRequest, match="no layer 'aa'"):
        functions.update("other", use(("aa", 1)))
    assert functions.update("hello", {"memory": 256, **use(("aa", 1))}).layers == made.layers
    functions.update("hello", {"layers": []})
    with pytest.raises(BadRequest, match="no layer 'aa'"):
        functions.update("hello", use(("aa", 1)))


def test_packages_are_kept_while_a_version_or_a_function_has_them(
    layers: Layers, functions: Functions, store: CodeStore, engine: Engine
) -> None:
    def collected() -> set[str]:
        with engine.connect() as connection:
            return set(store.collect(used_digests(connection), grace_seconds=0))

    version = layers.publish("aa", publication())
    assert collected() == set()
    made = make(functions, ("aa", 1))
    assert collected() == set()
    layers.delete("aa", 1)
    assert collected() == set()
    assert store.path(version.code).is_dir()
    functions.update("hello", {"layers": []})
    assert collected() == {version.code}
    functions.delete("hello")
    assert collected() == {made.code}


def test_deleting_a_version_twice_at_once_says_so_once(layers: Layers) -> None:
    layers.publish("aa", publication())
    came: list[str] = []

    def remove() -> None:
        try:
            layers.delete("aa", 1)
            came.append("deleted")
        except ApiError as error:
            came.append(error.code)

    threads = [threading.Thread(target=remove) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(came) == ["deleted", *["layer_not_found"] * 3]


def test_settings_bound_what_a_function_may_have(settings: Settings, engine: Engine, store: CodeStore, layers: Layers) -> None:
    for name in ("aa", "bb"):
        layers.publish(name, publication())
    functions = Functions(engine, replace(settings, limit_function_layers=1), store)
    with pytest.raises(BadRequest, match="2 of them, limit 1"):
        make(functions, ("aa", 1), ("bb", 1))
    assert len(make(functions, ("aa", 1)).layers) == 1
