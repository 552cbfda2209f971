"""gunicorn's configuration of the bucket service; like the API's (server/gunicorn_conf.py), whose comments hold here too."""

from __future__ import annotations

import logging
import os
import resource
import shutil
from typing import Any

from sandbox.log import configure
from sandbox.settings import load

_settings = load()
_metrics = _settings.state_dir / "metrics-buckets"

os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics)
configure("buckets", _settings.log_level)
logging.getLogger("alembic").setLevel(logging.WARNING)

wsgi_app = "server.buckets.app:create_app()"
proc_name = "hearth-buckets"
worker_class = "server.api.worker.BucketWorker"
workers = _settings.bucket_workers
bind = [_settings.bucket_address]
backlog = 2048
preload_app = False
asgi_loop = "uvloop"
asgi_lifespan = "on"

timeout = 60
graceful_timeout = int(os.environ.get("HEARTH_STOP_GRACE", "60"))
keepalive = _settings.http_idle_seconds

#: A key of 1024 bytes, each of them percent-encoded, and a presigned URL's parameters with a long token.
limit_request_line = 16_380
limit_request_fields = 200
limit_request_field_size = 16_384

loglevel = "info" if _settings.log_level.upper() == "DEBUG" else _settings.log_level.lower()
accesslog = None
errorlog = "-"
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def on_starting(_arbiter: Any) -> None:
    """As many descriptors as we may have; the counts of a former life go."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    shutil.rmtree(_metrics, ignore_errors=True)
    _metrics.mkdir(parents=True, exist_ok=True)
