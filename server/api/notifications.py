"""Where other stores send their notifications: /v1/notifications/{source}, and with the secret as one more segment of the path.

Who sends shows the API's bearer credential or the source's secret, in one of the ways that webhooks have:
    Authorization: Bearer SECRET        MinIO's auth_token
    Authorization: Basic …:SECRET       a URL's user and password, which most HTTP clients make of https://any:SECRET@host/…
    Authorization: SECRET               senders that set the header to what they are given
    …/notifications/SOURCE/SECRET       senders that set nothing
HEAD is how MinIO asks whether anybody is there; the answer says nothing else.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import falcon.asgi

from server.api.functions import send
from server.api.openapi import Answer, operation, problem
from server.api.parameters import parsed, whole
from server.api.request import Request
from server.api.services import Services
from server.errors import NotFound, Unauthorized
from server.functions.checks import shown
from server.notifications.s3 import read_records

TAG: Final = "sources"
#: A thousand records; senders send one, or a few.
MAX_BODY_BYTES: Final = 1024 * 1024

_ANSWERS: Final = {
    200: Answer("Every record's events are on disk; for a test or an empty body there are none", "Receipt"),
    400: problem("It is no S3 event message; `detail` says what is wrong with it"),
    404: problem("There is no such source, said to who has the bearer credential"),
    413: problem("The body, or an event made of it, is too large"),
    503: problem("The event queue is full, or the database is away: nothing of it was taken, send it again", Retry_After="seconds"),
}


class _Inbound:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_head(self, req: Request, resp: falcon.asgi.Response, source: str, secret: str = "") -> None:
        resp.status = 200

    async def _take(self, req: Request, resp: falcon.asgi.Response, source: str, secret: bytes) -> None:
        services = self._services
        await self._admit(req, source, secret)
        body = whole(await req.body(MAX_BODY_BYTES), MAX_BODY_BYTES, "the body")
        records = await services.lookups.run(lambda: read_records(parsed(body))) if body.strip() else []
        receipt = await services.changes.finish(services.lookups.run(services.inbox.take, source, records))
        if receipt.request_ids:
            await services.lookups.run(services.events.tell_of_work)
        send(resp, {"records": receipt.records, "ignored": receipt.ignored, "request_ids": receipt.request_ids})

    async def _admit(self, req: Request, source: str, secret: bytes) -> None:
        """Raises NotFound, Unauthorized."""
        sources, lookups = self._services.sources, self._services.lookups
        if req.is_operator:
            if not await lookups.run(sources.exists, source):
                raise NotFound(f"there is no source {shown(source)}", code="source_not_found", hint="`hearth source create` makes one")
        elif not secret or not await lookups.run(sources.admits, source, secret):
            raise Unauthorized("this is not the secret of such a source", hint="`hearth source create` tells it, once")


class Notifications(_Inbound):
    """/v1/notifications/{source}"""

    @operation("Take a notification of another store", TAG, _ANSWERS, bodies={"application/json": "Notification"}, body_required=False)
    async def on_post(self, req: Request, resp: falcon.asgi.Response, source: str) -> None:
        await self._take(req, resp, source, secret_of(req.raw_header(b"authorization") or b""))


class NotificationsBySecret(_Inbound):
    """/v1/notifications/{source}/{secret}"""

    @operation(
        "Take a notification of a store that can't send a header",
        TAG,
        _ANSWERS,
        bodies={"application/json": "Notification"},
        body_required=False,
    )
    async def on_post(self, req: Request, resp: falcon.asgi.Response, source: str, secret: str) -> None:
        await self._take(req, resp, source, secret.encode(errors="replace"))


def secret_of(header: bytes) -> bytes:
    """What an Authorization header has for a secret; empty for none."""
    scheme, space, rest = header.strip().partition(b" ")
    if not space:
        return scheme
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() != b"basic":
        return b""
    try:
        user, _, password = base64.b64decode(rest.strip(), validate=True).partition(b":")
    except binascii.Error:
        return b""
    return password or user
