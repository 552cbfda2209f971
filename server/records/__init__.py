"""What every call came to: records, logs and usage, written behind the reply."""

from __future__ import annotations

from server.records.model import FINAL_STATES, InvocationRecord, LogEntry, UsageRow, new_record
from server.records.recorder import Recorder

__all__ = ["FINAL_STATES", "InvocationRecord", "LogEntry", "Recorder", "UsageRow", "new_record"]
