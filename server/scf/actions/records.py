"""GetFunctionLogs and GetRequestStatus: the records of calls, filtered, ordered and paged as SCF does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from server.api.problems import dump
from server.errors import NotFound
from server.scf.actions.model import Action, Ask
from server.scf.errors import ScfError
from server.scf.listing import descending
from server.scf.logs import call_log, error_text
from server.scf.parameters import Parameters
from server.scf.times import epoch_of, local_time
from server.store.times import epoch

#: SCF: Offset + Limit. Older records than these are not looked at either.
MAX_ROWS: Final = 10_000
DAY_SECONDS: Final = 86_400
STATUS_SECONDS: Final = 900
#: Of results and logs in one answer: an answer of many calls has only the beginnings and ends of them.
ANSWER_BYTES: Final = 32 * 1024 * 1024
LEAST_BYTES: Final = 4096

Record = dict[str, Any]

_ORDERS: Final[Mapping[str, Callable[[Record], Any]]] = {
    "function_name": lambda record: record["function"],
    "duration": lambda record: record["run_ms"],
    "mem_usage": lambda record: record["memory_bytes"],
    "request_id": lambda record: record["request_id"],
    "start_time": lambda record: _began(record),
}
#: LogFilter.RetCode → what a record's SCF status must be.
_RET_CODES: Final[Mapping[str, Callable[[int], bool]]] = {
    "": lambda status: True,
    "is0": lambda status: status == 200,
    "not0": lambda status: status != 200,
    "TimeLimitExceeded": lambda status: status in (433, 450),
    "ResourceLimitExceeded": lambda status: status in (429, 432, 434, 449),
    "UserCodeException": lambda status: status in (430, 437, 439, 443),
}
#: A record's state → RetCode of GetFunctionLogs; whatever else has failed.
_LOG_CODES: Final = {"succeeded": 0, "queued": 2, "running": 2, "cancelled": 3}
_STATUS_CODES: Final = {"succeeded": 0, "queued": 1, "running": 1}


async def get_function_logs(ask: Ask) -> dict[str, Any]:
    parameters = ask.parameters
    offset, limit = _page(parameters)
    backwards = descending(parameters, "desc")
    by, keep = parameters.text("OrderBy") or "start_time", _filter(parameters)
    if by not in _ORDERS:
        raise ScfError("InvalidParameterValue.OrderBy", f"OrderBy is none of {', '.join(_ORDERS)}")
    found = [record for record in await _records(ask, *_interval(parameters)) if keep(record)]
    found.sort(key=_ORDERS[by], reverse=backwards)
    page = found[offset : offset + limit]
    part_bytes = max(LEAST_BYTES, ANSWER_BYTES // max(1, len(page)))
    parts = await ask.services.lookups.run(ask.services.recorder.parts, [record["request_id"] for record in page], part_bytes)
    memory_mb = await _memory(ask)
    return {
        "TotalCount": len(found),
        "Data": [_log_row(record, *parts.get(record["request_id"], (None, b"")), memory_mb) for record in page],
        "SearchContext": {"Offset": "", "Limit": 0, "Keyword": "", "Type": ""},
    }


async def get_request_status(ask: Ask) -> dict[str, Any]:
    parameters = ask.parameters
    name, request_id = parameters.required("FunctionName"), parameters.required("FunctionRequestId")
    start, end = parameters.text("StartTime"), parameters.text("EndTime")
    since = epoch_of(start, "InvalidParameterValue.StartTime") if start else time.time() - STATUS_SECONDS
    until = epoch_of(end, "InvalidParameterValue.DateTime") if end else float("inf")
    await _check_exists(ask, name)
    record = await ask.services.events.record(request_id)
    # Whole seconds, as the client has them.
    mine = record is not None and (record["function"], record["namespace"]) == (name, ask.namespace()) and since <= _began(record) + 1
    if record is None or not mine or int(_began(record)) > until:
        return {"TotalCount": 0, "Data": []}
    parts = await ask.services.lookups.run(ask.services.recorder.parts, [request_id], ask.services.settings.limit_reply_bytes)
    result, _ = parts.get(request_id, (dump(record["result"]), b""))  # not written yet: as good as that
    return {"TotalCount": 1, "Data": [_status_row(record, result)]}


def _page(parameters: Parameters) -> tuple[int, int]:
    offset, limit = parameters.integer("Offset"), parameters.integer("Limit", 20)
    if offset < 0:
        raise ScfError("InvalidParameterValue.Offset", f"Offset: {offset} is negative")
    if limit < 0 or offset + limit > MAX_ROWS:
        raise ScfError("InvalidParameterValue.Limit", f"Offset and Limit together are more than {MAX_ROWS}, or negative")
    return offset, limit


def _interval(parameters: Parameters) -> tuple[float, float]:
    code = "InvalidParameterValue.StartTimeOrEndTime"
    start, end = parameters.text("StartTime"), parameters.text("EndTime")
    since = epoch_of(start, code) if start else 0.0
    # Whole seconds: the last one belongs to it.
    until = epoch_of(end, code) + 0.999 if end else time.time() + DAY_SECONDS
    if start and end and not 0 <= until - since <= DAY_SECONDS + 1:
        raise ScfError(code, "EndTime is before StartTime, or more than a day after it")
    return since, until


def _filter(parameters: Parameters) -> Callable[[Record], bool]:
    given = parameters.object("Filter")
    name = "" if given is None else given.text("RetCode")
    if name not in _RET_CODES:
        raise ScfError("InvalidParameterValue.RetCode", f"RetCode is none of {', '.join(filter(None, _RET_CODES))}")
    wanted = _RET_CODES[name]
    request_id, qualifier = parameters.text("FunctionRequestId"), parameters.text("Qualifier")

    def keep(record: Record) -> bool:
        if request_id and record["request_id"] != request_id:
            return False
        return wanted(record["status"]) and (not qualifier or qualifier in (record["qualifier"], record["version"]))

    return keep


async def _records(ask: Ask, since: float, until: float) -> list[Record]:
    name = ask.parameters.text("FunctionName")
    if not name:
        raise ScfError("MissingParameter", "the request is missing the required parameter `FunctionName`")
    search = ask.services.events.outlines
    rows: list[Record] = await ask.services.lookups.run(search, name, ask.namespace(), since=since, until=until, limit=MAX_ROWS)
    if not rows:
        await _check_exists(ask, name)
    return rows


async def _check_exists(ask: Ask, name: str) -> None:
    await ask.services.lookups.run(ask.services.functions.get, name, ask.namespace())


async def _memory(ask: Ask) -> int:
    """The function's limit now: records do not keep it. 0 where the function has gone, or its namespace."""
    try:
        function = await ask.services.lookups.run(ask.services.functions.get, ask.parameters.text("FunctionName"), ask.namespace())
    except NotFound:
        return 0
    return function.memory


