"""API 3.0 at `/`: GET and POST, always HTTP 200, Content-Type exactly `application/json`, everything inside one envelope.

    {"Response": {fields…, "RequestId": id}}
    {"Response": {"Error": {"Code": code, "Message": text}, "RequestId": id}}

The SDKs look for an error only under that exact type and status; another would be taken for a success without fields.
"""

from __future__ import annotations

from typing import Any, Final

import falcon.asgi

from server.api.problems import dump
from server.api.request import ClientGone, Request
from server.api.services import Services
from server.functions.checks import shown
from server.records.ids import new_request_id
from server.scf.actions.model import Ask, check_rights
from server.scf.authentication import Authentication
from server.scf.errors import NO_CODES, OwnCodes, ScfError, scf_error
from server.scf.table import ACTIONS

VERSION: Final = "2018-04-16"
CONTENT_TYPE: Final = "application/json"


class Api3:
    """/"""

    def __init__(self, services: Services, authentication: Authentication) -> None:
        self._services, self._authentication = services, authentication

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._serve(req, resp)

    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._serve(req, resp)

    async def _serve(self, req: Request, resp: falcon.asgi.Response) -> None:
        request_id = req.request_id = new_request_id()
        try:
            fields = await self._answer(req)
        except ClientGone:
            raise
        except Exception as error:
            fields = failed(error)
        await write(req, resp, {"Response": {**fields, "RequestId": request_id}})

    async def _answer(self, req: Request) -> dict[str, Any]:
        signed = await self._authentication.api3(req)
        name, version = signed.common.get("Action", ""), signed.common.get("Version", "")
        if not name:
            raise ScfError("MissingParameter", "the request names no Action")
        if version != VERSION:
            raise ScfError("NoSuchVersion", f"the version {shown(version)} does not exist, {VERSION} does")
        action = ACTIONS.get(name)
        if action is None:
            raise ScfError("InvalidAction", f"the action {shown(name)} does not exist")
        ask = Ask(
            services=self._services,
            credential=signed.credential,
            request_id=req.request_id,
            parameters=signed.parameters,
            region=signed.common.get("Region", ""),
            base_url=base_url(req),
        )
        check_rights(action, ask)
        try:
            return await action.run(ask)
        except Exception as error:
            raise scf_error(error, action.errors) from error


def failed(error: Exception, own: OwnCodes = NO_CODES) -> dict[str, Any]:
    known = scf_error(error, own)
    return {"Error": {"Code": known.code, "Message": known.message}}


async def write(req: Request, resp: falcon.asgi.Response, answer: dict[str, Any]) -> None:
    """HTTP 200 with that JSON; what is left of the body is read first, so that the client sees it."""
    await req.drain()
    resp.content_type, resp.data = CONTENT_TYPE, dump(answer)
    if req.body_left:
        resp.set_header("Connection", "close")


def base_url(req: Request) -> str:
    """Where the client reached us: tccli's Host has the scheme in front."""
    host = req.signed_header("host") or "localhost"
    return host if "://" in host else f"{req.forwarded_scheme}://{host}"
