"""What runs in a child of the launcher between fork and exec: the zygote's start, and a whole exec'd sandbox.

      launcher ──fork──▶ start_zygote: plan, exec interpreter zygote.py
      launcher ──unshare(pid), fork──▶ start_sandbox (PID 1): init plan, attach ──fork──▶ worker plan, exec interpreter worker.py
                                            └ drop plan, then reaps until the end

Failures are reported on the child's own channel as {"op": "error", "stage", "step", "errno", "path", "hint"}.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import socket
from typing import Any

from sandbox.kernel import process
from sandbox.launcher import executor, init

EXIT_STEP_FAILED = 73
EXIT_EXEC_FAILED = 74

#: Above what the launcher has open: where `_exec` puts its copies, and the channel above those.
COPIES_FROM, CHANNEL_FROM = 64, 128


def start_zygote(request: dict[str, Any], fds: dict[str, int]) -> None:
    """Exec the interpreter of a zygote with its channel as descriptor 3 and the host's pid namespace as 4. Never returns."""
    channel = _out_of_the_way(fds.pop("@channel"))
    pid_namespace = fds.pop("@pidns")
    try:
        _run("zygote", request["plan"], fds, {}, channel)  # its filter comes with its first message, once it has preloaded
        process.reset_signals()
        placed = {0: fds["@null"], 1: fds["@null"], 2: 2, 3: channel.fileno(), 4: pid_namespace}
        _exec(request["argv"], request["environment"], placed, channel)
    except OSError as error:
        _fail(channel, "zygote", "exec", error.errno or 0, str(error.filename or ""), "")
    os._exit(EXIT_EXEC_FAILED)


def start_sandbox(request: dict[str, Any], fds: dict[str, int]) -> None:
    """PID 1 of an exec'd sandbox. Never returns."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # PID 1 ignores what has no handler; Python's own would let the worker stop us
    control = _out_of_the_way(fds.pop("@control"))
    worker_socket, log, null = fds.pop("@worker"), fds.pop("@log"), fds.pop("@null")
    filters = {name: base64.b64decode(program) for name, program in request["filters"].items()}
    _run("init", request["init"], fds, filters, control)
    ours, theirs = socket.socketpair()
    worker = os.fork()
    if worker == 0:
        try:
            ours.close()
            _run("worker", request["worker"], {**fds, "@init": theirs.fileno()}, filters, control)
            os.chdir(request["directory"])
            process.reset_signals()
            _exec(request["argv"], request["environment"], {0: null, 1: log, 2: log, 3: worker_socket}, control)
        except OSError as error:
            _fail(control, "worker", "exec", error.errno or 0, str(error.filename or request["argv"][0]), "")
        os._exit(EXIT_EXEC_FAILED)
    theirs.close()
    for fd in (worker_socket, log, null):
        os.close(fd)
    _run("map", request["map"], {"@worker": ours.fileno()}, filters, control)
    ours.close()
    _run("drop", request["drop"], fds, filters, control)
    init.report(control, {"op": "ready"})
    init.reap_until_end(control, worker)


def _run(stage: str, plan: list[list[Any]], fds: dict[str, int], filters: dict[str, bytes], channel: socket.socket) -> None:
    try:
        executor.run(plan, fds, filters)
    except executor.StepFailed as failed:
        _fail(channel, stage, f"step {failed.index} {failed.op}", failed.errno, failed.path, failed.hint)
        os._exit(EXIT_STEP_FAILED)


def _fail(channel: socket.socket, stage: str, step: str, errno: int, path: str, hint: str) -> None:
    message = {"op": "error", "stage": stage, "step": step, "errno": errno, "path": path, "hint": hint}
    channel.send(json.dumps(message).encode(), socket.MSG_NOSIGNAL)


def _out_of_the_way(fd: int) -> socket.socket:
    """The channel under a number that `_exec` places nothing at, so that a failure of exec can still be told."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, CHANNEL_FROM)
    os.close(fd)
    return socket.socket(fileno=moved)


def _exec(argv: list[str], environment: dict[str, str], placed: dict[int, int], channel: socket.socket) -> None:
    """Exec with exactly the descriptors of `placed` (number wanted → number held), everything else closed; `channel` by exec itself."""
    high = COPIES_FROM
    copies = {}
    for wanted, held in placed.items():  # first out of the way, so that no dup2 overwrites one still needed
        copies[wanted] = os.dup2(held, high, inheritable=False)
        high += 1
    for wanted, copy in copies.items():
        os.dup2(copy, wanted, inheritable=True)
    process.close_descriptors({*placed, channel.fileno()})
    os.execve(argv[0], argv, environment)
