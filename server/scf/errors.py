"""From our errors to SCF's codes: one table by class, one by `.code`, one by the field that is wrong; the most special one wins.

the action's own table (code, field, class) ▸ CODES ▸ FIELDS (BadRequest alone) ▸ CLASSES, along the class's ancestors
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Final

from sandbox import errors as runtime
from sandbox.errors import SandboxError
from server import errors as api
from server.api.problems import as_api_error
from server.errors import ApiError, BadRequest, failure_of

_log = logging.getLogger(__name__)
_PLACE: Final = re.compile(r"\[[0-9]+\]")


class ScfError(Exception):
    """An answer with SCF's `code`, as clients compare it, and a message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


CLASSES: Final[Mapping[type[Exception], str]] = {
    api.BadRequest: "InvalidParameterValue",
    api.Unsupported: "UnsupportedOperation",
    api.Unauthorized: "AuthFailure.UnauthorizedOperation",
    api.NotFound: "ResourceNotFound",
    api.NamespaceNotFound: "ResourceNotFound.Namespace",
    api.FunctionNotFound: "ResourceNotFound.Function",
    api.LayerNotFound: "ResourceNotFound.Layer",
    api.LayerVersionNotFound: "ResourceNotFound.LayerVersion",
    api.QualifierNotFound: "ResourceNotFound.Qualifier",
    api.Conflict: "FailedOperation.OperationConflict",
    api.LimitExceeded: "LimitExceeded.Quota",
    api.PayloadTooLarge: "InvalidParameter.RequestTooLarge",
    api.QueueFull: "ResourceInsufficient",
    api.TooManyHops: "FailedOperation.InvokeFunction",
    # A call that was refused: nothing ran. RequestLimitExceeded is what the SDKs' own retries look for.
    runtime.Throttled: "RequestLimitExceeded",
    runtime.NoCapacity: "ResourceInsufficient",
    runtime.StaleFunction: "FailedOperation.FunctionStatusError",
    runtime.Unavailable: "ResourceUnavailable",
    runtime.RuntimeNotFound: "InvalidParameterValue.Runtime",
    # A function's own failures are results, not errors (`actions.invocations`); these are for where there is no result to be had.
    runtime.HandlerError: "FailedOperation.InvokeFunction",
    runtime.EventInvalid: "InvalidParameterValue.Param",
    runtime.HandlerNotFound: "FailedOperation.InvokeFunction",
    runtime.UserCodeError: "FailedOperation.InvokeFunction",
    runtime.InitTimeout: "FailedOperation.InvokeFunction",
    runtime.TimeLimit: "FailedOperation.InvokeFunction",
    runtime.MemoryLimit: "FailedOperation.InvokeFunction",
    runtime.ProcessExit: "FailedOperation.InvokeFunction",
    runtime.ProtocolError: "FailedOperation.InvokeFunction",
    runtime.ReplyTooLarge: "FailedOperation.InvokeFunction",
    runtime.Cancelled: "FailedOperation.InvokeFunction",
    runtime.LaunchError: "InternalError.System",
    runtime.CallLost: "InternalError.System",
    runtime.ImageError: "InternalError.System",
    runtime.ConfigError: "InternalError.System",
}

#: An ApiError without a class of its own, by its HTTP status.
STATUSES: Final[Mapping[int, str]] = {
    408: "InvalidParameter",
    500: "InternalError",
    503: "ResourceUnavailable",
    507: "FailedOperation.InsufficientResources",
}

CODES: Final[Mapping[str, str]] = {
    "function_exists": "ResourceInUse.Function",
    "invalid_json": "InvalidParameterValue.Param",
    "invalid_runtime": "InvalidParameterValue.Runtime",
    "invalid_handler": "InvalidParameterValue.Handler",
    "handler_file_missing": "InvalidParameterValue.Handler",
    "environment_too_large": "InvalidParameterValue.EnvironmentExceededLimit",
    "environment_reserved": "InvalidParameterValue.EnvironmentSystemProtect",
    # A function that is to have them is refused for a field of its own.
    "code_too_large": "InvalidParameterValue.ZipFile",
    "invalid_trigger_name": "InvalidParameterValue.TriggerName",
    "trigger_exists": "ResourceInUse.TriggerName",
    "trigger_not_found": "ResourceNotFound.Trigger",
    "cos_notify_rule_conflict": "InvalidParameterValue.CosNotifyRuleConflict",
    "invalid_code": "InvalidParameterValue.ZipFile",
    "namespace_exists": "ResourceInUse.Namespace",
    "default_namespace": "FailedOperation.DeleteNamespace",
    "namespace_not_empty": "FailedOperation.Namespace",
    "latest_version": "InvalidParameterValue.Qualifier",
    "version_in_use": "UnsupportedOperation.AliasBind",
    "alias_exists": "ResourceInUse.Alias",
    "default_alias": "InvalidParameterValue.Alias",
    "invalid_routing_key": "InvalidParameterValue.Param",
    "layer_not_found": "ResourceNotFound.Layer",
    "layer_version_not_found": "ResourceNotFound.LayerVersion",
    "layers_limit": "LimitExceeded.Layers",
    "layer_versions_limit": "LimitExceeded.LayerVersions",
    "reserved_exceeds_total": "FailedOperation.ReservedExceedTotal",
    "reserved_concurrency_limit": "LimitExceeded.FunctionReservedConcurrencyMemory",
    "total_concurrency_limit": "LimitExceeded.TotalConcurrencyMemory",
    "user_total_concurrency_limit": "LimitExceeded.UserTotalConcurrencyMemory",
    "provisioned_exceeds_reserved": "FailedOperation.ProvisionedExceedReserved",
    "provisioned_exceeds_available": "FailedOperation.ProvisionedExceedAvailable",
    "provisioned_number_limit": "LimitExceeded.FunctionTotalProvisionedConcurrencyNum",
    "provisioned_actions_limit": "LimitExceeded.ProvisionTriggerAction",
    "provisioned_latest": "InvalidParameterValue.Qualifier",
}

