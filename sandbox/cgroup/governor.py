"""The memory governor: a function owns its own memory and its whole /tmp, although the kernel charges both to one cgroup.

    kernel limit = own limit + bytes in /tmp + headroom                 moved ahead of use, in a thread of its own
    usage - /tmp - page cache > own limit  →  over: the sandbox is killed and the call is told 434

It looks at a running sandbox again when, at the fastest rate memory can be filled, half of what is free below its kernel limit
could be gone. So an idle or small function costs a look every 50 ms, one that writes /tmp at full speed a look every few
milliseconds. (Usage thresholds of cgroup v1 would tell without looking, but registering one costs 10.7 ms: docs/decisions/0002.)

Only leased sandboxes are watched: what is idle is frozen. `over` is called in this thread.
"""

from __future__ import annotations

import errno
import heapq
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sandbox.cgroup.model import Cgroup

_log = logging.getLogger(__name__)

#: How fast a sandbox can fill memory, bytes a second: measured 2-3 GB/s for one writer of tmpfs, two cores.
FILL_RATE = 4_000_000_000
FIRST_LOOK_SECONDS = 0.010
SHORTEST_SECONDS = 0.002
LONGEST_SECONDS = 0.050
#: With a raised limit a function could delete its files and take their room: look often.
LONGEST_RAISED_SECONDS = 0.005
STEP_BYTES = 4 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Watch:
    """One lease's memory. Sizes in bytes; `tmp_path` is opened at the first look, so a short call never pays for it."""

    cgroup: Cgroup
    own_limit: int
    headroom: int
    tmp_path: str
    over: Callable[[Watch], None]
    kernel_limit: int
    tmp_bytes: int = 0
    tmp_peak: int = 0
    file_cache: int = 0
    own_peak: int = 0
    exceeded: bool = False
    ended: bool = False
    looks: int = 0
    _tmp_fd: int = -1
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.tmp_peak = max(self.tmp_peak, self.tmp_bytes)  # what former calls left there is no memory of this one's

    def look(self) -> float:
        """Measure, move the limit, and say in how many seconds to look again."""
        self.looks += 1
        self._measure_tmp()
        usage = self.cgroup.memory_usage()
        own = usage - self.tmp_bytes - self.file_cache
        if own > max(self.own_peak, self.own_limit // 2):
            self.file_cache = self.cgroup.file_cache()  # costs ten times the reading of usage: only when it matters
            own = usage - self.tmp_bytes - self.file_cache
        self.own_peak = max(self.own_peak, own)
        if own > self.own_limit and not self.exceeded:
            self.exceeded = True
            self.over(self)
        self._move_limit()
        free = max(0, self.kernel_limit - usage)
        longest = LONGEST_RAISED_SECONDS if self.tmp_bytes > self.headroom // 2 else LONGEST_SECONDS
        return min(longest, max(SHORTEST_SECONDS, free / 2 / FILL_RATE))

    def settle(self) -> None:
        """Measure once more what is not the function's own, at the end of a call that may have been too short for a look.

        Nothing is measured where the sandbox is ending.
        """
        try:
            self.file_cache = self.cgroup.file_cache()
            self._measure_tmp()
            self.looks += 1
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return
        finally:
            self.close()

    def _measure_tmp(self) -> None:
        if self._tmp_fd < 0:
            self._tmp_fd = os.open(self.tmp_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        status = os.fstatvfs(self._tmp_fd)
        self.tmp_bytes = (status.f_blocks - status.f_bfree) * status.f_frsize
        self.tmp_peak = max(self.tmp_peak, self.tmp_bytes)

    def _move_limit(self) -> None:
        target = self.own_limit + self.tmp_bytes + self.headroom
        if abs(target - self.kernel_limit) < STEP_BYTES:
            return
        try:
            self.cgroup.set_memory_limit(target)
            self.kernel_limit = target
        except OSError as error:
            if error.errno != errno.EBUSY:  # EBUSY: usage is above the new limit; the next look kills it or finds it lower
                raise

    def close(self) -> None:
        if self._tmp_fd >= 0:
            os.close(self._tmp_fd)
            self._tmp_fd = -1


class Governor:
    """The thread. `watch` and `unwatch` are called by sandboxd's loop and cost it a lock and a list entry."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Watch]] = []
        self._count = 0
        self._next_look = float("inf")
        self._condition = threading.Condition()
        self._stopped = False
        self._healthy = True  # so that a lasting fault is told once
        self._thread = threading.Thread(target=self._run, name="governor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join(5)

    def watch(self, watch: Watch) -> None:
        due = time.monotonic() + FIRST_LOOK_SECONDS
        with self._condition:
            self._count += 1
            heapq.heappush(self._due, (due, self._count, watch))
            if due < self._next_look:
                self._condition.notify()

    def unwatch(self, watch: Watch) -> None:
        """No look is under way or will come; the thread throws the entry away when it is due."""
        with watch.lock:
            watch.ended = True
            watch.close()

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._due and self._due[0][2].ended:  # a short call's: not worth waking up for
                    heapq.heappop(self._due)
                while not self._stopped and not self._due:
                    self._next_look = float("inf")
                    self._condition.wait()
                if self._stopped:
                    return
                due, _, watch = self._due[0]
                self._next_look = due
                delay = due - time.monotonic()
                if delay > 0:
                    self._condition.wait(delay)
                    continue
                heapq.heappop(self._due)
            self._look(watch)

    def _look(self, watch: Watch) -> None:
        with watch.lock:
            if watch.ended:
                return
            try:
                again = watch.look()
                self._healthy = True
            except FileNotFoundError:
                return  # the sandbox is gone: /proc/PID or its cgroup
            except OSError as error:
                if error.errno in (errno.ESRCH, errno.ENODEV, errno.EACCES):
                    return
                if self._healthy:
                    _log.warning("governor: %s: %s", watch.cgroup.name, error)
                self._healthy = False
                again = LONGEST_SECONDS  # out of descriptors, say: it must not be left without a watch for that
        with self._condition:
            self._count += 1
            heapq.heappush(self._due, (time.monotonic() + again, self._count, watch))
