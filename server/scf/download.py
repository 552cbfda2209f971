"""/scf/code: a package by an address that GetFunctionAddress or GetLayerVersion signs, good for a while and for that package only.

The address carries its own right, so it needs no credential: SCF's clients hand it to curl. It names the package's digest, which changes
with the code, so it never shows newer code than its holder was given it for.
"""

from __future__ import annotations

import hmac
import time
from typing import Final
from urllib.parse import urlencode

import falcon.asgi

from server.api.request import Request
from server.api.services import Services
from server.errors import NotFound, Unauthorized
from server.keys.vault import Vault

PATH: Final = "/scf/code"
GOOD_SECONDS: Final = 600
PURPOSE: Final = "download of code"


def code_url(vault: Vault, base_url: str, digest: str) -> str:
    """The address of the package with that digest. Raises ConfigError without the instance's key."""
    expires = int(time.time()) + GOOD_SECONDS
    signature = _signature(vault, digest, str(expires))
    return f"{base_url}{PATH}?{urlencode({'sha256': digest, 'expires': expires, 'signature': signature})}"


def _signature(vault: Vault, digest: str, expires: str) -> str:
    return vault.mac(PURPOSE, f"{digest}\n{expires}")


class CodeDownload:
    """/scf/code"""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        digest, expires, signature = (req.get_param(name) or "" for name in ("sha256", "expires", "signature"))
        expected = _signature(self._services.vault, digest, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")) or int(expires) < time.time():
            raise Unauthorized("the address is not, or no more, good", hint="ask for another with GetFunctionAddress or GetLayerVersion")
        store = self._services.codestore
        try:
            data = await self._services.lookups.run(store.read_zip, digest)
        except FileNotFoundError:
            raise NotFound("the package is gone") from None
        resp.content_type, resp.data = "application/zip", data
        resp.set_header("Content-Disposition", f'attachment; filename="{digest[:12]}.zip"')
