"""What a trigger with CorsConfig says to browsers (Fetch Standard, section 3.3); the function then has no say in it.

A preflight is answered here, before anybody is asked for a credential: browsers send none with it.
"""

from __future__ import annotations

from typing import Final

from server.triggers.http import ANY, METHODS, Cors

PREFIX: Final = "access-control-"
PREFLIGHT_STATUS: Final = 204
VARY: Final = ("vary", "Origin")

Pairs = list[tuple[str, str]]


def is_preflight(method: str, origin: str | None, wanted_method: str | None) -> bool:
    return method == "OPTIONS" and origin is not None and wanted_method is not None


def response_headers(cors: Cors, origin: str | None) -> Pairs:
    """What goes along with every response, refusals too: without it a script could not read them."""
    allowed = _allowed_origin(cors, origin)
    if allowed is None:
        return [VARY]
    found = [("access-control-allow-origin", allowed)]
    if allowed != ANY:
        found.append(VARY)
    if cors.credentials:
        found.append(("access-control-allow-credentials", "true"))
    if cors.exposed:
        found.append(("access-control-expose-headers", ", ".join(cors.exposed)))
    return found


def preflight_headers(cors: Cors, origin: str | None, wanted_headers: str | None) -> Pairs:
    """The same for a preflight. An origin that may not gets none of it, and its browser stops there."""
    allowed = _allowed_origin(cors, origin)
    if allowed is None:
        return [VARY]
    # * in an answer is no wildcard for requests with credentials, and never for Authorization: names it is.
    headers = (wanted_headers or "") if ANY in cors.headers else ", ".join(cors.headers)
    found = [
        ("access-control-allow-origin", allowed),
        ("access-control-allow-methods", ", ".join(METHODS if ANY in cors.methods else cors.methods)),
        ("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]
    if headers:
        found.append(("access-control-allow-headers", headers))
    if cors.credentials:
        found.append(("access-control-allow-credentials", "true"))
    if cors.max_age_seconds:
        found.append(("access-control-max-age", str(cors.max_age_seconds)))
    return found


def _allowed_origin(cors: Cors, origin: str | None) -> str | None:
    if ANY in cors.origins:
        return ANY
    return origin if origin in cors.origins else None
