"""Layers as a function has them: from names and versions to the packages that are mounted, and whether all of it fits together.

What is bound stays bound: a function keeps a version that has been deleted since, and only new bindings of it are refused. So the digest,
the size and the runtimes are kept with the function.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from sandbox.settings import Settings
from server.errors import BadRequest, NotFound
from server.functions.codestore import CodeStore
from server.functions.handlers import runs_on
from server.functions.layerrows import find_version
from server.functions.model import Function, LayerUse


class Bindings:
    """Used by whoever creates or changes a function. Blocking."""

    def __init__(self, settings: Settings, codestore: CodeStore) -> None:
        self._limit_bytes = settings.limit_unpacked_bytes
        self._code = codestore

    def bound(
        self, connection: Connection, namespace: str, wanted: Sequence[tuple[str, int]], kept: Iterable[LayerUse] = ()
    ) -> tuple[LayerUse, ...]:
        """The layers of these (name, version); those among `kept` need not exist any more. Raises BadRequest."""
        known = {(use.name, use.version): use for use in kept}
        return tuple(known.get(pair) or _found(connection, namespace, *pair) for pair in wanted)

    def changed(self, connection: Connection, current: Function, changes: dict[str, Any]) -> dict[str, Any]:
        """`changes` with the layers bound where they name any. Raises BadRequest."""
        if "layers" not in changes:
            return changes
        return changes | {"layers": self.bound(connection, current.namespace, changes["layers"], current.layers)}

    def check(self, function: Function) -> None:
        """Raise BadRequest where a layer is not for the function's runtime, or code and layers together are too large."""
        if not function.layers:
            return
        for use in function.layers:
            if not runs_on(function.runtime, use.runtimes):
                raise BadRequest(
                    f"layers: {use.name}:{use.version} is for {', '.join(use.runtimes)}, the function's runtime is {function.runtime}",
                    field="layers",
                    code="layer_incompatible",
                )
        # A package that comes twice is mounted once.
        total = self._code.unpacked_bytes(function.code) + sum({use.code: use.unpacked_size for use in function.layers}.values())
        if total > self._limit_bytes:
            raise BadRequest(
                f"layers: code and layers unpack to {total} bytes, limit {self._limit_bytes}",
                field="layers",
                code="layers_too_large",
                hint="the limit is the setting limit_unpacked_bytes",
            )


def _found(connection: Connection, namespace: str, name: str, version: int) -> LayerUse:
    try:
        found = find_version(connection, namespace, name, version)
    except NotFound as error:
        raise BadRequest(f"layers: {error.detail}", field="layers", code=error.code, hint=error.hint) from error
    return LayerUse(name, version, found.code, found.unpacked_size, found.runtimes)
