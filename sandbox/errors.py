"""Every error the runtime raises, as one tree.

    SandboxError                     .code .message .hint .fate
    ├── Refused                      nothing ran, nothing changed
    │   ├── Throttled                the function's concurrency limit
    │   ├── NoCapacity               the machine's memory bound
    │   ├── StaleFunction            an older generation, or a deleted function: look it up again
    │   ├── Unavailable              sandboxd is away or starting
    │   └── RuntimeNotFound          no image has that runtime
    ├── InvocationFailed             the function's own failure; .stack_trace holds the user's frames only
    │   ├── HandlerError             it raised, or returned what JSON can't hold
    │   ├── EventInvalid             the runtime could not decode the event
    │   ├── HandlerNotFound          file or name missing
    │   ├── UserCodeError            the module raised or does not parse
    │   ├── InitTimeout              loading took longer than its limit
    │   ├── TimeLimit                the call took longer than its limit
    │   ├── MemoryLimit              told by the kernel's counters or the governor
    │   ├── ProcessExit              the process ended by itself
    │   ├── ProtocolError            what came back was not a frame of ours
    │   ├── ReplyTooLarge            the return value is over the limit
    │   └── Cancelled                it was told to stop, and its sandbox is gone
    ├── LaunchError                  a sandbox could not be made: stage, step, errno, path
    ├── CallLost                     it had begun, and nobody knows how it ended
    ├── ImageError                   an image is missing, broken or was refused at import
    └── ConfigError                  a setting's value is wrong

`fate` tells the pool what becomes of the sandbox: `keep`, `destroy` or `none` (there was none).
"""

from __future__ import annotations

import os
from typing import ClassVar, Literal

Fate = Literal["keep", "destroy", "none"]


class SandboxError(Exception):
    """Base of the tree. `message` is lower case with the value in it; `hint` says what to do."""

    code: ClassVar[str] = "internal_error"
    fate: ClassVar[Fate] = "none"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Refused(SandboxError):
    """The call was not admitted; nothing ran."""

    code = "refused"

    def __init__(self, message: str, *, hint: str = "", retry_after_seconds: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class Throttled(Refused):
    code = "concurrency_limit"


class NoCapacity(Refused):
    code = "no_capacity"


class StaleFunction(Refused):
    code = "stale_function"


class Unavailable(Refused):
    code = "unavailable"


class RuntimeNotFound(Refused):
    code = "runtime_not_found"


class InvocationFailed(SandboxError):
    """The function failed; `stack_trace` is the user's own, with our frames cut off."""

    code = "function_failed"
    fate: ClassVar[Fate] = "destroy"

    def __init__(self, message: str, *, stack_trace: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.stack_trace = stack_trace


class HandlerError(InvocationFailed):
    code = "handler_error"
    fate = "keep"


class EventInvalid(InvocationFailed):
    code = "event_invalid"
    fate = "keep"


class HandlerNotFound(InvocationFailed):
    code = "handler_not_found"


class UserCodeError(InvocationFailed):
    code = "user_code_error"


class InitTimeout(InvocationFailed):
    code = "init_timeout"


class TimeLimit(InvocationFailed):
    code = "time_limit"


class MemoryLimit(InvocationFailed):
    code = "memory_limit"


class ProcessExit(InvocationFailed):
    code = "process_exit"


class ProtocolError(InvocationFailed):
    code = "protocol_error"


class ReplyTooLarge(InvocationFailed):
    code = "reply_too_large"
    fate = "keep"


class Cancelled(InvocationFailed):
    code = "cancelled"


class LaunchError(SandboxError):
    """A sandbox could not be made. `stage` and `step` name the place in the plan."""

    code = "launch_failed"

    def __init__(self, stage: str, step: str, errno: int = 0, path: str = "", *, hint: str = "") -> None:
        reason = os.strerror(errno) if errno else "failed"
        where = f" {path}" if path else ""
        super().__init__(f"{stage}: {step}{where}: {reason}", hint=hint)
        self.stage, self.step, self.errno, self.path = stage, step, errno, path


class CallLost(SandboxError):
    code = "call_lost"


class ImageError(SandboxError):
    code = "image_error"


class ConfigError(SandboxError):
    code = "config_error"


def leaves(root: type[SandboxError] = SandboxError) -> list[type[SandboxError]]:
    """The classes of the tree that have no subclass: what can really be raised."""
    below = root.__subclasses__()
    return [leaf for child in below for leaf in leaves(child)] if below else [root]


BY_CODE: dict[str, type[SandboxError]] = {leaf.code: leaf for leaf in leaves()}
