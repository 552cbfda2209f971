"""Admission: concurrency, quotas of namespaces, the machine's bound; and a model that compares any order of calls with plain sums."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sandbox import gate as gate_module
from sandbox.errors import NoCapacity, Refused, StaleFunction, Throttled
from sandbox.gate import MEGABYTE, Gate
from sandbox.spec import FunctionSpec

SPEC = FunctionSpec("f", 1, "shown", "default", "$LATEST", "python3", "index.main", "c" * 64, concurrency=2)


def spec(function: str = "f", **changes: Any) -> FunctionSpec:
    return replace(SPEC, **{"function_id": function, "family": function, **changes})


def state(gate: Gate) -> tuple[Any, ...]:
    shared = {name: known.shared_mb for name, known in gate.namespaces.items()}
    return {name: (f.calls, f.running_mb, f.is_shared) for name, f in gate.families.items() if f.calls}, shared, gate.running_bytes


# Concurrency and the machine ------------------------------------------------------------------------------------------------


def test_the_call_over_the_concurrency_is_throttled_and_counts_nothing() -> None:
    gate = Gate(1 << 40)
    gate.enter(spec())
    gate.enter(spec())
    before = state(gate)
    with pytest.raises(Throttled, match="'shown' already runs 2 calls, its concurrency limit is 2"):
        gate.enter(spec())
    assert (state(gate), gate.throttled, gate.refused) == (before, 1, 0)


def test_another_function_has_a_concurrency_of_its_own_and_versions_share_one() -> None:
    gate = Gate(1 << 40)
    gate.enter(spec("a", concurrency=1))
    gate.enter(spec("b", concurrency=1))
    with pytest.raises(Throttled):
        gate.enter(spec("a-version-1", family="a", concurrency=1))
    assert {name: family.calls for name, family in gate.families.items()} == {"a": 1, "b": 1}


def test_a_concurrency_of_zero_lets_nothing_in() -> None:
    with pytest.raises(Throttled):
        Gate(1 << 40).enter(spec(concurrency=0))


def test_who_leaves_makes_room_and_an_empty_gate_counts_no_call() -> None:
    gate = Gate(1 << 40)
    gate.enter(spec(concurrency=1))
    gate.leave(spec(concurrency=1))
    assert state(gate) == ({}, {"default": 0}, 0)
    gate.enter(spec(concurrency=1))


def test_the_machine_is_full_by_the_running_calls_limits_tmp_in_use_and_what_is_set_aside() -> None:
    gate = Gate(384 * MEGABYTE)
    gate.tmp_bytes, gate.aside_bytes = 64 * MEGABYTE, 128 * MEGABYTE
    gate.enter(spec("a"))
    with pytest.raises(NoCapacity, match="448 MB, 128 MB of it set aside for provisioned workers, the machine's bound is 384 MB"):
        gate.enter(spec("b"))
    assert (set(gate.families), gate.refused, gate.throttled) == ({"a"}, 1, 0)
    gate.tmp_bytes = 0
    gate.enter(spec("b"))  # exactly the bound


# Quotas ---------------------------------------------------------------------------------------------------------------------


def test_a_reservation_is_a_cap_over_all_versions() -> None:
    gate, reserved = Gate(1 << 40), {"reserved_mb": 256, "unreserved_mb": 10_000, "concurrency": 20}
    gate.enter(spec(**reserved))
    gate.enter(spec("version", family="f", **reserved))
    with pytest.raises(Throttled, match=r"^Function \[ shown \] concurrency exceeded reserved quota 256 MB$"):
        gate.enter(spec(**reserved))


def test_a_reservation_of_zero_shuts_a_function_off() -> None:
    with pytest.raises(Throttled, match="reserved quota 0 MB") as raised:
        Gate(1 << 40).enter(spec(reserved_mb=0))
    assert raised.value.hint == "the function is shut off"


def test_a_share_is_nobody_else_s_and_not_part_of_what_the_others_use() -> None:
    gate, reserved = Gate(1 << 40), {"reserved_mb": 256, "unreserved_mb": 128}
    gate.enter(spec("mine", **reserved))
    gate.enter(spec("other", unreserved_mb=128))
    with pytest.raises(Throttled, match=r"^Function \[ shown \] concurrency exceeded region unreserved quota 128 MB$"):
        gate.enter(spec("third", unreserved_mb=128))
    gate.enter(spec("mine", **reserved))
    gate.leave(spec("other", unreserved_mb=128))
    gate.enter(spec("third", unreserved_mb=128))


def test_namespaces_have_quotas_of_their_own() -> None:
    gate = Gate(1 << 40)
    gate.enter(spec("a", namespace="one", unreserved_mb=128))
    gate.enter(spec("b", namespace="two", unreserved_mb=128))


def test_an_older_epoch_is_stale_whoever_says_it_and_takes_nothing() -> None:
    gate = Gate(1 << 40)
    gate.enter(spec("a", quota_epoch=7, unreserved_mb=128))
    with pytest.raises(StaleFunction):
        gate.enter(spec("b", quota_epoch=6))
    gate.learn("default", 8)
    with pytest.raises(StaleFunction):
        gate.enter(spec("b", quota_epoch=7, unreserved_mb=100_000))
    gate.learn("default", 3)  # late, and nothing new
    gate.enter(spec("b", quota_epoch=8))


def test_running_calls_move_with_their_function_into_its_reservation_and_back() -> None:
    gate = Gate(1 << 40)
    gate.enter(spec("a", unreserved_mb=256))
    gate.enter(spec("a", unreserved_mb=256))
    gate.learn("default", 1, "a", is_reserved=True)
    gate.enter(spec("b", quota_epoch=1, unreserved_mb=128))  # what a runs is not in the shared part any more
    gate.learn("default", 2, "a")
    with pytest.raises(Throttled):
        gate.enter(spec("b", quota_epoch=2, unreserved_mb=400))
    for _ in range(2):
        gate.leave(spec("a", unreserved_mb=256))
    gate.leave(spec("b", quota_epoch=1, unreserved_mb=128))
    assert state(gate) == ({}, {"default": 0}, 0)


def test_a_call_moves_its_function_where_nobody_told_the_gate() -> None:
    gate = Gate(1 << 40)
    gate.enter(spec("a", unreserved_mb=256))
    gate.enter(spec("a", quota_epoch=1, reserved_mb=256, unreserved_mb=128))
    assert state(gate)[:2] == ({"a": (2, 256, False)}, {"default": 0})


def test_namespaces_are_forgotten_once_there_are_too_many_but_not_those_with_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "KEPT", 2)
    gate = Gate(1 << 40)
    for name in ("used", "idle", "new"):
        gate.enter(spec(name, namespace=name))
        if name == "idle":
            gate.leave(spec(name, namespace=name))
    assert (set(gate.namespaces), set(gate.families)) == ({"used", "new"}, {"used", "new"})
    gate.leave(spec("used", namespace="used"))


# The model ------------------------------------------------------------------------------------------------------------------

FUNCTIONS = ("a", "b", "c", "d")
NAMESPACE_OF = {"a": "one", "b": "one", "c": "one", "d": "two"}
MEMORY = {"a": 128, "b": 256, "c": 64, "d": 128}


class Model(RuleBasedStateMachine):
    """Any order of calls and changes against sums over a plain list. Changes are told at once; a call knows the newest quotas."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[FunctionSpec] = []
        self.epoch = 0
        self.total = {"one": 1024, "two": 256}
        self.reserved: dict[str, int] = {}

    @initialize(capacity=st.integers(3, 12))
    def begin(self, capacity: int) -> None:
        self.gate = Gate(capacity * 128 * MEGABYTE)

    def now(self, function: str, version: int) -> FunctionSpec:
        namespace = NAMESPACE_OF[function]
        unreserved = self.total[namespace] - sum(mb for name, mb in self.reserved.items() if NAMESPACE_OF[name] == namespace)
        return spec(
            f"{function}{version}",
            family=function,
            namespace=namespace,
            memory_mb=MEMORY[function],
            concurrency=4,
            quota_epoch=self.epoch,
            reserved_mb=self.reserved.get(function),
            unreserved_mb=max(0, unreserved),
        )

    def used(self, *families: str) -> int:
        return sum(call.memory_mb for call in self.calls if call.family in families)

    def expected(self, call: FunctionSpec) -> type[Refused] | None:
        shared = [name for name in FUNCTIONS if NAMESPACE_OF[name] == call.namespace and name not in self.reserved]
        if sum(other.family == call.family for other in self.calls) >= call.concurrency:
            return Throttled
        if call.family in self.reserved:
            if self.used(call.family) + call.memory_mb > self.reserved[call.family]:
                return Throttled
        elif self.used(*shared) + call.memory_mb > (call.unreserved_mb or 0):
            return Throttled
        return NoCapacity if (self.used(*FUNCTIONS) + call.memory_mb) * MEGABYTE > self.gate.capacity_bytes else None

    @rule(function=st.sampled_from(FUNCTIONS), version=st.integers(0, 1))
    def enter(self, function: str, version: int) -> None:
        call = self.now(function, version)
        expected = self.expected(call)
        if expected is None:
            self.gate.enter(call)
            self.calls.append(call)
        else:
            with pytest.raises(expected):
                self.gate.enter(call)

    @precondition(lambda self: self.epoch > 0)
    @rule(function=st.sampled_from(FUNCTIONS), back=st.integers(1, 3))
    def enter_late(self, function: str, back: int) -> None:
        late = replace(self.now(function, 0), quota_epoch=max(0, self.epoch - back), reserved_mb=None, unreserved_mb=1 << 30)
        with pytest.raises(StaleFunction):
            self.gate.enter(late)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.gate.leave(self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1))))

    @rule(function=st.sampled_from(FUNCTIONS), mb=st.one_of(st.none(), st.sampled_from([0, 128, 300, 512])))
    def reserve(self, function: str, mb: int | None) -> None:
        self.epoch += 1
        if mb is None:
            self.reserved.pop(function, None)
        else:
            self.reserved[function] = mb
        for namespace in self.total:
            self.gate.learn(namespace, self.epoch, function, is_reserved=mb is not None)

    @invariant()
    def sums(self) -> None:
        if not hasattr(self, "gate"):
            return
        assert self.gate.running_bytes == self.used(*FUNCTIONS) * MEGABYTE
        for name, known in self.gate.namespaces.items():
            inside = {function for function in FUNCTIONS if NAMESPACE_OF[function] == name}
            assert known.shared_mb == self.used(*(inside - set(self.reserved)))
        running = {name: family.calls for name, family in self.gate.families.items() if family.calls}
        assert running == Counter(call.family for call in self.calls)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
