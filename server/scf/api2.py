"""API 2.0 at /v2/index.php, the original service's interface: its actions are those of API 3.0 under older names.

    {"code": 0, "message": "", "codeDesc": "Success", fields…}
    {"code": 4104, "message": text, "codeDesc": "AuthFailure.SecretIdNotFound"}

Always HTTP 200: the SDK looks at nothing else and hands the body on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import falcon.asgi
import orjson

from server.api.request import ClientGone, Request
from server.api.services import Services
from server.errors import PayloadTooLarge
from server.functions.checks import shown
from server.records.ids import new_request_id
from server.scf.actions.functions import OLD_ACTIONS as FUNCTIONS
from server.scf.actions.model import Ask, check_rights
from server.scf.actions.triggers import OLD_ACTIONS as TRIGGERS
from server.scf.api3 import base_url, write
from server.scf.authentication import Authentication
from server.scf.errors import ScfError, scf_error
from server.scf.parameters import Parameters
from server.scf.table import ACTIONS as NEW_ACTIONS

#: SCF code, or its first part, → API 2.0's number; the longest one wins.
NUMBERS: Final[Mapping[str, int]] = {
    "AuthFailure": 4110,
    "AuthFailure.SignatureFailure": 4100,
    "AuthFailure.InvalidSecretId": 4103,
    "AuthFailure.SecretIdNotFound": 4104,
    "AuthFailure.SignatureExpire": 4500,
    "UnauthorizedOperation": 4102,
    "InvalidParameter": 4000,
    "InvalidParameterValue": 4000,
    "MissingParameter": 4000,
    "UnknownParameter": 4000,
    "InvalidAction": 4000,
    "LimitExceeded": 4400,
    "RequestLimitExceeded": 4400,
    "ResourceInsufficient": 4400,
    "UnsupportedProtocol": 4600,
    "ResourceNotFound": 5000,
    "ResourceInUse": 5100,
    "FailedOperation": 5100,
    "UnsupportedOperation": 6100,
    "NoSuchVersion": 6100,
    "ResourceUnavailable": 6200,
    "InternalError": 6000,
}

#: Its parameters and those of API 3.0.
NAMES: Final[Mapping[str, str]] = {
    "functionName": "FunctionName",
    "namespace": "Namespace",
    "runtime": "Runtime",
    "handler": "Handler",
    "description": "Description",
    "memorySize": "MemorySize",
    "timeout": "Timeout",
    "offset": "Offset",
    "limit": "Limit",
    "searchKey": "SearchKey",
    "order": "Order",
    "invokeType": "InvocationType",
    "param": "ClientContext",
    "logType": "LogType",
    "requestId": "FunctionRequestId",
    "code": "ZipFile",
    "cosBucketName": "CosBucketName",
    "cosObjectName": "CosObjectName",
    "cosBucketRegion": "CosBucketRegion",
    "triggerName": "TriggerName",
    "newTriggerName": "NewTriggerName",
    "triggerDesc": "TriggerDesc",
    "type": "Type",
}
#: API 3.0's, and what only this interface has.
ACTIONS: Final = {**NEW_ACTIONS, **FUNCTIONS, **TRIGGERS}
_ORDERS: Final = {"addtime": "AddTime", "modtime": "ModTime", "functionname": "FunctionName"}

Perform = Callable[[str, Mapping[str, str]], Awaitable[dict[str, Any]]]
Action = Callable[[Perform, dict[str, str], Mapping[str, str]], Awaitable[dict[str, Any]]]


class Api2:
    """/v2/index.php"""

    def __init__(self, services: Services, authentication: Authentication) -> None:
        self._services, self._authentication = services, authentication

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._serve(req, resp)

    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._serve(req, resp)

    async def _serve(self, req: Request, resp: falcon.asgi.Response) -> None:
        req.request_id = new_request_id()
        try:
            answer = {"code": 0, "message": "", "codeDesc": "Success", **await self._answer(req)}
        except ClientGone:
            raise
        except Exception as error:
            known = scf_error(error)
            answer = {"code": number_of(known.code), "message": known.message, "codeDesc": known.code}
        await write(req, resp, answer)

    async def _answer(self, req: Request) -> dict[str, Any]:
        credential, pairs = await self._authentication.api2(req)
        name = pairs.get("Action", "")
        action = ACTIONS2.get(name)
        if action is None:
            raise ScfError("InvalidAction", f"the action {shown(name)} does not exist")
        empty, region = Parameters({}), pairs.get("Region", "")
        ask = Ask(self._services, credential, req.request_id, empty, region, base_url(req))

        async def perform(name: str, values: Mapping[str, str]) -> dict[str, Any]:
            """An action of API 3.0."""
            wanted = replace(ask, parameters=Parameters(values, flat=True))
            check_rights(ACTIONS[name], wanted)
            try:
                return await ACTIONS[name].run(wanted)
            except Exception as error:
                raise scf_error(error, ACTIONS[name].errors) from error

        _check_code(pairs.get("code", ""), self._services.settings.limit_inline_code_bytes)
        return await action(perform, _translated(pairs), pairs)


def number_of(code: str) -> int:
    return NUMBERS.get(code) or NUMBERS.get(code.partition(".")[0], 6000)


def _translated(pairs: Mapping[str, str]) -> dict[str, str]:
    values = {NAMES[name]: value for name, value in pairs.items() if name in NAMES and value}
    if "ZipFile" in values:
        values["ZipFile"] = values["ZipFile"].removeprefix("@")
    return values


def _check_code(code: str, limit: int) -> None:
    if len(code) // 4 * 3 > limit + 3 and code.startswith("@"):
        raise PayloadTooLarge(f"the code has {len(code) // 4 * 3} bytes, limit {limit} in API 2.0", code="code_too_large")


async def _create(perform: Perform, values: dict[str, str], pairs: Mapping[str, str]) -> dict[str, Any]:
    await perform("CreateFunction", values)
    return {}


async def _update(perform: Perform, values: dict[str, str], pairs: Mapping[str, str]) -> dict[str, Any]:
    await perform("UpdateFunction", values)
    return {}


async def _get(perform: Perform, values: dict[str, str], pairs: Mapping[str, str]) -> dict[str, Any]:
    with_code = pairs.get("code") == "1"
    values = {name: value for name, value in values.items() if name != "ZipFile"}
    found = await perform("GetFunction", {**values, "ShowCode": "TRUE" if with_code else "FALSE"})
    data = {
        "functionName": found["FunctionName"],
        "description": found["Description"],
        "handler": found["Handler"],
        "runtime": found["Runtime"],
        "memorySize": found["MemorySize"],
        "timeout": found["Timeout"],
        "codeSize": found["CodeSize"],
        "version": "LATEST",
        "modTime": found["ModTime"],
        "addTime": found["AddTime"],
        "triggers": [_trigger(row) for row in found["Triggers"]],
    }
    code = {"code": found["CodeInfo"], "codeResult": found["CodeResult"], "codeError": found["CodeError"]}
    return {"data": {**data, **(code if with_code else {})}}


async def _list(perform: Perform, values: dict[str, str], pairs: Mapping[str, str]) -> dict[str, Any]:
    by = pairs.get("orderby", "")
    if by and by.lower() not in _ORDERS:
        raise ScfError("InvalidParameterValue.OrderBy", f"orderby is none of {', '.join(_ORDERS)}")
    found = await perform("ListFunctions", values | ({"Orderby": _ORDERS[by.lower()]} if by else {}))
    rows = [{"functionName": row["FunctionName"], "modTime": row["ModTime"], "addTime": row["AddTime"]} for row in found["Functions"]]
    return {"data": {"functions": rows, "total": found["TotalCount"]}}


async def _delete(perform: Perform, values: dict[str, str], pairs: Mapping[str, str]) -> dict[str, Any]:
    await perform("DeleteFunction", values)
    return {}


async def _invoke(perform: Perform, values: dict[str, str], pairs: Mapping[str, str]) -> dict[str, Any]:
    """Its description names payLoad, logMsg and memSize, its example retMsg, log and memUsage: clients find both."""
    result = (await perform("Invoke", values))["Result"]
    data = {
        "requestId": result["FunctionRequestId"],
        "retMsg": result["RetMsg"],
        "payLoad": result["RetMsg"],
        "log": result["Log"],
        "logMsg": result["Log"],
        "duration": result["Duration"],
        "billDuration": result["BillDuration"],
        "memUsage": result["MemUsage"],
        "memSize": result["MemUsage"],
        "invokeResult": result["InvokeResult"],
        "errMsg": result["ErrMsg"],
    }
    return {"data": data if values.get("InvocationType") != "Event" else {"requestId": data["requestId"]}}


async def _logs(perform: Perform, values: dict[str, str], pairs: Mapping[str, str]) -> dict[str, Any]:
    by = pairs.get("orderby", "")
    found = await perform("GetFunctionLogs", values | ({"OrderBy": by} if by else {}))
    names = ("FunctionName", "RetMsg", "RequestId", "StartTime", "RetCode", "Duration", "BillDuration", "MemUsage", "Log")
    return {"total": found["TotalCount"], "data": [{name[0].lower() + name[1:]: row[name] for name in names} for row in found["Data"]]}


async def _set_trigger(perform: Perform, values: dict[str, str], pairs: Mapping[str, str]) -> dict[str, Any]:
    await perform("SetTrigger", values)
    return {}


async def _delete_trigger(perform: Perform, values: dict[str, str], pairs: Mapping[str, str]) -> dict[str, Any]:
    await perform("DeleteTrigger", values)
    return {}


def _trigger(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("ModTime", "AddTime", "Type", "TriggerName")
    return {name[0].lower() + name[1:]: row[name] for name in names} | {"triggerDesc": orjson.loads(row["TriggerDesc"])}


ACTIONS2: Final[Mapping[str, Action]] = {
    "CreateFunction": _create,
    "UpdateFunction": _update,
    "GetFunction": _get,
    "ListFunctions": _list,
    "DeleteFunction": _delete,
    "InvokeFunction": _invoke,
    "GetFunctionLogs": _logs,
    "SetTrigger": _set_trigger,
    "DeleteTrigger": _delete_trigger,
}
