"""What the code store has to keep: the one question which packages anybody uses."""

from __future__ import annotations

import logging
from typing import Final

import orjson
from sqlalchemy import Connection, Engine, Table, select

from sandbox.log import pairs
from server.functions.codestore import CodeStore
from server.store.tables import functions, layer_versions, versions

#: Every table whose rows keep packages: a digest in `code`, and where there is a column `layers`, or a `configuration` with such, those
#: bound there too (`server.functions.model.LayerUse`). A table of that kind that comes to be must be named here, or its packages are
#: removed.
KEEPERS: Final[tuple[Table, ...]] = (functions, versions, layer_versions)

_log = logging.getLogger(__name__)


def used_digests(connection: Connection) -> set[str]:
    """The digests of all packages in use."""
    used: set[str] = set()
    for table in KEEPERS:
        used |= set(connection.execute(select(table.c.code).distinct()).scalars())
        if "layers" in table.c:
            for bound in connection.execute(select(table.c.layers).distinct()).scalars():
                used |= {layer["code"] for layer in orjson.loads(bound)}
        if "configuration" in table.c:
            for frozen in connection.execute(select(table.c.configuration)).scalars():
                used |= {layer["code"] for layer in orjson.loads(frozen)["layers"]}
    return used


def collect_unused(engine: Engine, codestore: CodeStore) -> tuple[str, ...]:
    """Let the code store remove what nobody has used for its grace; a failure is logged, the next call tries again."""
    try:
        with engine.connect() as connection:
            used = used_digests(connection)
        return tuple(codestore.collect(used))
    except OSError as error:
        _log.warning(pairs("collecting unused code failed", error=error))
        return ()
