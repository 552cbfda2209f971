"""Every error the API answers with, and the one table from the runtime's errors to HTTP and SCF codes.

    ApiError                         .status .code .title .detail .hint .scf_status .retry_after
    ├── BadRequest            400    a field is wrong; .field names it
    │   └── Unsupported       400    well-formed, but this release has no such thing
    ├── Unauthorized          401    SCF 401
    ├── NotFound              404
    │   ├── NamespaceNotFound        SCF 435
    │   ├── FunctionNotFound         SCF 435
    │   ├── QualifierNotFound        SCF 442
    │   ├── LayerNotFound
    │   └── LayerVersionNotFound
    ├── Conflict              409    it exists already, or was changed at the same time
    │   └── LimitExceeded            a count is at its limit
    ├── PayloadTooLarge       413    SCF 406 for an event
    └── QueueFull             503    SCF 449: too many events wait

Resources raise these; only `server.api` turns them into responses. `from_runtime` makes one of a `sandbox.errors` leaf.
Messages are lower case with the value in them, the advice is in `.hint`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sandbox import errors as runtime


class ApiError(Exception):
    """An answer that isn't the one asked for.

    `status` is HTTP's, `scf_status` SCF's (None where SCF has none), `retry_after` whole seconds or None.
    """

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        detail: str,
        hint: str = "",
        scf_status: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.title, self.detail = status, code, title, detail
        self.hint, self.scf_status, self.retry_after = hint, scf_status, retry_after

    def problem(self, request_id: str = "") -> dict[str, Any]:
        """The RFC 9457 document: type, title, status, detail, code, and where known hint, scf_status, request_id."""
        document: dict[str, Any] = {
            "type": f"urn:hearth:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        optional = {"hint": self.hint, "scf_status": self.scf_status, "request_id": request_id}
        return document | {key: value for key, value in optional.items() if value}


class _Fixed(ApiError):
    """An ApiError whose numbers belong to its class."""

    http: ClassVar[int] = 400
    default_code: ClassVar[str] = ""
    default_title: ClassVar[str] = ""
    default_scf: ClassVar[int | None] = None

    def __init__(
        self, detail: str, *, hint: str = "", code: str = "", scf_status: int | None = None, retry_after: int | None = None
    ) -> None:
        scf = self.default_scf if scf_status is None else scf_status
        super().__init__(self.http, code or self.default_code, self.default_title, detail, hint, scf, retry_after)


class BadRequest(_Fixed):
    """`field` is the request field that is wrong, dotted (`code.zip`), or empty."""

    default_code = "invalid_parameter"
    default_title = "Invalid request"

    def __init__(self, detail: str, *, field: str = "", hint: str = "", code: str = "", scf_status: int | None = None) -> None:
        super().__init__(detail, hint=hint, code=code, scf_status=scf_status)
        self.field = field


class Unsupported(BadRequest):
    default_code = "unsupported_operation"
    default_title = "Not supported"


class Unauthorized(_Fixed):
    http = 401
    default_code = "unauthorized"
    default_title = "Unauthorized"
    default_scf = 401


class NotFound(_Fixed):
    http = 404
    default_code = "not_found"
    default_title = "Not found"


class FunctionNotFound(NotFound):
    default_code = "function_not_found"
    default_title = "No such function"
    default_scf = 435


class NamespaceNotFound(NotFound):
    default_code = "namespace_not_found"
    default_title = "No such namespace"
    default_scf = 435


class QualifierNotFound(NotFound):
    default_code = "qualifier_not_found"
    default_title = "No such version or alias"
    default_scf = 442


class LayerNotFound(NotFound):
    default_code = "layer_not_found"
    default_title = "No such layer"


class LayerVersionNotFound(NotFound):
    default_code = "layer_version_not_found"
    default_title = "No such version of the layer"


class Conflict(_Fixed):
    http = 409
    default_code = "conflict"
    default_title = "Conflict"


class LimitExceeded(Conflict):
    default_code = "limit_exceeded"
    default_title = "Limit exceeded"


class PayloadTooLarge(_Fixed):
    http = 413
    default_code = "payload_too_large"
    default_title = "Too large"


class QueueFull(_Fixed):
    http = 503
    default_code = "queue_full"
    default_title = "The event queue is full"
    default_scf = 449

    def __init__(self, detail: str, *, hint: str = "") -> None:
        super().__init__(detail, hint=hint, retry_after=1)


class TooManyHops(_Fixed):
    """Calls have led to each other for long enough: `hops` of them."""

    default_code = "too_many_hops"
    default_title = "Too many calls that led to each other"
    default_scf = 400

    def __init__(self, hops: int) -> None:
        super().__init__(f"stopped after {hops} calls that led to each other", hint="does the function call itself without end?")


#: SCF's RequestTooLarge, for PayloadTooLarge about an event.
SCF_EVENT_TOO_LARGE = 406


@dataclass(frozen=True, slots=True)
class Failure:
    """What one runtime error is over HTTP (`http`) and in SCF's words (`scf`); `retry` says a Retry-After goes with it."""

    http: int
    scf: int
    title: str
    retry: bool = False


