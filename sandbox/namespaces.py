"""Network namespaces prepared ahead, by a thread of sandboxd's own.

Making one costs 0.7 ms in the kernel, connecting it to the bridge 1.5 ms more, entering a ready one 25 microseconds. unshare(2) with
CLONE_NEWNET moves only the calling thread, so this thread makes one after the other, keeps a descriptor of each and goes back to the
host's; the process itself stays where it is. The daemon has the Nat started and stopped in this thread too. A namespace is used by one
sandbox and never again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

from sandbox.errors import LaunchError
from sandbox.kernel import constants as k
from sandbox.kernel import links, process
from sandbox.network.nat import Nat
from sandbox.spec import Network

_log = logging.getLogger(__name__)

#: Kept of those with only a loopback where `nat` can be had: most functions want the other kind.
LOOPBACKS = 2
LOOK_SECONDS = 5.0
AGAIN_SECONDS = 1.0
STOP_SECONDS = 5.0


class NetworkNamespaces:
    """A stock of descriptors of new network namespaces of each kind; `take` never waits longer than making one.

    Without a Nat there is one kind: whoever asks for `nat` gets only a loopback.
    """

    def __init__(self, thread: ThreadPoolExecutor, stock: int, nat: Nat | None = None) -> None:
        """`thread` is one thread, which is in use from `start` to `stop`."""
        self._nat = nat
        self._stock: dict[Network, int] = {"nat": stock, "none": LOOPBACKS} if nat else {"none": stock}
        self._ready: dict[Network, queue.SimpleQueue[int]] = {kind: queue.SimpleQueue() for kind in self._stock}
        self._wanted = threading.Event()
        self._stopped = False
        self._failures: dict[Network, OSError] = {}
        self._thread = thread
        self._running: Future[None]

    def start(self) -> None:
        self._running = self._thread.submit(self._run)

    def stop(self) -> None:
        self._stopped = True
        self._wanted.set()
        self._running.result(STOP_SECONDS)
        for ready in self._ready.values():
            while not ready.empty():
                os.close(ready.get_nowait())

    def kind(self, wanted: Network) -> Network:
        """What a sandbox that asks for `wanted` gets here."""
        return wanted if wanted in self._stock else "none"

    async def take(self, wanted: Network) -> int:
        """A descriptor that is the caller's to close. Raises LaunchError when the kernel refuses new ones."""
        kind = self.kind(wanted)
        ready = self._ready[kind]
        while True:
            try:
                fd = ready.get_nowait()
            except queue.Empty:
                if (failure := self._failures.get(kind)) is not None:
                    step = failure.strerror or str(failure)
                    raise LaunchError("network", f"make a namespace: {step}", failure.errno or 0) from failure
                await asyncio.sleep(0.0005)  # the thread is at it
                continue
            self._wanted.set()
            return fd

    def _run(self) -> None:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            next_look = time.monotonic() + LOOK_SECONDS
            while not self._stopped:
                self._wanted.clear()
                lacking: list[Network] = [kind for kind, count in self._stock.items() if self._ready[kind].qsize() < count]
                made = [self._made(kind, home) for kind in lacking]
                if not any(made):
                    self._wanted.wait(AGAIN_SECONDS if lacking else LOOK_SECONDS)
                if time.monotonic() >= next_look:
                    self._look()
                    next_look = time.monotonic() + LOOK_SECONDS
        finally:
            os.close(home)

    def _made(self, kind: Network, home: int) -> bool:
        try:
            self._ready[kind].put(self._make(kind, home))
        except OSError as error:
            if kind not in self._failures:
                _log.error("cannot make a network namespace for %s: %s", kind, error)
            self._failures[kind] = error
            return False
        self._failures.pop(kind, None)
        return True

    def _make(self, kind: Network, home: int) -> int:
        number = self._nat.reserve() if self._nat and kind == "nat" else -1
        process.unshare(k.CLONE_NEWNET)
        try:
            links.bring_up_loopback()
            fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if self._nat and kind == "nat":
                    self._nat.connect(number, fd)
            except OSError:
                os.close(fd)
                raise
            return fd
        finally:
            process.setns(home, k.CLONE_NEWNET)  # the next number, and the host's switches, are looked up there

    def _look(self) -> None:
        if self._nat:
            try:
                self._nat.look()
            except OSError as error:
                _log.error("network nat can't follow the host: %s", error)
