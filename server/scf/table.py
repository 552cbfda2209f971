"""Every action of API 3.0 by name: what the nouns' modules do, and a clear refusal for what is not here (yet, or ever)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from server.scf.actions import aliases, concurrency, events, functions, invocations, layers, namespaces, records, triggers, versions
from server.scf.actions.model import Action, Ask
from server.scf.errors import ScfError

#: The modules of `server.scf.actions`, in the order of the reference; no action is in two.
_MODULES: Final[tuple[Mapping[str, Action], ...]] = (
    functions.ACTIONS,
    invocations.ACTIONS,
    records.ACTIONS,
    versions.ACTIONS,
    aliases.ACTIONS,
    layers.ACTIONS,
    concurrency.ACTIONS,
    namespaces.ACTIONS,
    events.ACTIONS,
    triggers.ACTIONS,
)

#: The 52 actions of 2018-04-16, and the four that only scfcli calls.
KNOWN: Final = frozenset(
    """
    CreateFunction UpdateFunctionCode UpdateFunctionConfiguration GetFunction ListFunctions DeleteFunction CopyFunction
    GetFunctionAddress Invoke InvokeFunction GetFunctionLogs GetRequestStatus
    CreateTrigger UpdateTrigger DeleteTrigger UpdateTriggerStatus ListTriggers
    PublishVersion ListVersionByFunction DeleteFunctionVersion CreateAlias UpdateAlias GetAlias DeleteAlias ListAliases
    PublishLayerVersion ListLayers ListLayerVersions GetLayerVersion DeleteLayerVersion
    PutReservedConcurrencyConfig GetReservedConcurrencyConfig DeleteReservedConcurrencyConfig
    PutProvisionedConcurrencyConfig GetProvisionedConcurrencyConfig DeleteProvisionedConcurrencyConfig PutTotalConcurrencyConfig
    GetFunctionEventInvokeConfig UpdateFunctionEventInvokeConfig ListAsyncEvents GetAsyncEventStatus TerminateAsyncEvent
    CreateNamespace UpdateNamespace DeleteNamespace ListNamespaces GetAccount
    CreateCustomDomain UpdateCustomDomain GetCustomDomain ListCustomDomains DeleteCustomDomain
    CreateFunctionTestModel UpdateFunctionTestModel ListFunctionTestModels GetFunctionTestModel
    """.split()
)
#: Never: a domain's records and certificates belong to whoever runs the machine, in front of it.
NEVER: Final = {
    name: "there are no custom domains here: put a reverse proxy with the domain in front of this server"
    for name in KNOWN
    if name.endswith(("CustomDomain", "CustomDomains"))
}


def _missing(name: str) -> Action:
    message = NEVER.get(name, f"the action {name} is not available in this version")

    async def refuse(ask: Ask) -> dict[str, Any]:
        raise ScfError("UnsupportedOperation", message)

    return Action(refuse, "all", ())


def _whole(modules: tuple[Mapping[str, Action], ...]) -> dict[str, Action]:
    table: dict[str, Action] = {}
    for module in modules:
        if twice := sorted(table.keys() & module.keys()):
            raise TypeError(f"action {twice[0]} is in two modules")
        table |= module
    return {name: _missing(name) for name in sorted(KNOWN)} | table


ACTIONS: Final[Mapping[str, Action]] = _whole(_MODULES)
