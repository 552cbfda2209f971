"""Every path and its resource: what the app serves and what the OpenAPI document lists are made from this one table."""

from __future__ import annotations

from server.api.aliases import FunctionAlias, FunctionAliases
from server.api.concurrency import Account, FunctionConcurrency, VersionProvisioned
from server.api.events import DeadLetterItem, DeadLetterList, DeadLetterResend, EventConfig
from server.api.functions import FunctionCode, FunctionItem, FunctionList
from server.api.health import Health, MetricsPage, OpenApi, Readiness
from server.api.host import Images, Sandboxes, Usage
from server.api.invocations import FunctionInvocations
from server.api.keys import KeyItem, KeyList
from server.api.layers import LayerContent, LayerList, LayerVersionItem, LayerVersionList
from server.api.namespaces import NamespaceItem, NamespaceList
from server.api.notifications import Notifications, NotificationsBySecret
from server.api.records import FunctionLogs, Invocation, Invocations
from server.api.services import Services
from server.api.sources import SourceItem, SourceList, SourceSecret
from server.api.triggers import FunctionTrigger, FunctionTriggers
from server.api.versions import FunctionVersion, FunctionVersions


def routes(services: Services) -> dict[str, object]:
    table: dict[str, object] = {
        "/v1/namespaces": NamespaceList(services),
        "/v1/namespaces/{namespace}": NamespaceItem(services),
        "/v1/functions": FunctionList(services),
        "/v1/functions/{name}": FunctionItem(services),
        "/v1/functions/{name}/code": FunctionCode(services),
        "/v1/functions/{name}/versions": FunctionVersions(services),
        "/v1/functions/{name}/versions/{version}": FunctionVersion(services),
        "/v1/functions/{name}/aliases": FunctionAliases(services),
        "/v1/functions/{name}/aliases/{alias}": FunctionAlias(services),
        "/v1/functions/{name}/invocations": FunctionInvocations(services),
        "/v1/functions/{name}/event-config": EventConfig(services),
        "/v1/functions/{name}/triggers": FunctionTriggers(services),
        "/v1/functions/{name}/triggers/{trigger}": FunctionTrigger(services),
        "/v1/invocations": Invocations(services),
        "/v1/functions/{name}/concurrency": FunctionConcurrency(services),
        "/v1/functions/{name}/versions/{version}/provisioned": VersionProvisioned(services),
        "/v1/functions/{name}/logs": FunctionLogs(services),
        "/v1/layers": LayerList(services),
        "/v1/layers/{layer}/versions": LayerVersionList(services),
        "/v1/layers/{layer}/versions/{layer_version}": LayerVersionItem(services),
        "/v1/layers/{layer}/versions/{layer_version}/content": LayerContent(services),
        "/v1/invocations/{request_id}": Invocation(services),
        "/v1/keys": KeyList(services),
        "/v1/keys/{secret_id}": KeyItem(services),
        "/v1/sources": SourceList(services),
        "/v1/sources/{source}": SourceItem(services),
        "/v1/sources/{source}/secret": SourceSecret(services),
        "/v1/notifications/{source}": Notifications(services),
        "/v1/notifications/{source}/{secret}": NotificationsBySecret(services),
        "/v1/dead-letters": DeadLetterList(services),
        "/v1/dead-letters/{request_id}": DeadLetterItem(services),
        "/v1/dead-letters/{request_id}/resend": DeadLetterResend(services),
        "/v1/sandboxes": Sandboxes(services),
        "/v1/images": Images(services),
        "/v1/usage": Usage(services),
        "/v1/account": Account(services),
        "/healthz": Health(),
        "/readyz": Readiness(services),
        "/metrics": MetricsPage(services),
    }
    # The document describes itself too, so the table is read only once it is whole.
    described = dict(table) | {"/openapi.json": OpenApi({}, services.settings)}
    table |= {"/openapi.json": OpenApi(described, services.settings)}
    for resource in table.values():
        if responder := getattr(resource, "on_get", None):
            # RFC 9110 section 9.1: every server takes GET and HEAD. The answer is the same, Falcon leaves its body out.
            resource.on_head = responder  # type: ignore[attr-defined]
    return table
