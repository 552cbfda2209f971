"""From a change of an object to the events of the functions that wait for it, all inside the change's own transaction.

change ─▶ the bucket's rules ─▶ those that match ─▶ one event each ─▶ queue, which doesn't run what is one hop too many
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sqlalchemy import Connection

from server.buckets.model import DEFAULT_TYPE, Cause, Change
from server.triggers.objects import ObjectChange, ObjectRule, event_body, matches

#: Of the request's headers only these are told: a function has no use for the others, and a signature is nobody else's.
TOLD_HEADERS: Final = ("authorization", "user-agent", "content-type", "content-length", "host")
_SIGNATURE = re.compile(r"((?:q-signature|Signature)=|^AWS [^:]*:).*")


@dataclass(frozen=True, slots=True)
class Binding:
    """A trigger of a bucket: whom it calls, and for what. `name` is the trigger's."""

    name: str
    namespace: str
    function: str
    qualifier: str
    rule: ObjectRule


@dataclass(frozen=True, slots=True)
class Notice:
    """An event for the queue. `hops`: how many calls lie behind it."""

    namespace: str
    function: str
    qualifier: str
    payload: bytes
    trigger: str
    caused_by: str
    hops: int


class Bindings(Protocol):
    def of_bucket(self, connection: Connection, bucket: str) -> Sequence[Binding]:
        """The enabled object triggers of a bucket."""
        ...


#: Works in the transaction it is given.
Put = Callable[[Connection, Notice], object]


class TriggerNotices:
    """`objects.Notices` for real: looks at the triggers, puts the events."""

    def __init__(self, bindings: Bindings, put: Put, *, region: str) -> None:
        self._bindings, self._put, self._region = bindings, put, region

    def changed(self, connection: Connection, changes: Sequence[Change]) -> None:
        if not changes:
            return
        bindings = self._bindings.of_bucket(connection, changes[0].object.bucket)
        for change in changes if bindings else ():
            for binding in bindings:
                if matches(binding.rule, change.event, change.object.key):
                    self._notify(connection, change, binding)

    def _notify(self, connection: Connection, change: Change, binding: Binding) -> None:
        body = event_body(
            _told(change), region=self._region, namespace=binding.namespace, function=binding.function, qualifier=binding.qualifier
        )
        cause = change.cause
        notice = Notice(binding.namespace, binding.function, binding.qualifier, body, binding.name, cause.caused_by, cause.hops)
        self._put(connection, notice)


def _told(change: Change) -> ObjectChange:
    stored = change.object
    meta = {f"x-cos-meta-{name}": _text(value) for name, value in stored.facts.meta.items()}
    kind = stored.facts.headers.get("content-type", DEFAULT_TYPE)
    return ObjectChange(
        event=change.event,
        bucket=stored.bucket,
        key=stored.key,
        size=stored.size,
        meta={"Content-Type": _text(kind), **meta},
        at=change.at,
        request_id=change.cause.request_id,
        peer=change.cause.peer,
        headers=told_headers(change.cause),
    )


def told_headers(cause: Cause) -> Mapping[str, str]:
    """Spelled as headers usually are; the signature cut off."""
    told = {name.title(): _text(cause.headers[name]) for name in TOLD_HEADERS if name in cause.headers}
    if "Authorization" in told:
        told["Authorization"] = _SIGNATURE.sub(r"\1", told["Authorization"])
    return told


def _text(value: str) -> str:
    """A header's value: latin-1 as sent, UTF-8 as meant."""
    return value.encode("latin-1").decode("utf-8", "replace")
