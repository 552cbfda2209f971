"""The tables, as SQLAlchemy Core objects; `migrations/` makes them and a test keeps the two the same.

    functions     one row a function, its `$LATEST`; code and layers by digest
    invocations   one row a call, numbered by `seq` in the order of commits (what followers of a log page by)
    usage         one row a function and day
    quotas        one row a namespace whose concurrency was ever changed
    reservations  one row a function that has a share of its namespace's concurrency to itself
    provisioned   one row a version that has workers started ahead
    counters      named numbers; updating one holds its row until commit, which is our lock on every database

Sizes in MB or bytes, limits in whole seconds, times in float seconds since the epoch. JSON is text: the same on every
database, and never queried into.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, MetaData, String, Table, Text, UniqueConstraint

METADATA: Final = MetaData()

functions: Final = Table(
    "functions",
    METADATA,
    Column("function_id", String(36), primary_key=True),
    Column("namespace", String(60), nullable=False),
    Column("name", String(60), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("runtime", String(40), nullable=False),
    Column("handler", String(300), nullable=False),
    Column("memory", Integer, nullable=False),
    Column("timeout", Integer, nullable=False),
    Column("init_timeout", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("tmp", Integer, nullable=False),
    Column("environment", Text, nullable=False),
    Column("network", String(10), nullable=False),
    Column("layers", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("code", String(64), nullable=False),
    Column("code_size", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("namespace", "name", name="functions_name"),
)

invocations: Final = Table(
    "invocations",
    METADATA,
    # INTEGER on SQLite makes it the row id: rows lie in this order, new ones at the end.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("request_id", String(64), nullable=False),
    Column("namespace", String(60), nullable=False),
    Column("function", String(60), nullable=False),
    Column("state", String(12), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("record", Text, nullable=False),
    Column("result", LargeBinary),
    Column("log", LargeBinary, nullable=False),
    UniqueConstraint("request_id", name="invocations_request_id"),
    Index("invocations_function", "namespace", "function", "seq"),
)

usage: Final = Table(
    "usage",
    METADATA,
    Column("namespace", String(60), primary_key=True),
    Column("function", String(60), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("throttled", BigInteger, nullable=False),
    Column("gb_seconds", Double, nullable=False),
    Column("billed_ms", BigInteger, nullable=False),
)

quotas: Final = Table(
    "quotas",
    METADATA,
    Column("namespace", String(60), primary_key=True),
    # NULL: never set.
    Column("total_mb", BigInteger),
    Column("epoch", BigInteger, nullable=False),
)

reservations: Final = Table(
    "reservations",
    METADATA,
    Column("function_id", String(36), primary_key=True),
    Column("namespace", String(60), nullable=False),
    Column("reserved_mb", BigInteger, nullable=False),
    Index("reservations_namespace", "namespace"),
)

provisioned: Final = Table(
    "provisioned",
    METADATA,
    Column("function_id", String(36), primary_key=True),
    Column("family", String(36), nullable=False),
    Column("namespace", String(60), nullable=False),
    Column("function", String(60), nullable=False),
    Column("version", String(60), nullable=False),
    Column("number", Integer, nullable=False),
    # The largest number that the schedule has.
    Column("peak", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("schedule", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("updated_at", Double, nullable=False),
    Index("provisioned_family", "family"),
    Index("provisioned_namespace", "namespace"),
)

counters: Final = Table(
    "counters",
    METADATA,
    Column("name", String(60), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

#: Counters that the first migration makes: the last `seq` given out, and the lock that creating a function takes.
INVOCATIONS_COUNTER: Final = "invocations"
FUNCTIONS_COUNTER: Final = "functions"
#: Quota epochs and revisions of what is provisioned come from here, and whoever changes one holds it.
QUOTAS_COUNTER: Final = "quotas"
