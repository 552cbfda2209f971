"""Group commit: what is submitted while one commit is on its way to the disk goes with the next one, together.

    submit ─▶ waiting ──▶ (thread) commit(all that waits) ──▶ each submitter's answer
    submit ─▶    │
A single submitter waits for one commit; a thousand at once share a few.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST_AT_ONCE = 1000


class GroupCommit(Generic[T, R]):
    """`commit(items)` gives one answer an item, in order; an answer that is an exception is raised at its submitter, one that `commit`
    raises at all of them. `start` once, `close` at the end: it lets what waits be committed."""

    def __init__(self, name: str, commit: Callable[[Sequence[T]], Sequence[R | Exception]]) -> None:
        self._commit = commit
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._work = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def submit(self, item: T) -> R:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        with self._work:
            self._waiting.append((item, future))
            self._work.notify()
        return await future

    def close(self, timeout: float = 10.0) -> None:
        with self._work:
            self._closing = True
            self._work.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while batch := self._take():
            answers: Sequence[R | Exception]
            try:
                answers = self._commit([item for item, _ in batch])
            except Exception as error:
                answers = [error] * len(batch)
            loop = batch[0][1].get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_tell, [future for _, future in batch], answers)

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        """What waits, at least one; nothing at the end."""
        with self._work:
            self._work.wait_for(lambda: self._waiting or self._closing)
            batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            return batch


def _tell(futures: Sequence[asyncio.Future[R]], answers: Sequence[R | Exception]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if future.done():  # its submitter was cancelled
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
