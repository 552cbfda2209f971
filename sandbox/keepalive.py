"""Which idle workers go, as pure policy: the pool carries it out."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar


class Idle(Protocol):
    """What the policy looks at. `idle_since` is monotonic seconds."""

    idle_since: float


T = TypeVar("T", bound=Idle)
K = TypeVar("K", bound=Hashable)


def dispensable(idle: Mapping[K, Sequence[T]], kept: Mapping[K, int]) -> list[T]:
    """Idle workers without those that are provisioned: of each key the last so many, which are the ones used last."""
    return [worker for key, workers in idle.items() for worker in workers[: max(0, len(workers) - kept.get(key, 0))]]


def expired(idle: Iterable[T], *, now: float, keep_alive_seconds: float) -> list[T]:
    return [worker for worker in idle if now - worker.idle_since >= keep_alive_seconds]


def least_valuable(idle: Iterable[T], count: int) -> list[T]:
    """The `count` that were used longest ago."""
    return sorted(idle, key=lambda worker: worker.idle_since)[:count]
