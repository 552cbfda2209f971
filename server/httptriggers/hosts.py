"""URLs by a host's name: `<url-id>.<domain>/path` is `/_/<url-id>/path`. At such a host there is nothing else, the API neither."""

from __future__ import annotations

import re
from typing import Any, Final

from server.httptriggers.resource import BY_HOST
from server.triggers.http import URL_PREFIX

_LABEL: Final = r"(?P<label>[a-z0-9-]{1,63})"


class Hosts:
    """`domain` as the setting http_domain has it, not empty."""

    def __init__(self, domain: str) -> None:
        self._pattern = re.compile(rf"{_LABEL}\.{re.escape(domain)}\.?(?::\d{{1,5}})?", re.ASCII | re.IGNORECASE)

    def resolved(self, scope: dict[str, Any]) -> dict[str, Any]:
        """The scope of the request that is meant; the same one where the host is another."""
        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        match = self._pattern.fullmatch(host.decode("latin-1"))
        if match is None:
            return scope
        prefix = f"{URL_PREFIX}{match['label'].lower()}"
        return {**scope, "path": prefix + scope["path"], "raw_path": prefix.encode() + scope.get("raw_path", b""), BY_HOST: True}
