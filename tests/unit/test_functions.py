"""Functions through the real database and code store: creation, change, deletion, and every check of a field."""

from __future__ import annotations

import base64
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from sandbox.errors import HandlerError, InvocationFailed, SandboxError, Throttled, TimeLimit, leaves
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec
from server.errors import (
    FAILURES,
    ApiError,
    BadRequest,
    Conflict,
    FunctionNotFound,
    LimitExceeded,
    PayloadTooLarge,
    QualifierNotFound,
    error_body,
    from_runtime,
)
from server.functions import CodeStore, Functions
from server.functions.namespaces import Namespaces
from server.store import open_database


def zipped(*names: str, content: str = "def main_handler(event, context): return event\n") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return out.getvalue()


def payload(**changes: Any) -> dict[str, Any]:
    code = {"zip": base64.b64encode(zipped("index.py")).decode()}
    return {"name": "hello", "runtime": "python3", "handler": "index.main_handler", "code": code, **changes}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path), limit_functions=5, limit_code_bytes=100_000)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = open_database(settings)
    yield engine
    engine.dispose()


@pytest.fixture
def functions(settings: Settings, engine: Engine) -> Functions:
    store = CodeStore(settings)
    store.open()
    return Functions(engine, settings, store)


def test_a_new_function_has_the_defaults(functions: Functions) -> None:
    shown = functions.create(payload()).to_json()
    for key in ("function_id", "created_at", "updated_at", "code_sha256"):
        assert shown.pop(key)
    assert shown == {
        "name": "hello",
        "namespace": "default",
        "runtime": "python3",
        "handler": "index.main_handler",
        "memory": 128,
        "timeout": 3,
        "init_timeout": 65,
        "concurrency": 20,
        "tmp": 512,
        "environment": {},
        "network": "nat",
        "layers": [],
        "description": "",
        "version": "$LATEST",
        "generation": 1,
        "code_size": len(zipped("index.py")),
        "state": "Active",
    }


def test_what_was_created_is_read_back_the_same(functions: Functions) -> None:
    made = functions.create(
        payload(
            runtime="PYTHON3.6",
            memory=64,
            timeout=300,
            init_timeout=3,
            concurrency=1,
            tmp=1,
            environment={"A": "ü\n"},
            network="none",
            layers=[],
            description="x" * 1000,
            triggers=[],
        )
    )
    assert functions.get("hello") == made
    assert functions.list() == (1, [made])
    assert made.runtime == "Python3.6"


def test_a_specification_carries_what_a_sandbox_needs_and_survives_json(functions: Functions) -> None:
    made = functions.create(payload(memory=256, timeout=7, environment={"A": "1"}))
    spec = made.spec()
    assert FunctionSpec.from_json(spec.to_json()) == spec
    assert (spec.memory_mb, spec.timeout_seconds, spec.generation, spec.function_id, spec.code) == (256, 7, 1, made.function_id, made.code)
    assert spec.environment == {"A": "1"}


def test_null_means_not_given_at_creation(functions: Functions) -> None:
    assert functions.create(payload(memory=None, environment=None, description=None)).memory == 128


