"""Who may do what: a secret's scope and namespace. `identify` is the door; nothing else here decides."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from server.buckets.errors import BucketError
from server.buckets.model import Bucket

OPERATOR_ID: Final = "hearth"
OPERATOR_ENVIRONMENT: Final = "HEARTH_BUCKETS_KEY"
DEFAULT_NAMESPACE: Final = "default"


class Secret(Protocol):
    """One secret pair. `scope` is all, read or invoke; `namespace` empty where it is not bound to one."""

    @property
    def secret_id(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def scope(self) -> str: ...
    @property
    def namespace(self) -> str: ...


class Secrets(Protocol):
    def find(self, secret_id: str) -> Secret | None:
        """None for one that doesn't exist, is revoked or expired. Blocks."""
        ...


@dataclass(frozen=True, slots=True)
class Pair:
    """A secret that is known by itself."""

    secret_id: str
    secret_key: str
    scope: str = "all"
    namespace: str = ""


class Known:
    """A few fixed secrets, before those of the sources behind them."""

    def __init__(self, pairs: Sequence[Secret], *others: Secrets) -> None:
        self._pairs = {pair.secret_id: pair for pair in pairs}
        self._others = others

    def find(self, secret_id: str) -> Secret | None:
        if (pair := self._pairs.get(secret_id)) is not None:
            return pair
        return next((found for other in self._others if (found := other.find(secret_id)) is not None), None)


def operator_key(token: str) -> str:
    """The operator's own key, made from the credential that `hearth up` wrote: its id is `hearth`."""
    return hmac.new(token.encode(), b"hearth bucket service", hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, checked. `caused_by` and `hops` come with a function's temporary credentials, from sandboxd."""

    secret_id: str
    scope: str
    namespace: str
    caused_by: str = ""
    hops: int = 0

    def require(self, *, writes: bool) -> None:
        """Raises BucketError (AccessDenied)."""
        if self.scope != "all" and (writes or self.scope != "read"):
            raise BucketError("AccessDenied", f"this key's scope is {self.scope!r}")

    def require_bucket(self, bucket: Bucket) -> None:
        """Raises BucketError (AccessDenied)."""
        if self.namespace and bucket.namespace != self.namespace:
            raise BucketError("AccessDenied")
