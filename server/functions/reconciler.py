"""Carries what is provisioned from the database to sandboxd: at each start of either, at each time of a schedule, and every other second.

One process of a machine does it, whichever holds the lock file (the kernel gives it back when the process dies). What it says may be said
twice, so whoever changes a row also says it at once, and nothing depends on this loop being quick. Now the API's processes run it in their
lifespan (`server.app`); once there is a dispatcher, it belongs there: construct it with the dispatcher's client and call `start`, `close`.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy.exc import SQLAlchemyError

from sandbox.client import PROVISIONED
from sandbox.errors import SandboxError
from sandbox.log import pairs
from sandbox.spec import FunctionSpec
from server.errors import ApiError
from server.functions.provisions import Provisions, Target

INTERVAL_SECONDS: Final = 2.0
SHORTEST_SECONDS: Final = 0.05

_log = logging.getLogger(__name__)


class Runtime(Protocol):
    """What of `sandbox.client.Client` is needed."""

    @property
    def connected(self) -> bool: ...
    async def provision(
        self, spec: FunctionSpec, number: int, *, purpose: str = ..., revision: int = 0, seconds: float | None = None
    ) -> None: ...
    async def unprovision(self, function_id: str, *, purpose: str = ..., revision: int = 0) -> None: ...
    async def provisions(self) -> list[dict[str, Any]]: ...


class Reconciler:
    """`spec_of(target)` is the version's specification, blocking; it raises an ApiError of status 404 for one that is no more."""

    def __init__(
        self,
        provisions: Provisions,
        client: Runtime,
        spec_of: Callable[[Target], FunctionSpec],
        lock_path: Path,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._provisions, self._client, self._spec_of = provisions, client, spec_of
        self._lock_path, self._clock = lock_path, clock
        self._lock = -1
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def push(self, target: Target) -> None:
        """Say one row at once. Raises SandboxError; what is not said now is said in the next round."""
        try:
            spec = await asyncio.to_thread(self._spec_of, target)
        except ApiError as error:
            if error.status != 404:
                raise
            await self._client.unprovision(
                target.function_id, revision=await asyncio.to_thread(self._provisions.forget, target.function_id)
            )
            return
        await self._client.provision(spec, target.at(self._clock())[0], revision=target.revision)

    async def round(self) -> float:
        """Say everything; in how many seconds to do it again."""
        # sandboxd first: what it has was committed before, so a row that is missing then was deleted.
        present = {row["function_id"]: row["revision"] for row in await self._client.provisions() if PROVISIONED in row["purposes"]}
        targets = await asyncio.to_thread(self._provisions.targets)
        for target in targets:
            try:
                await self.push(target)
            except SandboxError as error:
                _log.warning(pairs("cannot provision", function=target.function, version=target.version, error=error))
        for function_id in present.keys() - {target.function_id for target in targets}:
            await self._client.unprovision(function_id, revision=present[function_id])
        now = self._clock()
        until = min((target.at(now)[1] for target in targets), default=float("inf"))
        return max(SHORTEST_SECONDS, min(INTERVAL_SECONDS, until - now))

    async def _run(self) -> None:
        failing = False
        while True:
            pause = INTERVAL_SECONDS
            try:
                if self._owns() and self._client.connected:
                    pause = await self.round()
                failing = False
            except (SandboxError, ApiError, SQLAlchemyError, OSError) as error:
                if not failing:
                    _log.warning(pairs("provisioned workers are not looked after", error=error))
                failing = True
            await asyncio.sleep(pause)

    def _owns(self) -> bool:
        """Whether this is the one process of the machine that does it; it stays so until it ends."""
        if self._lock >= 0:
            return True
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True
