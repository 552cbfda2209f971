"""What a name and a qualifier mean, as the hot path needs it: in memory, forgotten when sandboxd says so and after two seconds anyway.

Being out of date is safe: an acquire carries the generation, sandboxd refuses a stale one and the call is looked up again.
The two seconds bound what happens where nobody could say so (sandboxd restarted in the moment of a change).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sandbox.spec import FunctionSpec
from server.api.threads import Threads
from server.functions.model import DEFAULT_NAMESPACE, LATEST, Function
from server.functions.routing import NO_KEY, Routing, RoutingKey
from server.functions.runnable import Runnable

TTL_SECONDS: Final = 2.0
MAX_KNOWN: Final = 4096

#: Namespace, name, qualifier.
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Known:
    """A function, or a version, and what an acquire carries of it, made once."""

    function: Function
    spec: FunctionSpec


@dataclass(frozen=True, slots=True)
class Entry:
    """What a qualifier means: `main`, unless there is a routing; `ids` is what a change that concerns it is told by."""

    main: Known
    versions: Mapping[str, Known]
    routing: Routing | None
    ids: frozenset[str]
    expires: float

    @classmethod
    def of(cls, found: Runnable, expires: float) -> Entry:
        target = found.target
        known = {version: Known(function, found.specs[version]) for version, function in target.versions.items()}
        ids = frozenset(one for item in known.values() for one in (item.spec.function_id, item.spec.family))
        return cls(known[target.main], known, target.routing, ids, expires)

    def routed(self, routing: Routing, key: RoutingKey) -> Known:
        return self.versions[routing.choose(self.main.function.version, key, random.random())]


class FunctionCache:
    """One process's. `look(name, namespace, qualifier)` is `Runnables.look`, blocking."""

    def __init__(self, look: Callable[[str, str, str], Runnable], threads: Threads, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._look, self._threads, self._clock = look, threads, clock
        self._known: dict[Key, Entry] = {}
        self._asking: dict[Key, asyncio.Task[Entry]] = {}
        self._changes = 0

    async def find(self, name: str, namespace: str = DEFAULT_NAMESPACE, qualifier: str = LATEST, routing_key: RoutingKey = NO_KEY) -> Known:
        """What one call runs. Raises FunctionNotFound, NamespaceNotFound, QualifierNotFound.

        Callers that ask at once share one look into the database. An alias that spreads its calls chooses anew at each.
        """
        key = (namespace, name, qualifier)
        entry = self._known.get(key)
        if entry is None or entry.expires <= self._clock():
            entry = await self._shared(key)
        return entry.main if entry.routing is None else entry.routed(entry.routing, routing_key)

    async def _shared(self, key: Key) -> Entry:
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.get_running_loop().create_task(self._ask(key))
            task.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(task)

    def forget(self, function_id: str | None) -> None:
        """A function has changed, or one of its versions or aliases; None: any may have.

        A look that is under way may still have seen the old one.
        """
        self._changes += 1
        self._asking.clear()
        if function_id is None:
            self._known.clear()
        else:
            self._known = {key: entry for key, entry in self._known.items() if function_id not in entry.ids}

    async def _ask(self, key: Key) -> Entry:
        changes = self._changes
        namespace, name, qualifier = key
        entry = Entry.of(await self._threads.run(self._look, name, namespace, qualifier), self._clock() + TTL_SECONDS)
        if changes == self._changes:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = entry
        return entry

    def _asked(self, key: Key, task: asyncio.Task[Any]) -> None:
        if self._asking.get(key) is task:
            del self._asking[key]
        if not task.cancelled():
            task.exception()  # seen, though every waiter may have left
