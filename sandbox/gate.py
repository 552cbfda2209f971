"""Admission: each function's concurrency and the machine's memory bound, counted here and nowhere else.

A function's calls are counted by its family, so those of `$LATEST` and of all its versions together.

A refusal is immediate and has no side effect. What is admitted is counted until `leave`, whatever happens in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sandbox.errors import NoCapacity, Throttled

MEGABYTE = 1024 * 1024


@dataclass(slots=True)
class Gate:
    """`capacity_bytes` bounds the sum of the running calls' own limits plus everybody's measured /tmp."""

    capacity_bytes: int
    running: dict[str, int] = field(default_factory=dict)
    running_bytes: int = 0
    tmp_bytes: int = 0
    throttled: int = 0
    refused: int = 0

    def enter(self, family: str, *, concurrency: int, memory_bytes: int, shown: str) -> None:
        """Admit one call or raise Throttled, NoCapacity."""
        now = self.running.get(family, 0)
        if now >= concurrency:
            self.throttled += 1
            raise Throttled(
                f"function {shown!r} already runs {now} calls, its concurrency limit is {concurrency}",
                hint="try again, or raise the function's concurrency",
            )
        wanted = self.running_bytes + self.tmp_bytes + memory_bytes
        if wanted > self.capacity_bytes:
            self.refused += 1
            raise NoCapacity(
                f"running calls and /tmp would take {wanted // MEGABYTE} MB, the machine's bound is {self.capacity_bytes // MEGABYTE} MB",
                hint="try again, or raise HEARTH_CAPACITY_MB",
            )
        self.running[family] = now + 1
        self.running_bytes += memory_bytes

    def leave(self, family: str, memory_bytes: int) -> None:
        left = self.running[family] - 1
        if left:
            self.running[family] = left
        else:
            del self.running[family]
        self.running_bytes -= memory_bytes
