"""One watched directory: which of its files are finished, and which of these are not what the index knows.

A file counts once whoever wrote it has closed it, or it was moved here: inotify tells. A file that a look found, written while nobody
watched, is taken for finished when it has not changed for `quiet_seconds`. What is known of a file is its size, its time and its inode:
what is told twice, or told and found, counts once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from sandbox.log import pairs
from server.watching.index import FileChange, FileState, WatchIndex, WatchRow
from server.watching.tree import Hints, Tree

#: The kernel's time stamps are this coarse at most (a jiffy of CONFIG_HZ=100, doubled): two states so close may look alike, so one is
#: known only when it is older than that. Otherwise a second write could go unseen.
COARSE_SECONDS: Final = 0.02
#: A file that is closed again and again is reported at least so often.
LONGEST_SECONDS: Final = 1.0
AT_ONCE: Final = 500

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Pending:
    """A name to look at. `since`, monotonic: when it was first told, or last seen to change."""

    since: float
    is_closed: bool
    state: FileState | None = None


class Watch:
    """Between `start` and `close`; its owner calls `step` when `fileno` is readable and after `wait_seconds`."""

    def __init__(
        self,
        row: WatchRow,
        owner: str,
        index: WatchIndex,
        *,
        opening: Callable[[], AbstractContextManager[int]],
        lease_seconds: float,
        quiet_seconds: float,
    ) -> None:
        self.row, self._owner, self._index = row, owner, index
        self._lease_seconds, self._quiet_seconds = lease_seconds, quiet_seconds
        self._tree = Tree(opening)
        self._inode = row.inode
        self._known: dict[bytes, FileState] = {}
        self._pending: dict[bytes, Pending] = {}

    def start(self) -> None:
        """Watch, and note what has changed since it was last known. Raises LeaseLost, OSError, RootGone, SQLAlchemyError."""
        is_first = not self.row.inode
        self._known = self._index.load(self.row.watch_id)
        self._inode, found = self._tree.start(self.row.inode)
        if is_first:
            old = [(path, facts) for path, facts in found.items() if facts.st_ctime < self.row.since - COARSE_SECONDS]
            self._commit([FileChange(path, FileState.of(facts), facts.st_size, is_silent=True) for path, facts in old])
        changed = {path for path, facts in found.items() if self._known.get(path) != FileState.of(facts)}
        self._note(Hints(found=changed, vanished=self._known.keys() - found.keys()))
        _log.info(pairs("a directory is watched", directory=self.row.directory, files=len(found), to_look_at=len(self._pending)))

    def close(self) -> None:
        self._tree.close()
        self._pending.clear()

    def fileno(self) -> int:
        return self._tree.fileno()

    @property
    def wait_seconds(self) -> float | None:
        """How long until a name is worth another look, without being told; None: until told."""
        if not self._pending:
            return None
        is_soon = any(pending.is_closed for pending in self._pending.values())
        return COARSE_SECONDS if is_soon else min(0.2, self._quiet_seconds)

    def check(self) -> None:
        """Raises RootGone: its parent may have been renamed, which nobody tells."""
        with self._tree.root():
            return

    def step(self) -> int:
        """Take in what was told, report what is finished; how many events that made. Raises LeaseLost, OSError, Overflow, QueueFull,
        RootGone, SQLAlchemyError; after a QueueFull it may go on."""
        self._note(self._tree.read())
        return self._report() if self._pending else 0

    def _note(self, hints: Hints) -> None:
        now = time.monotonic()
        for tree in hints.vanished_trees:
            hints.vanished.update(path for path in self._known if path.startswith(tree + b"/"))
        for path in (*hints.found, *hints.vanished):
            self._pending.setdefault(path, Pending(now, is_closed=False))
        for path in hints.closed:
            self._pending.setdefault(path, Pending(now, is_closed=True)).is_closed = True

    def _report(self) -> int:
        made = 0
        with self._tree.root() as top:
            ready: list[FileChange] = []
            for path in list(self._pending):
                change = self._look(top, path)
                if change is not None:
                    ready.append(change)
                if len(ready) == AT_ONCE:
                    made += self._commit(ready)
                    ready = []
            if ready:
                made += self._commit(ready)
        return made

    def _look(self, top: int, path: bytes) -> FileChange | None:
        """The change of a name that is finished; one that has not changed is not looked at again."""
        pending, known = self._pending[path], self._known.get(path)
        try:
            facts = self._tree.look(top, path)
        except OSError as error:
            _log.warning(pairs("a watched file can't be looked at", file=os.fsdecode(path), error=error.strerror))
            del self._pending[path]
            return None
        if facts is None and known is not None:
            return FileChange(path, None, known.size)
        if facts is None or known == FileState.of(facts):
            del self._pending[path]
            return None
        return FileChange(path, FileState.of(facts), facts.st_size) if self._is_finished(pending, facts) else None

    def _is_finished(self, pending: Pending, facts: os.stat_result) -> bool:
        """By its change time, which unlike the time of its content nobody can set."""
        now, age = time.monotonic(), time.time() - facts.st_ctime
        if pending.is_closed:
            return age >= COARSE_SECONDS or now - pending.since >= LONGEST_SECONDS
        if pending.state != (state := FileState.of(facts)):
            pending.state, pending.since = state, now
        return age >= self._quiet_seconds or now - pending.since >= self._quiet_seconds

    def _commit(self, changes: list[FileChange]) -> int:
        lease_until = time.time() + self._lease_seconds
        made = self._index.commit(self.row, self._owner, changes, inode=self._inode, lease_until=lease_until)
        for change in changes:
            self._pending.pop(change.path, None)
            if change.state is None:
                self._known.pop(change.path, None)
            else:
                self._known[change.path] = change.state
        return made
