"""Which HTTP trigger a URL's id is: kept as `lookup` keeps functions, until sandboxd tells of a change, two seconds at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from server.api.lookup import MAX_KNOWN, TTL_SECONDS
from server.api.threads import Threads
from server.triggers.http import HTTP, HttpConfig, trigger_id_of
from server.triggers.model import Trigger

#: Looks at once. Anybody may ask for ids that do not exist: the other threads stay for those who are known.
AT_ONCE: Final = 4

#: A trigger, its configuration read once, when to look again.
Entry = tuple[Trigger, HttpConfig, float]


class UrlCache:
    """One process's. `find` is `Triggers.by_id`, blocking. Ids that are none are not remembered: there is no end of them."""

    def __init__(self, find: Callable[[str], Trigger | None], threads: Threads, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._find, self._threads, self._clock = find, threads, clock
        self._known: dict[str, Entry] = {}
        self._changes = 0
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def find(self, url_id: str) -> tuple[Trigger, HttpConfig] | None:
        """None where there is no such URL."""
        entry = self._known.get(url_id)
        if entry is None or entry[2] <= self._clock():
            trigger_id = trigger_id_of(url_id)
            entry = None if trigger_id is None else await self._ask(url_id, trigger_id)
        return None if entry is None else entry[:2]

    def forget(self, function_id: str | None) -> None:
        """A function's triggers have changed; None: any may have. A look that is under way may still have seen the old ones."""
        self._changes += 1
        if function_id is None:
            self._known.clear()
        else:
            self._known = {url_id: entry for url_id, entry in self._known.items() if entry[0].function_id != function_id}

    async def _ask(self, url_id: str, trigger_id: str) -> Entry | None:
        async with self._turn:
            changes = self._changes
            trigger = await self._threads.run(self._find, trigger_id)
        if trigger is None or trigger.type != HTTP:
            self._known.pop(url_id, None)
            return None
        entry = (trigger, HttpConfig.of(trigger.config), self._clock() + TTL_SECONDS)
        if changes == self._changes:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[url_id] = entry
        return entry
