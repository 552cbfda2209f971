"""Functions by name as the hot path needs them: in memory, forgotten when sandboxd says so and after two seconds anyway.

Being out of date is safe: an acquire carries the generation, sandboxd refuses a stale one and the call is looked up again.
The two seconds bound what happens where nobody could say so (sandboxd restarted in the moment of a change).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sandbox.spec import FunctionSpec
from server.api.threads import Threads
from server.functions.model import LATEST, Function

TTL_SECONDS: Final = 2.0
MAX_KNOWN: Final = 4096

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Known:
    """A function and what an acquire carries of it, made once."""

    function: Function
    spec: FunctionSpec
    expires: float


class FunctionCache:
    """One process's. `get(name, namespace, qualifier)` is `Functions.get`, `bounded` `Concurrency.bounded`; both are blocking."""

    def __init__(
        self,
        get: Callable[[str, str, str], Function],
        threads: Threads,
        *,
        bounded: Callable[[FunctionSpec], FunctionSpec] = lambda spec: spec,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._get, self._bounded, self._threads, self._clock = get, bounded, threads, clock
        self._known: dict[Key, Known] = {}
        self._asking: dict[Key, asyncio.Task[Known]] = {}
        self._changes = 0

    async def find(self, name: str, qualifier: str = LATEST) -> Known:
        """Raises FunctionNotFound, QualifierNotFound. Callers that ask at once share one look into the database."""
        key = (name, qualifier)
        known = self._known.get(key)
        if known is not None and known.expires > self._clock():
            return known
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.get_running_loop().create_task(self._ask(key))
            task.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(task)

    def forget(self, function_id: str | None) -> None:
        """A function has changed; None: any may have. A look that is under way may still have seen the old one."""
        self._changes += 1
        self._asking.clear()
        if function_id is None:
            self._known.clear()
        else:
            self._known = {key: known for key, known in self._known.items() if known.function.function_id != function_id}

    async def _ask(self, key: Key) -> Known:
        changes = self._changes
        function, spec = await self._threads.run(self._look, key)
        known = Known(function, spec, self._clock() + TTL_SECONDS)
        if changes == self._changes:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = known
        return known

    def _look(self, key: Key) -> tuple[Function, FunctionSpec]:
        function = self._get(key[0], "default", key[1])
        return function, self._bounded(function.spec())

    def _asked(self, key: Key, task: asyncio.Task[Any]) -> None:
        if self._asking.get(key) is task:
            del self._asking[key]
        if not task.cancelled():
            task.exception()  # seen, though every waiter may have left
