"""Falcon's response with headers that are sent exactly as they are: repeated ones repeated, bytes above 127 unchanged."""

from __future__ import annotations

from typing import Any

import falcon.asgi


class Response(falcon.asgi.Response):
    """`raw_headers`: names in lower case, checked by whoever sets them. One that is also set the usual way is sent twice."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.raw_headers: list[tuple[str, bytes]] = []

    def _asgi_headers(self, media_type: str | None = None) -> list[tuple[bytes, bytes]]:
        raw = self.raw_headers
        if not raw:
            return super()._asgi_headers(media_type)
        names = {name for name, _ in raw}
        headers = super()._asgi_headers(None if "content-type" in names else media_type)
        return headers + [(name.encode(), value) for name, value in raw]
