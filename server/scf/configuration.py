"""A function's configuration between SCF's names and the service's: what the service keeps, the extras apart (`extras`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final

from server.functions.concurrency import Share
from server.functions.layerrows import LayerVersion
from server.functions.model import LATEST, Function, LayerUse
from server.scf.errors import ScfError
from server.scf.extras import DEFAULTS
from server.scf.parameters import Parameters
from server.scf.times import local_time

STATUS: Final = "Active"
#: SCF's defaults where the service has none of its own.
DEFAULT_RUNTIME: Final = "Python2.7"
OTHERWISE_RUNTIME: Final = "python3"
DEFAULT_HANDLER: Final = "index.main_handler"
#: Our network is SCF's public network.
NETWORKS: Final = {"ENABLE": "nat", "DISABLE": "none"}
_STATUS_OF_NETWORK: Final = {network: status for status, network in NETWORKS.items()}


def read_configuration(parameters: Parameters) -> dict[str, Any]:
    """The service's fields that the request gives. Raises ScfError."""
    found: dict[str, Any] = {}
    for name, field in (("Runtime", "runtime"), ("Handler", "handler")):
        if parameters.text(name):
            found[field] = parameters.text(name)
    if "Description" in parameters:
        found["description"] = parameters.text("Description")
    for name, field in (("MemorySize", "memory"), ("Timeout", "timeout"), ("InitTimeout", "init_timeout")):
        if name in parameters:
            found[field] = parameters.integer(name)
    if (environment := parameters.object("Environment")) is not None:
        found["environment"] = {pair.required("Key"): pair.text("Value") for pair in environment.objects("Variables")}
    if "Layers" in parameters:
        found["layers"] = _layers(parameters)
    network = _network(parameters)
    return found | ({"network": network} if network else {})


def _network(parameters: Parameters) -> str:
    given = parameters.object("PublicNetConfig")
    status = "" if given is None else given.text("PublicNetStatus")
    if status and status not in NETWORKS:
        raise ScfError("InvalidParameterValue.PublicNetConfig", f"PublicNetStatus is neither {' nor '.join(NETWORKS)}")
    return NETWORKS[status] if status else ""


def _layers(parameters: Parameters) -> list[dict[str, Any]]:
    """A layer without a name is how clients unbind them all."""
    pairs = [(layer.text("LayerName"), layer.integer("LayerVersion")) for layer in parameters.objects("Layers")]
    return [{"name": name, "version": version} for name, version in pairs if name]


def layer_info(version: LayerVersion) -> dict[str, Any]:
    """Model LayerVersionInfo."""
    return {
        "LayerName": version.name,
        "LayerVersion": version.version,
        "CompatibleRuntimes": list(version.runtimes),
        "Status": STATUS,
        "Stamp": "default",
        "AddTime": local_time(version.created_at),
        "Description": version.description,
        "LicenseInfo": version.license,
        "Tags": [],
    }


def _deleted_layer(use: LayerUse) -> dict[str, Any]:
    """Model LayerVersionInfo, of what a function keeps of a layer whatever becomes of it."""
    known = {"LayerName": use.name, "LayerVersion": use.version, "CompatibleRuntimes": list(use.runtimes)}
    return {**known, "Status": "Deleted", "Stamp": "default", "AddTime": "", "Description": "", "LicenseInfo": "", "Tags": []}


def function_id(function: Function) -> str:
    """As SCF's ids look: `lam-` and eight characters; a version has its function's."""
    return f"lam-{(function.family or function.function_id)[:8]}"


def shown(
    function: Function, *, qualifier: str = LATEST, code_info: str = "", layers: Sequence[LayerVersion | None] = ()
) -> dict[str, Any]:
    """GetFunction's answer (model GetFunctionResponse). `layers` are the function's own as they are now, in its order."""
    return {
        "Qualifier": qualifier,
        "FunctionVersion": function.version,
        "FunctionName": function.name,
        "FunctionId": function_id(function),
        "Namespace": function.namespace,
        "Description": function.description,
        "Handler": function.handler,
        "Runtime": function.runtime,
        "Type": "Event",
        "MemorySize": function.memory,
        "Timeout": function.timeout,
        "InitTimeout": function.init_timeout,
        "CodeSize": function.code_size,
        "CodeInfo": code_info,
        "CodeResult": "success",
        "CodeError": "",
        "ErrNo": 0,
        "Status": STATUS,
        "StatusDesc": "",
        "StatusReasons": [],
        "AvailableStatus": "Available",
        "Environment": {"Variables": [{"Key": key, "Value": value} for key, value in function.environment.items()]},
        "PublicNetConfig": {
            "PublicNetStatus": _STATUS_OF_NETWORK[function.network],
            "EipConfig": {"EipStatus": "DISABLE", "EipAddress": []},
        },
        "Layers": [_deleted_layer(use) if now is None else layer_info(now) for use, now in zip_longest(function.layers, layers)],
        "Triggers": [],
        "AddTime": local_time(function.created_at),
        "ModTime": local_time(function.updated_at),
        **_NOTHING,
        **DEFAULTS,
        **function.scf,
    }


#: What can't be configured here (`extras` refuses it).
_NOTHING: Final[dict[str, Any]] = {
    "VpcConfig": {"VpcId": "", "SubnetId": ""},
    "UseGpu": "FALSE",
    "OnsEnable": "FALSE",
    "EipConfig": {"EipFixed": "FALSE", "Eips": []},
    "AccessInfo": {"Host": "", "Vip": ""},
    "CfsConfig": {"CfsInsList": []},
    "ImageConfig": None,
    "IntranetConfig": {"IpFixed": "DISABLE", "IpAddress": []},
    "ClsLogsetId": "",
    "ClsTopicId": "",
}


def listed(function: Function, share: Share) -> dict[str, Any]:
    """ListFunctions' row (model Function)."""
    whole = shown(function)
    own = (
        "ModTime",
        "AddTime",
        "Runtime",
        "FunctionName",
        "FunctionId",
        "Namespace",
        "Status",
        "StatusDesc",
        "Description",
        "Tags",
        "Type",
    )
    more = ("StatusReasons", "AsyncRunEnable", "TraceEnable")
    return {name: whole[name] for name in (*own, *more)} | {
        "TotalProvisionedConcurrencyMem": share.provisioned_mb,
        "ReservedConcurrencyMem": share.reserved_mb,
    }
