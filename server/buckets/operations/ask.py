"""What every operation is given, and the checks that several of them share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine

from sandbox.client import Client
from sandbox.settings import Settings
from server.api.threads import Tasks, Threads
from server.buckets.access import Identity, Secrets
from server.buckets.address import Hosts, Target
from server.buckets.call import Call, Dialect
from server.buckets.errors import BucketError
from server.buckets.files import Files
from server.buckets.metrics import BucketMetrics
from server.buckets.model import Bucket, Cause
from server.buckets.multipart import Multipart
from server.buckets.objects import Objects
from server.buckets.request import Request
from server.buckets.signing import Payload
from server.keys.temporary import Temporary

LONGEST_KEY_BYTES: Final = 1024
XML_BYTES: Final = 4 * 1024 * 1024


@dataclass(slots=True)
class Services:
    """What a worker process serves with. `lookups`: threads for the database, `io`: for data."""

    settings: Settings
    engine: Engine
    hosts: Hosts
    files: Files
    objects: Objects
    multipart: Multipart
    secrets: Secrets
    temporary: Temporary
    client: Client
    lookups: Threads
    io: Threads
    tasks: Tasks
    stopping: asyncio.Event
    metrics: BucketMetrics
    clock: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Ask:
    """One request whose signature holds. `payload`: what the signature says of the body."""

    services: Services
    req: Request
    target: Target
    identity: Identity
    payload: Payload
    request_id: str

    @property
    def call(self) -> Call:
        return self.req.call

    @property
    def dialect(self) -> Dialect:
        return self.call.dialect

    @property
    def bucket(self) -> str:
        return self.target.bucket

    @property
    def key(self) -> str:
        return self.target.key

    @property
    def cause(self) -> Cause:
        return Cause(self.request_id, self.call.peer, self.call.headers, self.identity.caused_by, self.identity.hops)

    def param(self, name: str, default: str = "") -> str:
        return self.call.params.get(name, default)

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """A parameter; more than `high` is `high`. Raises BucketError (InvalidArgument)."""
        text = self.call.params.get(name, "")
        if text == "":
            return default
        if not (text.isascii() and text.isdecimal() and len(text) < 12) or int(text) < low:
            raise BucketError(
                "InvalidArgument", f"Provided {name} not an integer or within integer range", ArgumentName=name, ArgumentValue=text
            )
        return min(int(text), high)

    async def own_bucket(self, name: str = "") -> Bucket:
        """The bucket, which the identity may see. Raises BucketError."""
        bucket = await self.services.lookups.run(self.services.objects.bucket, name or self.bucket)
        self.identity.require_bucket(bucket)
        return bucket


def check_key(key: str) -> None:
    """Raises BucketError (KeyTooLongError)."""
    if len(key.encode()) > LONGEST_KEY_BYTES:
        raise BucketError("KeyTooLongError", MaxSizeAllowed=str(LONGEST_KEY_BYTES))


#: Canned access lists that are what every object here has anyway.
PRIVATE: Final = ("", "private", "default", "bucket-owner-full-control", "bucket-owner-read")
#: Headers, behind the dialect's prefix, that ask for what there is not.
UNKNOWN_HERE: Final = ("server-side-encryption", "object-lock", "tagging", "website-redirect-location", "grant-", "bucket-object-lock")


def refuse_unknown(call: Call) -> None:
    """Raises BucketError (NotImplemented, InvalidStorageClass): better than to seem to have done it."""
    prefix = call.dialect.prefix
    for name in call.headers:
        if name.startswith(prefix) and name[len(prefix) :].startswith(UNKNOWN_HERE):
            raise BucketError("NotImplemented", "A header you provided implies functionality that is not implemented", Header=name)
    if call.header("acl") not in PRIVATE:
        raise BucketError("NotImplemented", f"{prefix}acl: every object is private here", Header=f"{prefix}acl")
    if call.header("storage-class", "STANDARD").upper() != "STANDARD":
        raise BucketError("InvalidStorageClass")
