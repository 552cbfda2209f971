"""The tables, as SQLAlchemy Core objects; `migrations/` makes them and a test keeps the two the same.

    namespaces      one row a namespace; `default` is always there
    functions       one row a function, its `$LATEST`; code and layers by digest
    versions        one row a published version, frozen: `configuration` is JSON of what `$LATEST` had then
    aliases         one row an alias; every function has one, `$DEFAULT`
    layers          one row a layer that there is or was: the last number it gave out, which is never given again
    layer_versions  one row a layer's version that there is
    quotas          one row a namespace whose concurrency was ever changed
    reservations    one row a function that has a share of its namespace's concurrency to itself
    provisioned     one row a version that has workers started ahead
    invocations     one row a call, numbered by `seq` in the order of commits (what followers of a log page by)
    usage           one row a function and day
    keys            one row a secret pair, its secret encrypted
    nonces          what signing clients have used up, until it would be too late to use it again
    events          one row an event that waits or runs; it goes with its settling, and its record comes
    event_keys      Idempotency-Key → request, for as long as a key is known
    event_settings  one row a function that has event settings of its own
    dead_letters    events that ended badly, until they are sent again or purged
    event_outcomes  how many attempts ended how, by function and status
    triggers        one row a trigger; timers know their next tick
    firings         one row a timer's tick that fired, for a while: what makes a tick fire once
    sources         one row another store that may send notifications, its secret as SHA-256
    watches         one row a directory that triggers watch: since when, which inode it was, whose it is now
    watched_files   one row a file there, as it was when its last event was put
    buckets         one row a bucket
    objects         one row an object; its key as bytes, which every database sorts alike, its data in a file of that name
    uploads         one row a multipart upload that has not ended, `upload_parts` one a part of it
    counters        named numbers; updating one holds its row until commit, which is our lock on every database

Sizes in MB or bytes, limits in whole seconds, times in float seconds since the epoch. JSON is text: the same on every
database, and never queried into.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

METADATA: Final = MetaData()

namespaces: Final = Table(
    "namespaces",
    METADATA,
    Column("name", String(60), primary_key=True),
    Column("description", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

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
    # The number of the version published last. Writing it holds the row: whoever changes something of a function begins with that.
    Column("published", Integer, nullable=False, default=0),
    # What SCF's clients configure and nothing here acts on: JSON, shown again to them.
    Column("scf", Text, nullable=False, server_default="{}"),
    UniqueConstraint("namespace", "name", name="functions_name"),
)

versions: Final = Table(
    "versions",
    METADATA,
    Column("version_id", String(36), primary_key=True),
    Column("function_id", String(36), ForeignKey("functions.function_id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("description", Text, nullable=False),
    Column("code", String(64), nullable=False),
    Column("configuration", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("function_id", "number", name="versions_number"),
)

aliases: Final = Table(
    "aliases",
    METADATA,
    Column("function_id", String(36), ForeignKey("functions.function_id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("version", String(20), nullable=False),
    Column("description", Text, nullable=False),
    Column("routing", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

layers: Final = Table(
    "layers",
    METADATA,
    Column("namespace", String(60), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("last_version", Integer, nullable=False),
)

layer_versions: Final = Table(
    "layer_versions",
    METADATA,
    Column("namespace", String(60), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("runtimes", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("license", Text, nullable=False),
    Column("code", String(64), nullable=False),
    Column("code_size", BigInteger, nullable=False),
    Column("unpacked_size", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
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
    Column("type", String(5), nullable=False, server_default="sync"),
    Column("created_at", Double, nullable=False),
    Column("record", Text, nullable=False),
    Column("result", LargeBinary),
    Column("log", LargeBinary, nullable=False),
    UniqueConstraint("request_id", name="invocations_request_id"),
    Index("invocations_function", "namespace", "function", "seq"),
    # Of asynchronous ones alone: it costs the others nothing.
    Index("invocations_async", "seq", sqlite_where=text("type = 'async'"), postgresql_where=text("type = 'async'")),
)

events: Final = Table(
    "events",
    METADATA,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("request_id", String(64), nullable=False),
    # namespace/function: what dispatchers share their attention among.
    Column("lane", String(121), nullable=False),
    Column("qualifier", String(64), nullable=False),
    Column("state", String(12), nullable=False),
    Column("due_at", Double, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("source", String(20), nullable=False),
    Column("trigger", String(200), nullable=False),
    Column("caused_by", String(64), nullable=False),
    Column("hops", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("ready_at", Double, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("attempts", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("owner", String(64), nullable=False),
    Column("lease_until", Double, nullable=False),
    Column("claimed_at", Double),
    Column("cancelled", Boolean, nullable=False),
    # JSON, the caller's routing key; empty without one.
    Column("routing_key", Text, nullable=False),
    UniqueConstraint("request_id", name="events_request_id"),
    Index("events_lane", "state", "lane", "due_at", "seq"),
)

event_keys: Final = Table(
    "event_keys",
    METADATA,
    Column("lane", String(121), primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("request_id", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Index("event_keys_created", "created_at"),
)

event_settings: Final = Table(
    "event_settings",
    METADATA,
    Column("function_id", String(36), primary_key=True),
    Column("retries", Integer),
    Column("ttl", Integer),
    Column("target_type", String(10), nullable=False),
    Column("target", String(2000), nullable=False),
    Column("updated_at", Double, nullable=False),
)

dead_letters: Final = Table(
    "dead_letters",
    METADATA,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("request_id", String(64), nullable=False),
    Column("lane", String(121), nullable=False),
    Column("qualifier", String(64), nullable=False),
    Column("source", String(20), nullable=False),
    Column("trigger", String(200), nullable=False),
    Column("hops", Integer, nullable=False),
    Column("state", String(12), nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("died_at", Double, nullable=False),
    Column("target_type", String(10), nullable=False),
    Column("target", String(2000), nullable=False),
    # none · pending · delivered · failed
    Column("delivery", String(10), nullable=False),
    Column("deliveries", Integer, nullable=False),
    Column("deliver_at", Double, nullable=False),
    UniqueConstraint("request_id", name="dead_letters_request_id"),
    Index("dead_letters_lane", "lane", "seq"),
    Index("dead_letters_delivery", "delivery", "deliver_at"),
)

event_outcomes: Final = Table(
    "event_outcomes",
    METADATA,
    Column("lane", String(121), primary_key=True),
    # succeeded · failed · cancelled · expired · retried
    Column("outcome", String(12), primary_key=True),
    Column("status", Integer, primary_key=True, autoincrement=False),
    Column("count", BigInteger, nullable=False),
)

triggers: Final = Table(
    "triggers",
    METADATA,
    Column("trigger_id", String(36), primary_key=True),
    Column("function_id", String(36), nullable=False),
    Column("namespace", String(60), nullable=False),
    Column("function", String(60), nullable=False),
    Column("name", String(200), nullable=False),
    Column("type", String(20), nullable=False),
    Column("config", Text, nullable=False),
    Column("qualifier", String(64), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("description", Text, nullable=False),
    Column("next_at", Double),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("function_id", "name", name="triggers_name"),
    Index("triggers_next", "next_at"),
    Index("triggers_type", "type"),
)

firings: Final = Table(
    "firings",
    METADATA,
    Column("trigger_id", String(36), primary_key=True),
    Column("tick", Double, primary_key=True),
    Column("request_id", String(64), nullable=False),
    Column("fired_at", Double, nullable=False),
    Index("firings_fired", "fired_at"),
)

sources: Final = Table(
    "sources",
    METADATA,
    Column("name", String(60), primary_key=True),
    Column("description", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
)

watches: Final = Table(
    "watches",
    METADATA,
    Column("watch_id", String(36), primary_key=True),
    Column("directory", String(1024), nullable=False),
    Column("since", Double, nullable=False),
    # Text: an inode number has 64 bits without a sign. Empty until it was seen.
    Column("inode", String(20), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("lease_until", Double, nullable=False),
    UniqueConstraint("directory", name="watches_directory"),
)

watched_files: Final = Table(
    "watched_files",
    METADATA,
    Column("watch_id", String(36), primary_key=True),
    # SHA-256 of the path: an index entry of PostgreSQL has no room for a long one.
    Column("digest", LargeBinary(32), primary_key=True),
    Column("path", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("inode", String(20), nullable=False),
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

keys: Final = Table(
    "keys",
    METADATA,
    Column("secret_id", String(128), primary_key=True),
    Column("scope", String(10), nullable=False),
    Column("namespace", String(60), nullable=False),
    Column("description", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

nonces: Final = Table(
    "nonces",
    METADATA,
    Column("secret_id", String(128), primary_key=True),
    Column("nonce", String(20), primary_key=True),
    Column("good_until", Double, nullable=False),
    Index("nonces_good_until", "good_until"),
)

counters: Final = Table(
    "counters",
    METADATA,
    Column("name", String(60), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

buckets: Final = Table(
    "buckets",
    METADATA,
    Column("name", String(63), primary_key=True),
    Column("namespace", String(60), nullable=False),
    Column("created_at", Double, nullable=False),
)

objects: Final = Table(
    "objects",
    METADATA,
    Column("bucket", String(63), primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("file", String(32), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("etag", String(40), nullable=False),
    Column("facts", Text, nullable=False),
    Column("modified_at", Double, nullable=False),
    Index("objects_file", "file"),
)

uploads: Final = Table(
    "uploads",
    METADATA,
    Column("upload_id", String(32), primary_key=True),
    Column("bucket", String(63), nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("facts", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Index("uploads_key", "bucket", "key", "upload_id"),
)

upload_parts: Final = Table(
    "upload_parts",
    METADATA,
    Column("upload_id", String(32), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("file", String(32), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("etag", String(40), nullable=False),
    Column("checksum", String(100), nullable=False),
    Column("modified_at", Double, nullable=False),
    Index("upload_parts_file", "file"),
)

#: Counters that migrations make: the last `seq` given out, the lock that creating a function takes, and making or deleting a namespace, and
#: the one that publishing a layer takes.
INVOCATIONS_COUNTER: Final = "invocations"
FUNCTIONS_COUNTER: Final = "functions"
LAYERS_COUNTER: Final = "layers"
#: Quota epochs and revisions of what is provisioned come from here, and whoever changes one holds it.
QUOTAS_COUNTER: Final = "quotas"
