"""Reading and writing the one-line files of a control group, and removing its directories."""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import ExitStack


def read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 16_384).decode()
    finally:
        os.close(fd)


def read_int(path: str) -> int:
    return int(read(path))


def write(path: str, value: str | int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def open_all(paths: dict[str, str]) -> dict[str, int]:
    """Each path opened for writing, by the same names: all of them, or OSError and none."""
    with ExitStack() as stack:
        found = {}
        for name, path in paths.items():
            found[name] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            stack.callback(os.close, found[name])
        stack.pop_all()
        return found


def keyed(text: str, key: str) -> int:
    """The number behind `key` in a "key value" file; 0 if it is not there."""
    start = text.find(f"\n{key} ") + 1
    if start == 0 and not text.startswith(f"{key} "):
        return 0
    return int(text[start + len(key) + 1 :].split("\n", 1)[0])


def children(path: str) -> list[str]:
    """Sub-directories, deepest first, without `path` itself; none if it does not exist."""
    return [directory for directory, _, _ in os.walk(path, topdown=False) if directory != path]


def processes(path: str) -> list[int]:
    try:
        return [int(word) for word in read(os.path.join(path, "cgroup.procs")).split()]
    except FileNotFoundError:
        return []


def kill_processes(path: str, within_seconds: float = 10.0) -> None:
    """SIGKILL all in a leftover group until it is empty. Only for groups whose owner is dead: nobody else forks into them."""
    deadline = time.monotonic() + within_seconds
    while (pids := processes(path)) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.005)


def remove_directory(path: str, within_seconds: float = 5.0) -> None:
    """rmdir, tried again while the kernel still counts a dying process in it (EBUSY)."""
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.002)