FAILURES: dict[type[runtime.SandboxError], Failure] = {
    runtime.HandlerError: Failure(502, 430, "User code exception caught"),
    runtime.EventInvalid: Failure(400, 400, "The event is not valid"),
    runtime.HandlerNotFound: Failure(502, 437, "Handler not found"),
    runtime.UserCodeError: Failure(502, 443, "User code error"),
    runtime.InitTimeout: Failure(504, 450, "Loading timed out"),
    runtime.TimeLimit: Failure(504, 433, "Time limit reached"),
    runtime.MemoryLimit: Failure(502, 434, "Memory limit reached"),
    runtime.ProcessExit: Failure(502, 439, "User process exited"),
    runtime.ProtocolError: Failure(502, 439, "User process broke the protocol"),
    runtime.ReplyTooLarge: Failure(502, 407, "Reply too large"),
    runtime.Cancelled: Failure(502, 499, "Cancelled"),
    runtime.Throttled: Failure(429, 432, "Concurrency limit reached", retry=True),
    runtime.NoCapacity: Failure(503, 449, "No capacity", retry=True),
    runtime.StaleFunction: Failure(503, 500, "The function is changing", retry=True),
    runtime.Unavailable: Failure(503, 500, "The runtime is away", retry=True),
    # 436: SCF's InvalidParameterValue for what a call asks for, as 400 is kept for the event.
    runtime.RuntimeNotFound: Failure(400, 436, "No such runtime"),
    runtime.LaunchError: Failure(500, 500, "A sandbox could not be made"),
    runtime.CallLost: Failure(500, 500, "The call was lost"),
    runtime.ImageError: Failure(500, 500, "An image is broken or missing"),
    runtime.ConfigError: Failure(500, 500, "A setting is wrong"),
}

INTERNAL = Failure(500, 500, "Internal error")


def failure_of(error: runtime.SandboxError) -> Failure:
    """The table's row for an error; INTERNAL for a class that isn't in it."""
    return FAILURES.get(type(error), INTERNAL)


def from_runtime(error: runtime.SandboxError) -> ApiError:
    """The ApiError of a refusal or of a fault of ours (a function's own failure is answered with `error_body`).

    A 500's detail stays inside: paths and steps of the host are for the log, not for the caller.
    """
    row = failure_of(error)
    retry_after = max(1, error.retry_after_seconds) if row.retry and isinstance(error, runtime.Refused) else None
    if row.http == 500:
        what = "the call had begun, how it ended is not known" if isinstance(error, runtime.CallLost) else "the call could not be started"
        return ApiError(500, error.code, row.title, what, "see the server's log", row.scf)
    return ApiError(row.http, error.code, row.title, error.message, error.hint, row.scf, retry_after)


def error_body(error: runtime.InvocationFailed, request_id: str) -> dict[str, Any]:
    """SCF's error JSON: errorCode, errorMessage, requestId, stackTrace (only where there is one), statusCode."""
    body: dict[str, Any] = {"errorCode": -1, "errorMessage": error.message, "requestId": request_id}
    if error.stack_trace:
        body["stackTrace"] = error.stack_trace
    return body | {"statusCode": failure_of(error).scf}
