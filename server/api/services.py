"""What the resources work with. Only `server.app` makes one; here is no wiring."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from sqlalchemy import Engine

from sandbox.errors import SandboxError, Unavailable
from sandbox.log import pairs
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec, Reply
from server.api.calls import Calls, Running
from server.api.lookup import FunctionCache
from server.api.metrics import Metrics
from server.api.threads import Tasks, Threads
from server.api.urls import UrlCache
from server.buckets.packages import Packages
from server.events import wake
from server.events.configs import EventConfigs
from server.events.deadletters import DeadLetters
from server.events.front import EventFront
from server.events.queue import EventQueue
from server.functions.aliases import Alias, Aliases
from server.functions.codestore import CodeStore
from server.functions.concurrency import Concurrency, QuotaChange
from server.functions.layers import Layers
from server.functions.model import Function
from server.functions.namespaces import Namespaces
from server.functions.provisions import Provisions, Target
from server.functions.reconciler import Reconciler
from server.functions.service import Functions
from server.functions.versions import Versions
from server.keys.credentials import Credentials
from server.keys.nonces import Nonces
from server.keys.service import Keys
from server.keys.vault import Vault
from server.notifications.inbox import Inbox
from server.notifications.sources import Sources
from server.records.recorder import Recorder
from server.triggers.http import HTTP
from server.triggers.model import Trigger
from server.triggers.service import Triggers

RETIRE_SECONDS: Final = 2.0
DESCRIBE_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Runtime(Protocol):
    """`sandbox.client.Client`, as the API uses it."""

    on_change: Callable[[str | None], None]
    on_connection: Callable[[bool], None]

    @property
    def connected(self) -> bool: ...
    async def start(self) -> None: ...
    async def close(self) -> None: ...
    def begin(
        self, spec: FunctionSpec, event: bytes, *, request_id: str, ended: Callable[[Reply | SandboxError], None], hops: int = 0
    ) -> Running: ...
    async def retire(self, function_id: str, generation: int | None) -> None: ...
    async def announce(self, function_id: str) -> None: ...
    async def describe(self) -> dict[str, Any]: ...
    async def resolve(self, runtime: str) -> dict[str, Any]: ...
    async def credential(self, secret_id: str) -> dict[str, Any] | None: ...
    async def endpoint(self, of: str) -> socket.socket | None: ...
    async def quota(self, namespace: str, epoch: int, family: str = "", *, is_reserved: bool = False) -> None: ...
    async def provision(
        self, spec: FunctionSpec, number: int, *, purpose: str = ..., revision: int = 0, seconds: float | None = None
    ) -> None: ...
    async def unprovision(self, function_id: str, *, purpose: str = ..., revision: int = 0) -> None: ...
    async def provisions(self) -> list[dict[str, Any]]: ...


@dataclass(slots=True)
class Services:
    """`lookups` are the threads of the hot path and of short questions, `uploads` those that unpack packages."""

    settings: Settings
    client: Runtime
    engine: Engine
    functions: Functions
    namespaces: Namespaces
    versions: Versions
    aliases: Aliases
    layers: Layers
    concurrency: Concurrency
    provisions: Provisions
    reconciler: Reconciler
    codestore: CodeStore
    packages: Packages
    keys: Keys
    credentials: Credentials
    nonces: Nonces
    vault: Vault
    recorder: Recorder
    cache: FunctionCache
    calls: Calls
    metrics: Metrics
    queue: EventQueue
    events: EventFront
    configs: EventConfigs
    letters: DeadLetters
    triggers: Triggers
    sources: Sources
    inbox: Inbox
    urls: UrlCache
    lookups: Threads
    uploads: Threads
    changes: Tasks
    #: Set when the process is about to end: streams end, waits give up.
    stopping: asyncio.Event

    async def change(self, blocking: Callable[[], Function], *, deleted: bool = False) -> Function:
        """Do a change in a thread, then tell everybody; both happen although the client may leave meanwhile."""
        return await self.changes.finish(self._change(blocking, deleted))

    async def _change(self, blocking: Callable[[], Function], deleted: bool) -> Function:
        function = await self.uploads.run(blocking)
        await self._tell_of(function, self.client.retire(function.function_id, None if deleted else function.generation))
        return function

    async def change_alias(self, blocking: Callable[[], tuple[Function, Alias]]) -> Alias:
        """The same for a change of an alias: what every process knows of it goes, every worker stays."""
        return await self.changes.finish(self._change_alias(blocking))

    async def _change_alias(self, blocking: Callable[[], tuple[Function, Alias]]) -> Alias:
        function, alias = await self.lookups.run(blocking)
        await self._tell_of(function, self.client.announce(function.function_id))
        return alias

    async def change_trigger(self, blocking: Callable[[], Trigger]) -> Trigger:
        """A trigger made, changed or removed: every process's URLs know it when this returns, and dispatchers look at their timers."""
        return await self.changes.finish(self._change_trigger(blocking))

    async def _change_trigger(self, blocking: Callable[[], Trigger]) -> Trigger:
        trigger = await self.lookups.run(blocking)
        if trigger.type == HTTP:
            self.forget(trigger.function_id)
            await self._tell(self.client.announce(trigger.function_id))
        else:
            await self.lookups.run(self.events.tell_dispatchers, wake.TIMERS)
        return trigger

    def forget(self, function_id: str | None) -> None:
        """A function, or something of it, has changed (None: any may have): it is looked up again."""
        self.cache.forget(function_id)
        self.urls.forget(function_id)

    async def copy(self, name: str, new_name: str, namespace: str, **options: Any) -> Function:
        """`Functions.copy`, and the function that was overwritten is retired."""
        return await self.changes.finish(self._copy(partial(self.functions.copy, name, new_name, namespace, **options)))

    async def _copy(self, blocking: Callable[[], tuple[Function, Function | None]]) -> Function:
        function, overwritten = await self.lookups.run(blocking)
        if overwritten is not None:
            await self._tell_of(overwritten, self.client.retire(overwritten.function_id, None))
        return function

    async def _tell_of(self, function: Function, telling: Coroutine[Any, Any, None]) -> None:
        """After the commit: who is told to look again must find the new one."""
        self.forget(function.function_id)
        await self._tell(telling)

    async def _tell(self, telling: Coroutine[Any, Any, None]) -> None:
        """What is committed holds although sandboxd can't be told: it has no worker of the old one when it comes back, every acquire names
        its generation and its quotas' epoch, and the reconciler does the rest."""
        try:
            async with asyncio.timeout(RETIRE_SECONDS):
                await telling
        except (SandboxError, TimeoutError) as error:
            _log.warning(pairs("sandboxd was not told of a change", error=str(error) or "no answer"))

    async def account(self, namespace: str = "") -> dict[str, Any]:
        """`Concurrency.account`, and among the limits what triggers and events may: "triggers" by type, "events". Raises
        NamespaceNotFound."""
        found = await self.lookups.run(self.concurrency.account, namespace)
        return {**found, "limits": {**found["limits"], "triggers": self.triggers.limits(), "events": self.configs.limits()}}

    async def change_quota(self, blocking: Callable[[], QuotaChange]) -> QuotaChange:
        """The same for a change of a quota: when this returns, no call is admitted by an older one on this machine."""
        return await self.changes.finish(self._change_quota(blocking))

    async def _change_quota(self, blocking: Callable[[], QuotaChange]) -> QuotaChange:
        change = await self.lookups.run(blocking)
        self.cache.forget(None)
        await self._tell(self.client.quota(change.namespace, change.epoch, change.family, is_reserved=change.is_reserved))
        return change

    async def provision(self, blocking: Callable[[], Target]) -> Target:
        """Change what is provisioned of a version, and begin with it."""
        return await self.changes.finish(self._provision(blocking))

    async def _provision(self, blocking: Callable[[], Target]) -> Target:
        target = await self.lookups.run(blocking)
        await self._tell(self.reconciler.push(target))
        return target

    async def unprovision(self, blocking: Callable[[], tuple[str, int]]) -> None:
        await self.changes.finish(self._unprovision(blocking))

    async def _unprovision(self, blocking: Callable[[], tuple[str, int]]) -> None:
        function_id, revision = await self.lookups.run(blocking)
        await self._tell(self.client.unprovision(function_id, revision=revision))

    async def provisioned(self) -> dict[str, dict[str, Any]]:
        """What sandboxd has of what is provisioned, by the version's `function_id`. Raises Unavailable."""
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                return {row["function_id"]: row for row in await self.client.provisions()}
        except TimeoutError:
            raise Unavailable(f"sandboxd did not answer within {DESCRIBE_SECONDS:g} s") from None

    async def served_by(self, runtime: str) -> dict[str, Any] | None:
        """{"image", "runtime"} that serve this runtime now; None where no image does, or while sandboxd is away."""
        try:
            async with asyncio.timeout(RETIRE_SECONDS):
                return await self.client.resolve(runtime)
        except (SandboxError, TimeoutError):
            return None

    async def describe(self) -> dict[str, Any]:
        """sandboxd's description. Raises Unavailable, also when it does not answer in time."""
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                return await self.client.describe()
        except TimeoutError:
            raise Unavailable(f"sandboxd did not answer within {DESCRIBE_SECONDS:g} s") from None
