"""One call, from the request for a lease to sandboxd's verdict: a state machine that the loop's callbacks drive to its end.

    begin ─▶ acquire ─▶ (cold: hello ─▶ load ─▶ running) ─▶ event ─▶ result ─▶ release ─▶ ended(Reply)
                 └ refused ─▶ ended(error)                       any failure ─┘       └ sandboxd gone ─▶ ended(CallLost)

Nobody has to wait for it: once begun it ends by itself and always in a release, whatever happens to whoever asked. The reply is built
only from sandboxd's verdict.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Protocol

import orjson

from sandbox import environment
from sandbox.errors import (
    CallLost,
    Cancelled,
    EventInvalid,
    HandlerError,
    HandlerNotFound,
    InitTimeout,
    InvocationFailed,
    MemoryLimit,
    ProcessExit,
    ProtocolError,
    ReplyTooLarge,
    SandboxError,
    TimeLimit,
    Unavailable,
    UserCodeError,
)
from sandbox.exchange import Answer, EndOfSandbox, Exchange
from sandbox.protocol import GUEST_PROTOCOL, encode_frame
from sandbox.readers import Readers
from sandbox.settings import Settings
from sandbox.spec import FunctionSpec, Reply

_log = logging.getLogger(__name__)

MAX_MESSAGE = 8 * 1024
MAX_TRACE = 128 * 1024
#: Room for a reply of exactly the limit and what JSON puts around it.
REPLY_SLACK_BYTES = 64

#: What a worker may say went wrong, by phase; anything else is not a frame of ours.
FAILURES: dict[str, dict[str, type[InvocationFailed]]] = {
    "load_failed": {"handler_not_found": HandlerNotFound, "user_code_error": UserCodeError},
    "failed": {"handler_error": HandlerError, "event_invalid": EventInvalid, "reply_too_large": ReplyTooLarge},
}

Message = dict[str, Any]


def _guarded(step: Callable[..., None]) -> Callable[..., None]:
    """A callback of the loop has nobody above it: whatever goes wrong in one ends the call instead of leaving it hanging."""

    @wraps(step)
    def run(self: Call, *args: Any) -> None:
        try:
            step(self, *args)
        except Exception:
            _log.exception("call %s failed in %s", self._request_id, step.__name__, extra={"request_id": self._request_id})
            self._abandon()

    return run


class Door(Protocol):
    """The connection to sandboxd, as a call uses it (`sandbox.client.Client`)."""

    def request(self, message: Message, answer: Callable[[Message | SandboxError, list[int]], None]) -> None: ...
    def tell(self, message: Message) -> None: ...


class Call:
    """`begin` it once; `ended` is called once: with the Reply (the function's failure is in it), or with what kept it from running."""

    __slots__ = (
        "_began",
        "_began_at",
        "_body",
        "_cancelled",
        "_door",
        "_ended",
        "_error",
        "_event",
        "_event_at",
        "_exchange",
        "_finished",
        "_holds",
        "_lease",
        "_log",
        "_loop",
        "_outcome",
        "_readers",
        "_request_id",
        "_settings",
        "_spec",
    )  # fmt: skip

    def __init__(
        self,
        door: Door,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        readers: Readers,
        *,
        spec: FunctionSpec,
        event: bytes,
        request_id: str,
        ended: Callable[[Reply | SandboxError], None],
    ) -> None:
        self._door = door
        self._settings = settings
        self._loop = loop
        self._readers = readers
        self._spec = spec
        self._event = event
        self._request_id = request_id
        self._ended: Callable[[Reply | SandboxError], None] | None = ended
        self._lease: Message
        self._exchange: Exchange
        self._holds = False  # a lease that is not yet given back
        self._cancelled = False
        self._began, self._began_at = time.monotonic(), time.time()
        self._body = b""
        self._error: InvocationFailed | None = None
        self._outcome = "broken"
        self._event_at = 0.0
        self._finished = 0.0
        self._log = b""

    def begin(self, acquire: Message) -> None:
        """Ask for a lease with this message. Raises Unavailable, and then `ended` is never called."""
        self._door.request(acquire, self._granted)

    def cancel(self) -> None:
        """Stop it: its sandbox is destroyed and it ends with Cancelled, unless its end has come already. Once `begin` has returned."""
        if self._cancelled or self._ended is None:
            return
        self._cancelled = True
        if self._holds:
            self._break_off()

    def _break_off(self) -> None:
        self._error, self._outcome = Cancelled("the call was cancelled"), "broken"
        self._release()

    @_guarded
    def _granted(self, answer: Message | SandboxError, fds: list[int]) -> None:
        if isinstance(answer, SandboxError):
            self._end(answer)
            return
        self._lease = answer
        if not fds:
            self._turn_away()
            return
        settings = self._settings
        worker, log = fds
        self._exchange = Exchange(
            self._loop,
            self._readers,
            worker,
            log,
            reply_bytes=settings.limit_reply_bytes + REPLY_SLACK_BYTES,
            log_bytes=settings.log_limit_bytes,
        )
        self._holds = True
        if self._cancelled:  # while it waited for its lease
            self._break_off()
        elif answer["start"] == "cold":
            self._exchange.expect(self._greeted)
        else:
            self._hand_over()

    def _turn_away(self) -> None:
        """The lease's descriptors did not reach us. Nothing has run."""
        full = Unavailable("this process is out of file descriptors", hint="wait for calls to end, or raise its RLIMIT_NOFILE")
        message = {"op": "release", "lease": self._lease["lease"], "outcome": "broken", "at": time.monotonic()}
        self._door.request(message, lambda *_: self._end(full))

    # -- cold: hello, load --------------------------------------------------------------------------------------------------

    @_guarded
    def _greeted(self, answer: Answer) -> None:
        if not isinstance(answer, tuple):
            self._over(answer)
            return
        if not is_hello(answer[0]):
            self._over(ProtocolError("the worker did not say hello in our protocol"))
            return
        lease = self._lease
        self._exchange.ask(load_frame(self._spec, self._settings, lease["locale"], lease["grant"]), self._loaded)

    @_guarded
    def _loaded(self, answer: Answer) -> None:
        if not isinstance(answer, tuple):
            self._over(answer)
        elif answer[0].get("op") != "loaded":
            self._over(failure(answer[0], "load_failed"))
        else:
            self._hand_over()
            # Behind the event: it may start meanwhile. From this moment the function's time limit counts.
            self._door.tell({"op": "running", "lease": self._lease["lease"], "at": self._event_at})

    # -- event, result ------------------------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        frame = encode_frame({"op": "invoke", "id": self._request_id}, self._event)
        self._event = b""
        self._event_at = time.monotonic()
        self._exchange.ask(frame, self._answered)

    @_guarded
    def _answered(self, answer: Answer) -> None:
        self._finished = time.monotonic()
        if not isinstance(answer, tuple):
            self._over(answer)
            return
        head, body = answer
        if head.get("id") != self._request_id:
            self._over(ProtocolError("the reply names another invocation"))
        elif head.get("op") != "result":
            self._over(failure(head, "failed"))
        elif wrong := _wrong_json(body):
            self._over(wrong)
        else:
            self._body, self._outcome = body, "ok"
            self._release()

    def _over(self, why: EndOfSandbox | InvocationFailed) -> None:
        """It failed, or the sandbox is out of step; sandboxd says what it was."""
        if isinstance(why, EndOfSandbox):
            self._outcome = "exited"
        else:
            self._error = why
            if not self._exchange.in_step or isinstance(why, ProtocolError):
                self._outcome = "broken"
            else:
                self._outcome = "failed" if why.fate == "keep" else "load_failed"
        self._release()

    # -- the end --------------------------------------------------------------------------------------------------------------

    def _release(self) -> None:
        self._finished = self._finished or time.monotonic()
        self._holds = False
        self._log = self._exchange.log()
        self._exchange.close()  # before the release: the next lease holder must be the only reader
        message = {"op": "release", "lease": self._lease["lease"], "outcome": self._outcome, "at": self._finished}
        try:
            self._door.request(message, self._judged)
        except SandboxError as error:
            self._judged(error, [])

    @_guarded
    def _judged(self, answer: Message | SandboxError, fds: list[int]) -> None:
        if isinstance(answer, SandboxError):  # it had begun: not a refusal, and nobody knows what it did
            lost = CallLost("sandboxd went away during the call", hint="it may have run; see the log of sandboxd")
            lost.__cause__ = answer
            self._end(lost)
            return
        lease, began, ended = self._lease, self._began, self._finished
        started = self._event_at or ended
        self._end(
            Reply(
                request_id=self._request_id,
                start=lease["start"],
                why_cold=lease["why_cold"],
                body=self._body,
                error=judged(answer, self._spec, self._error, is_loading=not self._event_at),
                log=self._log,
                started_at=self._began_at + (started - began),
                ended_at=self._began_at + (ended - began),
                start_ms=(started - began) * 1000,
                run_ms=(ended - started) * 1000,
                memory_bytes=answer["memory_bytes"],
                sandbox=lease["sandbox"],
                runtime=lease["runtime"],
                tree_dead=answer["dead"],
            )
        )

    def _end(self, came: Reply | SandboxError) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(came)

    def _abandon(self) -> None:
        """A fault of ours: give back what is held, and say so."""
        if self._holds:
            self._holds = False
            self._exchange.close()
            message = {"op": "release", "lease": self._lease["lease"], "outcome": "broken", "at": time.monotonic()}
            try:
                self._door.request(message, lambda *_: None)
            except SandboxError as error:
                _log.warning("call %s: %s", self._request_id, error, extra={"request_id": self._request_id})
        self._end(CallLost("an internal error ended the call", hint="it may have run; see the server's log"))


def judged(verdict: Message, spec: FunctionSpec, error: InvocationFailed | None, *, is_loading: bool) -> InvocationFailed | None:
    """What a call or a load failed of, by sandboxd's verdict on its lease; `error` is what the lease holder saw. None is success."""
    kind = verdict["verdict"]
    if kind == "timeout":
        return TimeLimit(f"Invoking task timed out after {spec.timeout_seconds:g} seconds")
    if kind == "init_timeout":
        return InitTimeout(f"Initialising the function timed out after {spec.init_timeout_seconds:g} seconds")
    if kind == "oom":
        return MemoryLimit(f"Task memory exceeded {spec.memory_mb} MB")
    if kind == "exited":
        return ProcessExit(f"{_how_it_ended(verdict['exit_status'])} while {'loading' if is_loading else 'running'}")
    return error


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "the process closed its control channel"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"the process exited with code {code}"
    name = next((known.name for known in signal.Signals if known == -code), "a real-time signal")
    return f"the process was killed by signal {-code} ({name})"


def _wrong_json(body: bytes) -> InvocationFailed | None:
    """What is wrong with a reply: it is passed on verbatim, so it must be sound.

    Nested deeper than orjson (and a client's parser) goes is the handler's error: a function with a raised recursion limit can do that.
    """
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        deep = "depth" in error.msg
        return HandlerError("return value is not JSON: it is nested too deeply") if deep else ProtocolError("the reply is not JSON")
    return None


def is_hello(head: Message) -> bool:
    """Whether a worker's first frame is what it must be."""
    return head.get("op") == "hello" and head.get("protocol") == GUEST_PROTOCOL


def load_frame(spec: FunctionSpec, settings: Settings, locale: str, grant: Mapping[str, str]) -> bytes:
    """What makes a worker of an image with that locale load its function, in a sandbox with that credential."""
    load = {
        "op": "load",
        "handler": spec.handler,
        "environment": environment.for_function(spec, settings.region, locale, grant),
        "context": environment.context(spec, settings.region),
        "limits": {"reply_bytes": settings.limit_reply_bytes},
        "code_root": "/var/user",
    }
    return encode_frame(load)


def failure(head: Message, op: str) -> InvocationFailed:
    """What a worker's answer means that is not the wanted one; `op` is the one that tells of a failure in this phase."""
    code = head.get("code")
    kind = FAILURES[op].get(code) if head.get("op") == op and isinstance(code, str) else None
    if kind is None:
        return ProtocolError(f"unexpected frame {str(head.get('op'))[:40]!r}")
    return kind(str(head.get("message"))[:MAX_MESSAGE], stack_trace=str(head.get("trace") or "")[:MAX_TRACE])
