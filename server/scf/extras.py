"""What SCF's clients configure and nothing else does: checked, kept by the function as it came, and shown again; and what can't be.

Two of them are acted on: AsyncRunEnable (`Function.always_asynchronous`) and DeadLetterConfig (`deadletters`).

An installation of its own has no VPC, no log service, no file system of the cloud's and no fixed addresses: a wish for one is refused with
SCF's own code, instead of a function that lacks what it was promised. `docs/scf.md` lists both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from server.scf.deadletters import TARGETS
from server.scf.errors import ScfError
from server.scf.parameters import Parameters

MAX_BYTES: Final = 16 * 1024
MAX_TAGS: Final = 50

Reader = Callable[[Parameters, str], Any]


def read_extras(parameters: Parameters) -> dict[str, Any]:
    """The fields that are given, in the shape in which GetFunction shows them. Raises ScfError."""
    _refuse(parameters)
    found = {name: read(parameters, name) for name, read in _READERS.items() if name in parameters}
    try:
        size = len(orjson.dumps(found))
    except TypeError as error:
        raise ScfError("InvalidParameter", "a text has half a surrogate pair in it") from error
    if size > MAX_BYTES:
        raise ScfError("InvalidParameter.RequestTooLarge", f"the configuration has {size} bytes, limit {MAX_BYTES}")
    return found


def _switch(parameters: Parameters, name: str) -> str:
    return "TRUE" if parameters.flag(name) else "FALSE"


def _text(parameters: Parameters, name: str) -> str:
    return parameters.text(name)


def _fields(*names: str, numbers: tuple[str, ...] = ()) -> Reader:
    """An object with these texts and numbers."""

    def read(parameters: Parameters, name: str) -> dict[str, Any]:
        given = parameters.object(name) or Parameters({})
        texts: dict[str, Any] = {field: given.text(field) for field in names if field in given}
        return texts | {field: given.integer(field) for field in numbers if field in given}

    return read


def _tags(parameters: Parameters, name: str) -> list[dict[str, str]]:
    tags = [{"Key": tag.required("Key"), "Value": tag.text("Value")} for tag in parameters.objects(name)]
    if len(tags) > MAX_TAGS:
        raise ScfError("InvalidParameterValue", f"Tags: {len(tags)} tags, limit {MAX_TAGS}")
    return tags


def _dead_letter(parameters: Parameters, name: str) -> dict[str, str]:
    given = parameters.object(name) or Parameters({})
    found = {field: given.text(field) for field in ("Type", "Name", "FilterType")}
    if (found["Type"] or found["Name"]) and (found["Type"] not in TARGETS or not found["Name"]):
        raise ScfError("InvalidParameterValue.DeadLetterConfig", f"DeadLetterConfig needs a Name and a Type of {', '.join(TARGETS)}")
    return found


def _concurrency(parameters: Parameters, name: str) -> dict[str, Any]:
    """With all its fields, as the model has them; node types and sessions are the cloud's own."""
    read = _fields("DynamicEnabled", "InstanceIsolationEnabled", "Type", numbers=("MaxConcurrency",))
    given: dict[str, Any] = read(parameters, name)
    if not 1 <= given.get("MaxConcurrency", 1) <= 100:
        raise ScfError("InvalidParameterValue.MaxConcurrency", "InstanceConcurrencyConfig.MaxConcurrency is not 1 to 100")
    absent = {
        "DynamicEnabled": "",
        "MaxConcurrency": 1,
        "InstanceIsolationEnabled": "",
        "Type": "",
        "MixNodeConfig": [],
        "SessionConfig": None,
    }
    return absent | given


def _protocol(parameters: Parameters, name: str) -> dict[str, Any]:
    given = parameters.object(name) or Parameters({})
    return {"WSParams": _fields(numbers=("IdleTimeOut",))(given, "WSParams")} if "WSParams" in given else {}


_READERS: Final[Mapping[str, Reader]] = {
    "Role": _text,
    "ProtocolType": _text,
    "InstallDependency": _switch,
    "L5Enable": _switch,
    "DnsCache": _switch,
    "AsyncRunEnable": _switch,
    "TraceEnable": _switch,
    "Tags": _tags,
    "DeadLetterConfig": _dead_letter,
    "InstanceConcurrencyConfig": _concurrency,
    "ProtocolParams": _protocol,
}

#: What GetFunction shows of a function that says nothing about it.
DEFAULTS: Final[Mapping[str, Any]] = {
    "Role": "",
    "ProtocolType": "",
    "InstallDependency": "FALSE",
    "L5Enable": "FALSE",
    "DnsCache": "FALSE",
    "AsyncRunEnable": "FALSE",
    "TraceEnable": "FALSE",
    "Tags": [],
    "DeadLetterConfig": {"Type": "", "Name": "", "FilterType": ""},
    "InstanceConcurrencyConfig": None,
    "ProtocolParams": None,
}


def _refuse(parameters: Parameters) -> None:
    """Raise ScfError for what can't exist here. Empty ones, which clients send too, ask for nothing."""
    if parameters.text("Type", "Event") not in ("Event", ""):
        raise ScfError("InvalidParameterValue.FunctionType", "there are no functions but those of the Type Event here")
    vpc = parameters.object("VpcConfig") or Parameters({})
    if vpc.text("VpcId") or vpc.text("SubnetId"):
        raise ScfError("ResourceNotFound.Vpc", "there are no VPCs here: leave VpcConfig empty, a function's network is this server's")
    if parameters.text("ClsLogsetId") or parameters.text("ClsTopicId") or parameters.flag("AutoCreateClsTopic"):
        raise ScfError("InvalidParameterValue.Cls", "there is no log service here: logs are kept by this server, see GetFunctionLogs")
    if (parameters.object("CfsConfig") or Parameters({})).objects("CfsInsList"):
        raise ScfError("ResourceNotFound.CfsMountInsNotMatch", "there are no file systems (CFS) to mount here")
    eip = (parameters.object("PublicNetConfig") or Parameters({})).object("EipConfig") or Parameters({})
    if eip.text("EipStatus", "DISABLE") not in ("DISABLE", ""):
        raise ScfError("InvalidParameterValue.EipConfig", "there are no fixed addresses (EIP) here: leave EipStatus at DISABLE")
    if (parameters.object("IntranetConfig") or Parameters({})).text("IpFixed", "DISABLE") not in ("DISABLE", ""):
        raise ScfError("UnsupportedOperation", "there are no fixed addresses here: leave IntranetConfig.IpFixed at DISABLE")
