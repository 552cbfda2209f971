"""What an action is, and what it is asked: the seam between the protocol above and the nouns' modules beside this one.

    async def get_thing(ask: Ask) -> dict[str, Any]:
        thing = await ask.services.lookups.run(ask.services.things.get, ask.parameters.required("ThingName"), ask.namespace())
        return {"ThingName": thing.name, …}                      # SCF's model, without RequestId

    ACTIONS = {"GetThing": Action(get_thing, "read")}

Errors are raised as everywhere (ApiError, SandboxError); `server.scf.errors` names them, `Action.errors` where this action's name differs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from server.api.services import Services
from server.keys.credentials import Credential
from server.keys.model import Scope
from server.scf.errors import OwnCodes, ScfError
from server.scf.parameters import Parameters

DEFAULT_NAMESPACE: Final = "default"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for an action. `base_url` is where the client reaches us, without a slash at its end."""

    services: Services
    credential: Credential
    request_id: str
    parameters: Parameters
    region: str
    base_url: str

    def namespace(self, name: str = "Namespace") -> str:
        """The namespace asked for; without one the pair's own, else `default`. It has been checked that the pair is good for it."""
        return self.parameters.text(name) or self.credential.namespace or DEFAULT_NAMESPACE


Run = Callable[[Ask], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Action:
    """`scope` is the least right that it needs: `all` is good for everything, `invoke` and `read` for their own alone.

    `namespaces` are the parameters that name one: a pair of one namespace is good for no other. Without any the action concerns the
    whole installation, and such a pair is not good for it.
    """

    run: Run
    scope: Scope = "all"
    namespaces: tuple[str, ...] = ("Namespace",)
    errors: OwnCodes = field(default_factory=dict)


def check_rights(action: Action, ask: Ask) -> None:
    """Raises ScfError."""
    own = ask.credential
    if own.scope not in ("all", action.scope):
        raise ScfError("UnauthorizedOperation", f"this key is good for the scope {own.scope} only, the action needs {action.scope}")
    if not own.namespace:
        return
    named = [ask.namespace(name) for name in action.namespaces]
    if not named or any(name != own.namespace for name in named):
        raise ScfError("UnauthorizedOperation", f"this key is good for the namespace {own.namespace} only")
