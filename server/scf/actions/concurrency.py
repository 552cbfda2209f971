"""Quotas and provisioned workers in SCF's words, and what an account uses of what it may."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Final

from server.functions.provisions import Target
from server.scf.actions.model import Action, Ask
from server.scf.errors import ScfError
from server.scf.parameters import Parameters

STATUSES: Final = {"done": "Done", "in_progress": "InProgress", "failed": "Failed"}
#: SCF's other one follows a share of busy workers.
FIXED: Final = "Default"
#: Sources of events that an account has limits for; there may be others here, which count among the total alone.
TRIGGERS: Final = ("Cos", "Timer", "Cmq", "Ckafka", "Apigw", "Cls", "Clb", "Mps", "Cm", "Vod", "Eb")


async def put_reserved(ask: Ask) -> dict[str, Any]:
    services, name = ask.services, ask.parameters.required("FunctionName")
    megabytes = ask.parameters.required_integer("ReservedConcurrencyMem")
    await services.change_quota(partial(services.concurrency.reserve, name, megabytes, ask.namespace()))
    return {}


async def get_reserved(ask: Ask) -> dict[str, Any]:
    name = ask.parameters.required("FunctionName")
    found = await ask.services.lookups.run(ask.services.concurrency.reservation, name, ask.namespace())
    return {"ReservedMem": found["reserved_mb"]}


async def delete_reserved(ask: Ask) -> dict[str, Any]:
    services, name = ask.services, ask.parameters.required("FunctionName")
    await services.change_quota(partial(services.concurrency.release, name, ask.namespace()))
    return {}


async def put_total(ask: Ask) -> dict[str, Any]:
    services, megabytes = ask.services, ask.parameters.required_integer("TotalConcurrencyMem")
    await services.change_quota(partial(services.concurrency.set_total, ask.namespace(), megabytes))
    return {}


async def put_provisioned(ask: Ask) -> dict[str, Any]:
    parameters, services = ask.parameters, ask.services
    name, version = parameters.required("FunctionName"), parameters.required("Qualifier")
    _check_type(parameters)
    payload = {
        "number": parameters.required_integer("VersionProvisionedConcurrencyNum"),
        "schedule": [_action(given) for given in parameters.objects("TriggerActions")],
    }
    await services.provision(partial(services.provisions.put, name, version, payload, ask.namespace()))
    return {}


async def get_provisioned(ask: Ask) -> dict[str, Any]:
    """Of all versions, or of the one in Qualifier."""
    parameters, services = ask.parameters, ask.services
    name, qualifier = parameters.required("FunctionName"), parameters.text("Qualifier")
    left, targets = await services.lookups.run(services.provisions.of_function, name, ask.namespace())
    if qualifier:
        function, _ = await services.lookups.run(services.provisions.find, name, qualifier, ask.namespace())
        targets = [target for target in targets if target.function_id == function.function_id]
    rows, now = await services.provisioned(), time.time()
    allocated = [_allocated(target, target.state(rows.get(target.function_id), now)) for target in targets]
    return {"UnallocatedConcurrencyNum": left, "Allocated": allocated}


async def delete_provisioned(ask: Ask) -> dict[str, Any]:
    parameters, services = ask.parameters, ask.services
    name, version = parameters.required("FunctionName"), parameters.required("Qualifier")
    await services.unprovision(partial(services.provisions.delete, name, version, ask.namespace()))
    return {}


async def get_account(ask: Ask) -> dict[str, Any]:
    """A pair of one namespace is told of that one alone."""
    account = await ask.services.account(ask.credential.namespace)
    rows, limits = account["namespaces"], account["limits"]
    usage = {
        "NamespacesCount": len(rows),
        "Namespace": [_usage(row) for row in rows],
        "TotalConcurrencyMem": account["total_mb"],
        "TotalAllocatedConcurrencyMem": account["reserved_mb"],
        "UserConcurrencyMemLimit": account["total_mb"],
    }
    limit = {"NamespacesCount": limits["namespaces"], "Namespace": [_limit(row["namespace"], limits) for row in rows]}
    return {"AccountUsage": usage, "AccountLimit": limit}


def _check_type(parameters: Parameters) -> None:
    if parameters.text("ProvisionedType", FIXED) not in (FIXED, ""):
        raise ScfError("InvalidParameterValue.ProvisionType", f"workers are provisioned by number here: the ProvisionedType is {FIXED}")


def _action(given: Parameters) -> dict[str, Any]:
    _check_type(given)
    return {
        "name": given.required("TriggerName"),
        "number": given.required_integer("TriggerProvisionedConcurrencyNum"),
        "cron": given.required("TriggerCronConfig"),
    }


def _allocated(target: Target, state: dict[str, Any]) -> dict[str, Any]:
    """Model VersionProvisionedConcurrencyInfo."""
    return {
        "AllocatedProvisionedConcurrencyNum": state["allocated"],
        "AvailableProvisionedConcurrencyNum": state["available"],
        "Status": STATUSES[state["status"]],
        "StatusReason": state["reason"],
        "Qualifier": target.version,
        "TriggerActions": [
            {
                "TriggerName": action.name,
                "TriggerProvisionedConcurrencyNum": action.number,
                "TriggerCronConfig": action.cron,
                "ProvisionedType": FIXED,
            }
            for action in target.actions
        ],
    }


def _usage(row: dict[str, Any]) -> dict[str, Any]:
    """Model NamespaceUsage."""
    return {
        "Namespace": row["namespace"],
        "Functions": row["functions"],
        "FunctionsCount": row["functions_count"],
        "TotalConcurrencyMem": row["total_mb"],
        "TotalAllocatedConcurrencyMem": row["reserved_mb"],
        "TotalAllocatedProvisionedMem": row["provisioned_mb"],
    }


def _limit(namespace: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Model NamespaceLimit. There are no test models; what is said of triggers and calls a function may have."""
    triggers, events = limits["triggers"], limits["events"]
    return {
        "Namespace": namespace,
        "FunctionsCount": limits["functions"],
        "TimeoutLimit": limits["timeout"],
        "InitTimeoutLimit": limits["init_timeout"],
        "ConcurrentExecutions": limits["concurrency"],
        "Trigger": {**{name: triggers.get(name.lower(), 0) for name in TRIGGERS}, "Total": sum(triggers.values())},
        "TestModelLimit": 0,
        "RetryNumLimit": events["retries"],
        "MinMsgTTL": events["min_ttl"],
        "MaxMsgTTL": events["max_ttl"],
    }


ACTIONS: Final = {
    "PutReservedConcurrencyConfig": Action(put_reserved),
    "GetReservedConcurrencyConfig": Action(get_reserved, "read"),
    "DeleteReservedConcurrencyConfig": Action(delete_reserved),
    "PutProvisionedConcurrencyConfig": Action(put_provisioned),
    "GetProvisionedConcurrencyConfig": Action(get_provisioned, "read"),
    "DeleteProvisionedConcurrencyConfig": Action(delete_provisioned),
    # What a user may use is not the user's to say.
    "PutTotalConcurrencyConfig": Action(put_total, namespaces=()),
    "GetAccount": Action(get_account, "read"),
}