def _began(record: Record) -> float:
    return epoch(record["started_at"] or record["created_at"])


def _ret_msg(record: Record, result: bytes | None) -> str:
    if record["error"] is not None:
        return dump(error_text(record["error"], record["request_id"], record["status"])).decode("utf-8", "replace")
    return "" if result is None else result.decode("utf-8", "replace")


def _log_row(record: Record, result: bytes | None, log: bytes, memory_mb: int) -> dict[str, Any]:
    """Model FunctionLog."""
    ret_msg, request_id = _ret_msg(record, result), record["request_id"]
    figures = {"duration_ms": record["run_ms"], "memory_mb": memory_mb, "memory_bytes": record["memory_bytes"]}
    written, failed = log.decode("utf-8", "backslashreplace"), record["error"] is not None
    return {
        "FunctionName": record["function"],
        "RetMsg": ret_msg,
        "RequestId": request_id,
        "StartTime": local_time(_began(record)),
        "RetCode": _LOG_CODES.get(record["state"], 1),
        "InvokeFinished": 0 if record["state"] in ("queued", "running") else 1,
        "Duration": record["run_ms"],
        "BillDuration": record["billed_ms"],
        "MemUsage": record["memory_bytes"],
        "Log": call_log(request_id, written, ret_msg=ret_msg, failed=failed, **figures),
        "Level": "",
        "Source": "",
        "RetryNum": max(0, len(record["attempts"]) - 1),
    }


def _status_row(record: Record, result: bytes | None) -> dict[str, Any]:
    """Model RequestStatus; memory in MB here."""
    return {
        "FunctionName": record["function"],
        "RetMsg": _ret_msg(record, result),
        "RequestId": record["request_id"],
        "StartTime": local_time(_began(record)),
        "RetCode": _STATUS_CODES.get(record["state"], -1),
        "Duration": record["run_ms"],
        "MemUsage": round(record["memory_bytes"] / 2**20, 6),
        "RetryNum": max(0, len(record["attempts"]) - 1),
    }


ACTIONS: Final = {
    "GetFunctionLogs": Action(get_function_logs, "read"),
    "GetRequestStatus": Action(get_request_status, "read"),
}
