"""The database: tables, migrations, the engine and how times are written."""

from __future__ import annotations

from server.store.engine import next_numbers, open_database, ping, writing
from server.store.times import epoch, rfc3339, utc_day

__all__ = ["epoch", "next_numbers", "open_database", "ping", "rfc3339", "utc_day", "writing"]