REFUSED: list[tuple[str, Any, str]] = [
    ("name", "", "not a valid name"),
    ("name", "a", "not a valid name"),
    ("name", "a" * 61, "not a valid name"),
    ("name", "1ab", "not a valid"),
    ("name", "ab-", "not a valid"),
    ("name", "a b", "not a valid"),
    ("name", "äb", "not a valid"),
    ("name", "ab\n", "not a valid"),
    ("name", 5, "5"),
    ("runtime", "Nodejs12.16", "not supported"),
    ("runtime", 3, "not a string"),
    ("handler", "index", "file.function"),
    ("handler", "../index.main", "file.function"),
    ("handler", ["a"], "not a string"),
    ("handler", "nope.main", "no nope.py"),
    ("memory", 63, "63 is out of range"),
    ("memory", 100, "multiple of 128"),
    ("memory", 3200, "3200 is out of range"),
    ("memory", "128", "not a whole number"),
    ("memory", True, "not a whole number"),
    ("memory", 128.5, "not a whole number"),
    ("memory", 10**30, "out of range"),
    ("timeout", 0, "out of range"),
    ("timeout", 301, "301"),
    ("timeout", False, "not a whole number"),
    ("timeout", 1.5, "1.5"),
    ("init_timeout", 2, "out of range"),
    ("init_timeout", 301, "out of range"),
    ("concurrency", 0, "out of range"),
    ("concurrency", 1001, "out of range"),
    ("tmp", 0, "out of range"),
    ("tmp", 4097, "out of range"),
    ("environment", [], "not an object"),
    ("environment", {"1A": "x"}, "'1A'"),
    ("environment", {"A-B": "x"}, "A-B"),
    ("environment", {"": "x"}, "''"),
    ("environment", {"A": 1}, "environment.A: 1 is not a string"),
    ("environment", {"A": None}, "not a string"),
    ("environment", {"A": "x\0y"}, "NUL"),
    ("environment", {"A": "\ud800"}, "surrogate"),
    ("environment", {"SCF_X": "x"}, "SCF_X is reserved"),
    ("environment", {"QCLOUD_X": "x"}, "reserved"),
    ("environment", {"TENCENTCLOUD_X": "x"}, "reserved"),
    ("environment", {"A": "x" * 4096}, "4097 bytes, limit 4096"),
    ("environment", {"A": "ü" * 2048}, "4097"),
    ("network", "host", "'host'"),
    ("network", True, "True"),
    ("network", ["nat"], "nat"),
    ("layers", ["numpy"], "'numpy'"),
    ("layers", [{"name": "numpy", "version": 1}], "no layer 'numpy'"),
    ("layers", [{"name": "numpy\0\ud800", "version": 1}], "no layer 'numpy"),
    ("layers", [{"name": "numpy"}], "not a layer's version"),
    ("layers", [{"name": 5, "version": 1}], "not a layer's version"),
    ("layers", [{"name": "numpy", "version": 1, "x": 2}], "not a layer's version"),
    ("layers", [{"name": "numpy", "version": 0}], "out of range"),
    ("layers", [{"name": "numpy", "version": True}], "not a whole number"),
    ("layers", [{"name": "numpy", "version": n} for n in range(1, 7)], "6 of them, limit 5"),
    ("layers", [{"name": "numpy", "version": 1}] * 2, "more than once"),
    ("layers", "numpy", "not a list"),
    ("layers", {}, "not a list"),
    ("triggers", [{"type": "timer"}], "not available here"),
    ("triggers", "x", "not available here"),
    ("description", "x" * 1001, "1001 characters"),
    ("description", 1, "not a string"),
    ("description", "\0", "NUL"),
    ("code", "UEsDBA==", "not an object"),
    ("code", {}, "not an object"),
    ("code", {"zip": 1}, "not an object"),
    ("code", {"zip": "", "x": 1}, "not an object"),
    ("code", {"zip": "UEsDB"}, "base64"),
    ("code", {"zip": "UEsD\nBA=="}, "base64"),
    ("code", {"zip": "UEsD-_=="}, "base64"),
    ("code", {"zip": "ü"}, "base64"),
    ("code", {"zip": "aGVsbG8="}, "not a readable zip"),
    ("code", {"zip": ""}, "not a readable zip"),
    ("memry", 128, "unknown field 'memry'"),
    ("namespace", "x", "unknown field 'namespace'"),
    ("function_id", "x", "unknown field"),
]


@pytest.mark.parametrize(("field", "value", "why"), REFUSED, ids=[f"{field} {ascii(value)[:30]}" for field, value, _ in REFUSED])
def test_a_wrong_field_is_refused_by_name_and_nothing_is_kept(
    functions: Functions, settings: Settings, field: str, value: Any, why: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        functions.create(payload(**{field: value}))
    error = refused.value
    assert error.status == 400 and why in error.detail and error.field.split(".")[0] == field
    assert error.detail.isprintable() and len(error.detail) < 300
    assert functions.list() == (0, [])
    assert [path for path in settings.code_dir.iterdir() if path.name != ".lock"] == []


@pytest.mark.parametrize("field", ["name", "runtime", "handler", "code"])
def test_a_missing_field_is_named(functions: Functions, field: str) -> None:
    with pytest.raises(BadRequest, match=f"{field} is missing"):
        functions.create({key: value for key, value in payload().items() if key != field})


@pytest.mark.parametrize("body", [None, [], "x", 3])
def test_a_body_that_is_no_object_is_refused(functions: Functions, body: Any) -> None:
    with pytest.raises(BadRequest, match="not a JSON object"):
        functions.create(body)


def test_an_environment_of_exactly_the_limit_is_taken(functions: Functions) -> None:
    assert functions.create(payload(environment={"A": "x" * 4095})).environment["A"] == "x" * 4095


def test_code_above_the_limit_is_too_large(functions: Functions) -> None:
    with pytest.raises(PayloadTooLarge) as refused:
        functions.create(payload(code={"zip": base64.b64encode(bytes(100_001)).decode()}))
    assert "limit 100000" in refused.value.detail


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [
    "name",
    "runtime",
    "handler",
    "memory",
    "timeout",
    "init_timeout",
    "concurrency",
    "tmp",
    "environment",
    "network",
    "layers",
    "description",
    "triggers",
    "code",
]


@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=3))
def test_any_json_is_taken_or_refused_with_a_status(functions: Functions, changes: dict[str, Any]) -> None:
    try:
        made = functions.create(payload(**changes))
    except ApiError as refused:
        assert 400 <= refused.status < 500 and refused.detail.isprintable()
    else:
        assert functions.get(made.name) == made
        functions.delete(made.name)


