"""Admission: each function's concurrency, its namespace's memory quotas and the machine's bound, counted here and nowhere else.

    function     its concurrency: calls at once, of `$LATEST` and of all its versions together (`family`)
    namespace    quotas in MB of the functions' memory (SCF's concurrency is MB / MemorySize):
                     reserved_mb     a function's private share, which is its cap, too; 0 shuts it off
                     unreserved_mb   what all functions without a share of their own use together
    machine      memory that running calls may take, that /tmp holds, and that is set aside for provisioned workers

A function's calls are counted by its family, so those of `$LATEST` and of all its versions together.

A refusal is immediate and has no side effect. What is admitted is counted until `leave`, whatever happens in between.

Quotas come with each specification, as of the namespace's quota epoch. The newest epoch seen is the one that counts: a specification of
an older one is stale, whoever sends it, and is looked up again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sandbox.errors import NoCapacity, StaleFunction, Throttled
from sandbox.spec import FunctionSpec

MEGABYTE = 1024 * 1024
#: Of namespaces and of functions: more than are called in a while. What has no call and is forgotten is as good as new.
KEPT = 4096


@dataclass(slots=True, eq=False)
class Namespace:
    """`shared_mb` is what calls of functions without a reservation take now."""

    epoch: int
    shared_mb: int = 0


@dataclass(slots=True, eq=False)
class Family:
    """A function over all its versions. It stays after its last call, since making one costs as much as counting.

    `is_shared`: its calls count in the namespace's `shared_mb`.
    """

    namespace: Namespace
    is_shared: bool
    calls: int = 0
    running_mb: int = 0

    def to_share(self, *, is_shared: bool) -> None:
        """Its running calls count where new ones do: a function got a reservation, or gave it back."""
        if is_shared != self.is_shared:
            self.is_shared = is_shared
            self.namespace.shared_mb += self.running_mb if is_shared else -self.running_mb


@dataclass(slots=True)
class Gate:
    """`capacity_bytes` bounds the running calls' own limits plus everybody's measured /tmp (`tmp_bytes`) plus what is set aside
    (`aside_bytes`: the own limits of provisioned workers that run no call; the caller keeps the two figures)."""

    capacity_bytes: int
    families: dict[str, Family] = field(default_factory=dict)
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    running_bytes: int = 0
    tmp_bytes: int = 0
    aside_bytes: int = 0
    throttled: int = 0
    refused: int = 0

    def enter(self, spec: FunctionSpec) -> None:
        """Admit one call or raise StaleFunction, Throttled, NoCapacity."""
        namespace = self.namespaces.get(spec.namespace)
        if namespace is None or namespace.epoch != spec.quota_epoch:
            namespace = self._namespace(spec)
        family = self.families.get(spec.family)
        if family is None:
            calls = running_mb = 0
        else:
            calls, running_mb = family.calls, family.running_mb
        if calls >= spec.concurrency:
            raise self._at_limit(spec, calls)
        memory_mb, reserved_mb = spec.memory_mb, spec.reserved_mb
        if reserved_mb is not None:
            if running_mb + memory_mb > reserved_mb:
                raise self._over_quota(spec, f"reserved quota {reserved_mb} MB")
        elif spec.unreserved_mb is not None:
            taken_mb = namespace.shared_mb if family is None or family.is_shared else namespace.shared_mb + running_mb
            if taken_mb + memory_mb > spec.unreserved_mb:
                raise self._over_quota(spec, f"region unreserved quota {spec.unreserved_mb} MB")
        memory_bytes = memory_mb * MEGABYTE
        if self.running_bytes + self.tmp_bytes + self.aside_bytes + memory_bytes > self.capacity_bytes:
            self.refused += 1
            self.check_room(memory_bytes)
        is_shared = reserved_mb is None
        if family is None:
            family = self._family(spec, namespace, is_shared=is_shared)
        elif family.is_shared != is_shared:
            family.to_share(is_shared=is_shared)
        family.calls = calls + 1
        family.running_mb = running_mb + memory_mb
        if is_shared:
            family.namespace.shared_mb += memory_mb
        self.running_bytes += memory_bytes

    def leave(self, spec: FunctionSpec) -> None:
        """A call that `enter` admitted with this specification is over."""
        family = self.families[spec.family]
        family.calls -= 1
        family.running_mb -= spec.memory_mb
        if family.is_shared:
            family.namespace.shared_mb -= spec.memory_mb
        self.running_bytes -= spec.memory_mb * MEGABYTE

    def check_room(self, memory_bytes: int) -> None:
        """Raises NoCapacity where the machine has no room for so much more."""
        wanted = self.running_bytes + self.tmp_bytes + self.aside_bytes + memory_bytes
        if wanted > self.capacity_bytes:
            aside = f", {self.aside_bytes // MEGABYTE} MB of it set aside for provisioned workers" if self.aside_bytes else ""
            bound = self.capacity_bytes // MEGABYTE
            raise NoCapacity(
                f"running calls and /tmp would take {wanted // MEGABYTE} MB{aside}, the machine's bound is {bound} MB",
                hint="try again, or raise HEARTH_CAPACITY_MB",
            )

    def learn(self, namespace: str, epoch: int, family: str = "", *, is_reserved: bool = False) -> None:
        """A quota was changed: specifications of an older epoch are stale from now on, and the function whose reservation it was counts
        with all its calls where it belongs now. What is older says nothing."""
        known = self.namespaces.get(namespace)
        if known is None:
            self._add(namespace, epoch)
        elif epoch >= known.epoch:
            known.epoch = epoch
            running = self.families.get(family)
            if running is not None and running.namespace is known:
                running.to_share(is_shared=not is_reserved)

    def _namespace(self, spec: FunctionSpec) -> Namespace:
        known = self.namespaces.get(spec.namespace)
        if known is None:
            return self._add(spec.namespace, spec.quota_epoch)
        if spec.quota_epoch < known.epoch:
            raise StaleFunction(f"the quotas of namespace {spec.namespace!r} have changed since", hint="look it up again")
        known.epoch = spec.quota_epoch
        return known

    def _add(self, name: str, epoch: int) -> Namespace:
        if len(self.namespaces) >= KEPT:
            self._forget_idle()
            used = {id(family.namespace) for family in self.families.values()}
            self.namespaces = {name: known for name, known in self.namespaces.items() if id(known) in used}
        return self.namespaces.setdefault(name, Namespace(epoch))

    def _family(self, spec: FunctionSpec, namespace: Namespace, *, is_shared: bool) -> Family:
        if len(self.families) >= KEPT:
            self._forget_idle()
        family = self.families[spec.family] = Family(namespace, is_shared)
        return family

    def _forget_idle(self) -> None:
        self.families = {name: family for name, family in self.families.items() if family.calls}

    def _at_limit(self, spec: FunctionSpec, calls: int) -> Throttled:
        self.throttled += 1
        return Throttled(
            f"function {spec.name!r} already runs {calls} calls, its concurrency limit is {spec.concurrency}",
            hint="try again, or raise the function's concurrency",
        )

    def _over_quota(self, spec: FunctionSpec, which: str) -> Throttled:
        self.throttled += 1
        hint = "the function is shut off" if spec.reserved_mb == 0 else "try again, or change the quotas: `hearth concurrency`"
        return Throttled(f"Function [ {spec.name} ] concurrency exceeded {which}", hint=hint)