FIELDS: Final[Mapping[str, str]] = {
    "name": "InvalidParameterValue.FunctionName",
    "new_name": "InvalidParameterValue.FunctionName",
    "namespace": "InvalidParameterValue.Namespace",
    "runtime": "InvalidParameterValue.Runtime",
    "handler": "InvalidParameterValue.Handler",
    "memory": "InvalidParameterValue.MemorySize",
    "timeout": "LimitExceeded.Timeout",
    "init_timeout": "LimitExceeded.InitTimeout",
    "environment": "InvalidParameterValue.Environment",
    "network": "InvalidParameterValue.PublicNetConfig",
    "layers": "InvalidParameterValue.Layers",
    "description": "InvalidParameterValue.Description",
    "code": "InvalidParameterValue.ZipFile",
    "code.zip": "InvalidParameterValue.ZipFileBase64BinasciiError",
    "routing": "InvalidParameterValue.RoutingConfig",
    "routing.weights": "InvalidParameterValue.AdditionalVersionWeights",
    "routing.matches": "InvalidParameterValue.RoutingConfig",
    "routing.matches.key": "InvalidParameterValue.RoutingConfig",
    "routing.matches.method": "InvalidParameterValue.RoutingConfig",
    "routing.matches.expression": "InvalidParameterValue.RoutingConfig",
    "routing.matches.version": "InvalidParameterValue.RoutingConfig",
    "runtimes": "InvalidParameterValue.CompatibleRuntimes",
    "schedule": "InvalidParameterValue.ProvisionTriggerNameDuplicate",
    "schedule[].name": "InvalidParameterValue.ProvisionTriggerName",
    "schedule[].number": "InvalidParameterValue.TriggerProvisionedConcurrencyNum",
    "schedule[].cron": "InvalidParameterValue.TriggerCronConfig",
    "triggers": "UnsupportedOperation.Trigger",
    "type": "InvalidParameterValue.Type",
    "qualifier": "InvalidParameterValue.Qualifier",
    "config": "InvalidParameterValue.TriggerDesc",
    "config.cron": "InvalidParameterValue.TriggerDesc",
    "config.argument": "InvalidParameterValue.CustomArgument",
    "config.bucket": "InvalidParameterValue.TriggerName",
    "cron": "InvalidParameterValue.TriggerDesc",
    "desc": "InvalidParameterValue.TriggerDesc",
    "desc.event": "InvalidParameterValue.TriggerDesc",
    "desc.filter": "InvalidParameterValue.TriggerDesc",
    "retries": "LimitExceeded.RetryNum",
    "ttl": "LimitExceeded.MsgTTL",
    "dead_letter": "InvalidParameterValue.DeadLetterConfig",
    "dead_letter.target": "InvalidParameterValue.DeadLetterConfig",
}

#: By class of error, by its `.code` or by the field that is wrong, what one action calls it.
OwnCodes = Mapping[type[Exception] | str, str]
NO_CODES: Final[OwnCodes] = {}


def scf_error(error: Exception, own: OwnCodes = NO_CODES) -> ScfError:
    """The answer to any exception. What nobody expected is logged, and nothing of it is told."""
    if isinstance(error, ScfError):
        return error
    if called := _own(error, own):
        return ScfError(called, _message(error))
    if isinstance(error, SandboxError):
        return ScfError(_by_class(error) or "InternalError", _message(error))
    if not isinstance(error, ApiError):
        error = as_api_error(error)
    return ScfError(_code(error), _message(error))


def _own(error: Exception, own: OwnCodes) -> str | None:
    keys = (getattr(error, "code", ""), _field(error) if isinstance(error, BadRequest) else "", type(error))
    return next((own[key] for key in keys if key in own), None)


def _field(error: BadRequest) -> str:
    """Without the places in lists: `schedule[].cron`."""
    return _PLACE.sub("[]", error.field)


def _code(error: ApiError) -> str:
    if error.code in CODES:
        return CODES[error.code]
    if isinstance(error, BadRequest) and _field(error) in FIELDS:
        return FIELDS[_field(error)]
    return _by_class(error) or STATUSES.get(error.status, "FailedOperation")


def _by_class(error: Exception) -> str | None:
    return next((CLASSES[cls] for cls in type(error).__mro__ if cls in CLASSES), None)


def _message(error: Exception) -> str:
    """A fault of ours is for the log: `from_runtime` and `as_api_error` have left out what is not for the caller."""
    if isinstance(error, SandboxError):
        row = failure_of(error)
        detail = api.from_runtime(error).detail
        return f"{detail} (status {row.scf})"
    return error.detail if isinstance(error, ApiError) else str(error)
