"""Prometheus figures of the bucket service, summed over its workers by files as the API's are."""

from __future__ import annotations

import os
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 300)


class BucketMetrics:
    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter("hearth_bucket_requests", "Requests by operation and status", ["operation", "status"], registry=registry)
        self._seconds = Histogram(
            "hearth_bucket_request_seconds", "From a request's head to its answer's", ["operation"], registry=registry, buckets=BUCKETS
        )
        self._in = Counter("hearth_bucket_received_bytes", "Object data received and stored", registry=registry)
        self._out = Counter("hearth_bucket_sent_bytes", "Object data promised in answers", registry=registry)
        self._orphans = Counter("hearth_bucket_orphans", "Data files of unfinished writes, swept at start", registry=registry)

    def count(self, operation: str, status: int, seconds: float) -> None:
        self._requests.labels(operation, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)

    def received(self, size_bytes: int) -> None:
        self._in.inc(size_bytes)

    def sent(self, size_bytes: int) -> None:
        self._out.inc(size_bytes)

    def swept(self, files: int) -> None:
        self._orphans.inc(files)

    def render(self) -> bytes:
        """Reads files: call it in a thread."""
        registry = self._registry
        if DIRECTORY in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
