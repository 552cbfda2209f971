"""`python -m sandbox.launcher`: the only process of ours that forks, one thread, a small heap, subreaper of everything below it.

It starts sandboxd as its child and both live and die together: sandboxd's end is ours (everything below is killed, then we exit
with its status), our end is sandboxd's (it reads end of file). SIGTERM and SIGINT are passed on to sandboxd, which closes its
sandboxes first.

Requests of sandboxd (SOCK_SEQPACKET, descriptors named by "fds" in the order they come):
    {"op": "zygote", "fds": […], "plan", "argv", "environment"}
    {"op": "exec", "fds": […], "init", "worker", "map", "drop", "filters", "argv", "environment", "directory"}
Answers: {"op": "exited", "pid", "status"} for every child; a child that could not even be forked is {"op": "fork_failed", "errno", "tag"}.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
from typing import Any, NoReturn

from sandbox.kernel import constants as k
from sandbox.kernel import process, sockets
from sandbox.launcher import stages

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> NoReturn:
    process.set_title("hearth-launch")
    process.become_subreaper()
    process.die_with_parent(signal.SIGTERM)
    ours, theirs = sockets.seqpacket_pair()
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (*STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    sandboxd = _start_sandboxd(theirs)
    theirs.close()
    pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    gc.collect()
    gc.freeze()  # pages of long-lived objects stay shared with the children
    while True:
        ready, _, _ = select.select([ours.fileno(), wake_read], [], [])
        if wake_read in ready:
            for byte in os.read(wake_read, 4096):
                if byte in STOP_SIGNALS:
                    os.kill(sandboxd, signal.SIGTERM)  # ours to reap: the pid cannot have been reused
            _reap(ours, sandboxd)
        if ours.fileno() in ready:
            try:
                data, fds, _ = sockets.receive(ours)
            except ConnectionResetError:  # it ended and left messages of ours unread
                data, fds = b"", []
            if data:
                _serve(json.loads(data), fds, ours, pid_namespace)
            else:
                _finish(os.waitpid(sandboxd, 0)[1])


def _start_sandboxd(channel: socket.socket) -> int:
    """posix_spawn of sandboxd with its end of the channel as an inherited descriptor, told by argument.

    Its threads hardly ever run at once: an arena of the allocator's for each (mallopt(3)) would only be memory that never comes back.
    """
    os.set_inheritable(channel.fileno(), True)
    argv = [sys.executable, "-m", "sandbox.daemon", "--launcher-fd", str(channel.fileno()), *sys.argv[1:]]
    return os.posix_spawn(sys.executable, argv, {"MALLOC_ARENA_MAX": "1", **os.environ}, setsigdef=STOP_SIGNALS)


def _serve(request: dict[str, Any], received: list[int], channel: socket.socket, pid_namespace: int) -> None:
    fds = dict(zip(request["fds"], received, strict=True))
    try:
        if request["op"] == "exec":
            # unshare(CLONE_NEWPID) acts on the next children; setns to our own undoes it, pid_namespaces(7)
            process.unshare(k.CLONE_NEWPID)
            try:
                child = os.fork()
            except OSError:
                process.setns(pid_namespace, k.CLONE_NEWPID)
                raise
            if child:
                process.setns(pid_namespace, k.CLONE_NEWPID)
        else:
            child = os.fork()
    except OSError as error:
        _tell(channel, {"op": "fork_failed", "errno": error.errno, "tag": request.get("tag")})
        child = -1
    if child == 0:
        signal.set_wakeup_fd(-1)
        process.close_descriptors({0, 1, 2, *received} | ({pid_namespace} if request["op"] == "zygote" else set()))
        if request["op"] == "zygote":
            stages.start_zygote(request, {**fds, "@pidns": pid_namespace})
        stages.start_sandbox(request, fds)
    for fd in received:
        os.close(fd)


def _tell(channel: socket.socket, message: dict[str, Any]) -> None:
    try:
        channel.send(json.dumps(message).encode(), socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        return  # sandboxd is ending: the next read is end of file, and everything ends there


def _reap(channel: socket.socket, sandboxd: int) -> None:
    """Collect dead children: ours, and those whose parent died (we are their subreaper)."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == sandboxd:
            _finish(status)
        _tell(channel, {"op": "exited", "pid": pid, "status": status})


def _finish(status: int) -> NoReturn:
    """sandboxd is gone: kill what is left below us, reap it, and end as sandboxd did."""
    if _children():
        _thaw()
    while children := _children():
        for pid in children:
            os.kill(pid, signal.SIGKILL)  # our own unreaped children: the pids are theirs
        for pid in children:
            os.waitpid(pid, 0)  # a zygote's orphans become ours and are in the next round
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


def _thaw() -> None:
    """cgroup v1: an idle worker is frozen, and SIGKILL does nothing to it until it is thawed: we would wait for it for ever."""
    from sandbox.cgroup import detect  # only here, at the end: the launcher's heap is what its children copy
    from sandbox.settings import load

    settings = load()
    detect(settings.instance, settings.cgroup_root).thaw()


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(word) for word in file.read().split()]


if __name__ == "__main__":
    main()