def test_a_name_is_taken_once(functions: Functions, engine: Engine, settings: Settings) -> None:
    functions.create(payload())
    with pytest.raises(Conflict) as refused:
        functions.create(payload())
    assert (refused.value.status, refused.value.code) == (409, "function_exists")
    Namespaces(engine, settings).create({"name": "other"})
    functions.create(payload(), namespace="other")


def test_the_limit_of_functions_counts_a_namespace(functions: Functions, engine: Engine, settings: Settings) -> None:
    for number in range(5):
        functions.create(payload(name=f"f{number}"))
    with pytest.raises(LimitExceeded, match="5 functions, limit 5"):
        functions.create(payload(name="f5"))
    Namespaces(engine, settings).create({"name": "other"})
    functions.create(payload(name="f5"), namespace="other")
    functions.delete("f0")
    functions.create(payload(name="f5"))


def test_simultaneous_creations_of_one_name_make_one_function(functions: Functions) -> None:
    outcomes = _at_once(lambda _: functions.create(payload()), 6)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 5 + ["Function"]


def test_simultaneous_creations_do_not_pass_the_limit(functions: Functions) -> None:
    outcomes = _at_once(lambda number: functions.create(payload(name=f"f{number}")), 10)
    assert sum(isinstance(outcome, LimitExceeded) for outcome in outcomes) == 5
    assert functions.list()[0] == 5


def test_simultaneous_updates_are_all_kept_and_each_has_its_generation(functions: Functions) -> None:
    functions.create(payload())
    fields = ["memory", "timeout", "tmp", "concurrency", "init_timeout"]
    values = [256, 9, 7, 2, 33]
    outcomes = _at_once(lambda number: functions.update("hello", {fields[number]: values[number]}), 5)
    assert sorted(outcome.generation for outcome in outcomes) == [2, 3, 4, 5, 6]
    final = functions.get("hello")
    assert [getattr(final, field) for field in fields] == values


def _at_once(work: Any, count: int) -> list[Any]:
    outcomes: list[Any] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait()
        try:
            outcomes.append(work(number))
        except ApiError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_an_update_raises_the_generation_and_changes_only_what_it_names(functions: Functions) -> None:
    before = functions.create(payload(environment={"A": "1", "B": "2"}, description="d"))
    after = functions.update("hello", {"memory": 512, "environment": {"C": "3"}})
    assert (after.generation, after.memory, after.environment, after.description) == (2, 512, {"C": "3"}, "d")
    assert after.function_id == before.function_id and after.updated_at >= before.updated_at
    assert functions.get("hello") == after


def test_a_refused_update_changes_nothing(functions: Functions) -> None:
    before = functions.create(payload())
    for changes in (
        {"memory": 256, "timeout": 0},
        {"name": "x"},
        {"code": {}},
        {"nope": 1},
        {"memory": None},
        {"handler": "gone.main"},
        [],
    ):
        with pytest.raises(BadRequest):
            functions.update("hello", changes)
    assert functions.get("hello") == before


def test_an_update_of_another_generation_is_a_conflict(functions: Functions) -> None:
    functions.create(payload())
    functions.update("hello", {"memory": 256}, expected_generation=1)
    with pytest.raises(Conflict, match="generation 2, not 1"):
        functions.update("hello", {"memory": 512}, expected_generation=1)
    assert functions.get("hello").memory == 256


def test_new_code_is_a_new_generation(functions: Functions) -> None:
    before = functions.create(payload())
    after = functions.update_code("hello", zipped("app.py"), handler="app.main_handler")
    assert (after.generation, after.handler, after.code_size) == (2, "app.main_handler", len(zipped("app.py")))
    assert after.code != before.code and functions.get("hello") == after


def test_new_code_without_the_handlers_file_is_refused(functions: Functions, settings: Settings) -> None:
    before = functions.create(payload())
    files = sorted(settings.code_dir.iterdir())
    for handler in (None, "gone.main"):
        with pytest.raises(BadRequest, match="in the package"):
            functions.update_code("hello", zipped("app.py"), handler=handler)
    assert functions.get("hello") == before and sorted(settings.code_dir.iterdir()) == files


