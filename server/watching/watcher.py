"""The dispatcher's thread that watches directories. Each is one dispatcher's at a time; where it dies, another goes on from the index.

A directory that is away (not mounted, renamed, not readable) is said so in the log and tried again; nothing in it counts as removed.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from sandbox.log import pairs
from sandbox.settings import Settings
from server.errors import QueueFull
from server.watching.index import LeaseLost, WatchIndex, WatchRow
from server.watching.paths import allowed_above, opened
from server.watching.tree import Overflow, RootGone
from server.watching.watch import Watch

#: The same trouble of a directory is said again after this time.
REPEAT_SECONDS: Final = 300.0
RETRY_SECONDS: Final = 1.0
_HINTS: Final = {
    errno.ENOSPC: "no inotify watch is left: raise the sysctl fs.inotify.max_user_watches",
    errno.EMFILE: "no inotify instance is left: raise the sysctl fs.inotify.max_user_instances",
}

_log = logging.getLogger(__name__)


class Watcher:
    """`start` and `close` by its owner; `put` is called in the thread when it has put events."""

    def __init__(self, settings: Settings, index: WatchIndex, owner: str, put: Callable[[], None]) -> None:
        self._settings, self._index, self._owner, self._put = settings, index, owner, put
        self._allowed = settings.watched_paths
        self._watches: dict[str, Watch] = {}
        self._leases: dict[str, float] = {}
        self._told: dict[str, tuple[str, float]] = {}
        self._stop_reader, self._stop_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, and gives its directories to whoever is next."""
        self._is_stopping = True
        os.write(self._stop_writer, b"x")
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._stop_reader)
        os.close(self._stop_writer)

    def _run(self) -> None:
        refreshed = float("-inf")
        while not self._is_stopping:
            try:
                if time.monotonic() - refreshed >= self._settings.event_poll_seconds:
                    self._refresh()
                    refreshed = time.monotonic()
                for watch_id in list(self._watches):
                    self._step(watch_id)
            except SQLAlchemyError as error:
                _log.error(pairs("the database does not answer", part="watcher", error=str(error).splitlines()[0]))
            except Exception:
                _log.exception("a fault in the watcher")
                self._drop_all()
            self._wait()
        self._drop_all()
        try:
            self._index.release(self._owner)
        except SQLAlchemyError as error:
            _log.warning(pairs("watched directories could not be released", error=str(error).splitlines()[0]))

    def _wait(self) -> None:
        waits = [wait for watch in self._watches.values() if (wait := watch.wait_seconds) is not None]
        poller = select.poll()
        for fd in (self._stop_reader, *(watch.fileno() for watch in self._watches.values())):
            poller.register(fd, select.POLLIN)
        poller.poll(min([*waits, self._settings.event_poll_seconds]) * 1000)

    # -- which directories --------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        wanted = {row.watch_id: row for row in self._index.wanted()}
        for watch_id in self._watches.keys() - wanted.keys():
            self._drop(watch_id)
        for watch_id, row in wanted.items():
            if allowed_above(self._allowed, row.directory) is None:
                self._drop(watch_id)
                self._tell(row.directory, "it is not among the setting watch_dirs")
            elif self._hold(watch_id):
                self._check(watch_id)
                if watch_id not in self._watches:
                    self._begin(watch_id)

    def _hold(self, watch_id: str) -> bool:
        """Whether the directory is ours; prolonged when a third of its lease is over."""
        now, lease = time.time(), self._settings.event_lease_seconds
        if watch_id in self._watches and self._leases.get(watch_id, 0.0) - now > lease * 2 / 3:
            return True
        if self._index.acquire(watch_id, self._owner, now=now, lease_until=now + lease) is None:
            self._drop(watch_id)
            return False
        self._leases[watch_id] = now + lease
        return True

    def _check(self, watch_id: str) -> None:
        if (watch := self._watches.get(watch_id)) is not None:
            try:
                watch.check()
            except RootGone as error:
                self._drop(watch_id)
                self._tell(watch.row.directory, _why(error))

    def _begin(self, watch_id: str) -> None:
        now, lease = time.time(), self._settings.event_lease_seconds
        row = self._index.acquire(watch_id, self._owner, now=now, lease_until=now + lease)
        if row is None:
            return
        watch = self._made(row)
        try:
            watch.start()
        except (OSError, RootGone) as error:
            watch.close()
            self._tell(row.directory, _why(error))
        except LeaseLost:
            watch.close()
        except BaseException:
            watch.close()
            raise
        else:
            self._watches[watch_id] = watch
            self._told.pop(row.directory, None)

    def _made(self, row: WatchRow) -> Watch:
        settings = self._settings
        return Watch(
            row,
            self._owner,
            self._index,
            opening=partial(opened, self._allowed, row.directory),
            lease_seconds=settings.event_lease_seconds,
            quiet_seconds=settings.watch_quiet_seconds,
        )

    # -- one directory ------------------------------------------------------------------------------------------------------

    def _step(self, watch_id: str) -> None:
        watch = self._watches[watch_id]
        try:
            if watch.step():
                self._put()
        except Overflow:
            _log.warning(pairs("inotify has dropped events, everything is looked at", directory=watch.row.directory))
            self._drop(watch_id)
            self._begin(watch_id)
        except (OSError, RootGone) as error:
            self._drop(watch_id)
            self._tell(watch.row.directory, _why(error))
        except LeaseLost:
            _log.warning(pairs("a watched directory is another dispatcher's now", directory=watch.row.directory))
            self._drop(watch_id)
        except QueueFull as error:
            self._tell(watch.row.directory, error.detail)
            self._put()
            select.select([self._stop_reader], [], [], RETRY_SECONDS)
        except SQLAlchemyError:
            # Whether it was committed is not known: the index says, when it is there again.
            self._drop(watch_id)
            raise

    def _drop(self, watch_id: str) -> None:
        if (watch := self._watches.pop(watch_id, None)) is not None:
            watch.close()

    def _drop_all(self) -> None:
        for watch_id in list(self._watches):
            self._drop(watch_id)

    def _tell(self, directory: str, why: str) -> None:
        said, at = self._told.get(directory, ("", 0.0))
        if said != why or time.monotonic() - at > REPEAT_SECONDS:
            self._told[directory] = (why, time.monotonic())
            _log.error(pairs("a directory is not watched, it is tried again", directory=directory, why=why))


def _why(error: OSError | RootGone) -> str:
    if isinstance(error, RootGone):
        return str(error)
    return _HINTS.get(error.errno or 0) or error.strerror or str(error)
