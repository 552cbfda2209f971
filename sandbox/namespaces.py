"""Network namespaces prepared ahead, by a thread of sandboxd's own.

Making one costs 0.7 ms in the kernel, entering a ready one 25 microseconds. unshare(2) with CLONE_NEWNET moves only the calling
thread, so this thread makes one after the other, brings `lo` up in it, and keeps a descriptor of each; the process itself stays
where it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading

from sandbox.errors import LaunchError
from sandbox.kernel import constants as k
from sandbox.kernel import links, process

_log = logging.getLogger(__name__)


class NetworkNamespaces:
    """A stock of descriptors of new network namespaces with only a loopback; `take` never waits longer than making one."""

    def __init__(self, stock: int) -> None:
        self._ready: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._wanted = threading.Semaphore(stock)
        self._stopped = False
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="netns", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._wanted.release()
        self._thread.join(5)
        while not self._ready.empty():
            os.close(self._ready.get_nowait())

    async def take(self) -> int:
        """A descriptor that is the caller's to close. Raises LaunchError when the kernel refuses new ones."""
        while True:
            try:
                fd = self._ready.get_nowait()
            except queue.Empty:
                if self._failure is not None:
                    raise LaunchError("network", "unshare", self._failure.errno or 0) from self._failure
                await asyncio.sleep(0.0005)  # the thread is at it
                continue
            self._wanted.release()
            return fd

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            if self._stopped:
                return
            try:
                process.unshare(k.CLONE_NEWNET)
                links.bring_up_loopback()
                self._ready.put(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                _log.error("cannot make a network namespace: %s", error)
                self._failure = error
                return