def test_replaced_code_is_not_removed_at_once(functions: Functions, settings: Settings) -> None:
    before = functions.create(payload())
    functions.update_code("hello", zipped("index.py", content="x = 2"))
    assert (settings.code_dir / before.code / "index.py").is_file()  # running calls read it
    assert (settings.code_dir / f"{before.code}.unused").exists()


def test_a_function_made_again_is_another_one(functions: Functions) -> None:
    first = functions.create(payload())
    assert functions.delete("hello") == first
    with pytest.raises(FunctionNotFound):
        functions.get("hello")
    second = functions.create(payload())
    assert second.function_id != first.function_id and second.code == first.code


@pytest.mark.parametrize("name", ["nothing", "", "a\0b", "\ud800x", "../x", "x" * 500, "a'--"])
def test_what_is_not_there_is_435(functions: Functions, name: str) -> None:
    for call in (
        functions.get,
        functions.delete,
        lambda name: functions.update(name, {"memory": 128}),
        lambda name: functions.update_code(name, b""),
    ):
        with pytest.raises(FunctionNotFound) as missing:
            call(name)
        assert (missing.value.status, missing.value.scf_status) == (404, 435)


def test_another_qualifier_is_442(functions: Functions) -> None:
    functions.create(payload())
    with pytest.raises(QualifierNotFound) as missing:
        functions.get("hello", qualifier="1")
    assert (missing.value.status, missing.value.scf_status) == (404, 442)


# -- the table of failures ---------------------------------------------------------------------------------------------


def test_every_error_of_the_runtime_has_its_codes() -> None:
    assert set(FAILURES) == set(leaves())


@pytest.mark.parametrize(
    ("code", "http", "scf"),
    [
        ("handler_error", 502, 430),
        ("event_invalid", 400, 400),
        ("handler_not_found", 502, 437),
        ("user_code_error", 502, 443),
        ("init_timeout", 504, 450),
        ("time_limit", 504, 433),
        ("memory_limit", 502, 434),
        ("process_exit", 502, 439),
        ("protocol_error", 502, 439),
        ("reply_too_large", 502, 407),
        ("concurrency_limit", 429, 432),
        ("no_capacity", 503, 449),
        ("stale_function", 503, 500),
        ("unavailable", 503, 500),
        ("launch_failed", 500, 500),
        ("call_lost", 500, 500),
        ("image_error", 500, 500),
        ("config_error", 500, 500),
    ],
)
def test_each_failure_has_the_codes_of_the_design(code: str, http: int, scf: int) -> None:
    (row,) = [row for leaf, row in FAILURES.items() if leaf.code == code]
    assert (row.http, row.scf) == (http, scf)


def test_no_failure_of_a_function_is_a_500() -> None:
    assert not [leaf for leaf, row in FAILURES.items() if issubclass(leaf, InvocationFailed) and (row.http == 500 or row.scf == 500)]


def test_a_refusal_tells_when_to_come_back() -> None:
    error = from_runtime(Throttled("20 calls are running, limit 20", hint="raise concurrency", retry_after_seconds=2))
    assert (error.status, error.scf_status, error.retry_after, error.detail) == (429, 432, 2, "20 calls are running, limit 20")
    assert error.problem("r1") == {
        "type": "urn:hearth:concurrency_limit",
        "title": "Concurrency limit reached",
        "status": 429,
        "detail": "20 calls are running, limit 20",
        "code": "concurrency_limit",
        "hint": "raise concurrency",
        "scf_status": 432,
        "request_id": "r1",
    }


def test_a_fault_of_ours_shows_nothing_of_the_host() -> None:
    for leaf, row in FAILURES.items():
        if row.http == 500:
            error = leaf("mount", "/secret/path") if leaf.code == "launch_failed" else leaf("/secret/path")
            assert "secret" not in str(from_runtime(error).problem())
    assert from_runtime(SandboxError("/secret")).status == 500


def test_an_error_body_is_scfs() -> None:
    trace = "Traceback (most recent call last):\nValueError: x"
    assert error_body(HandlerError("user code exception caught", stack_trace=trace), "r1") == {
        "errorCode": -1,
        "errorMessage": "user code exception caught",
        "requestId": "r1",
        "stackTrace": trace,
        "statusCode": 430,
    }
    assert "stackTrace" not in error_body(TimeLimit("Invoking task timed out after 3 seconds"), "r1")
