"""gunicorn's configuration, from Hearth's settings. It starts without privilege: `hearth up` has seen to that.

Read in gunicorn's master, which imports neither the application nor prometheus_client: the workers do, each for itself.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
from typing import Any

from sandbox.log import configure
from sandbox.settings import load

_settings = load()
_metrics = _settings.state_dir / "metrics"

#: The longest call, and some; in the foreground `hearth up` allows less.
_LONGEST_CALL_SECONDS = _settings.limit_timeout_seconds + 10

os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics)
configure("api", _settings.log_level)
logging.getLogger("alembic").setLevel(logging.WARNING)  # at INFO it lists its plug-ins at every start

wsgi_app = "server.app:create_app()"
proc_name = "hearth-api"
worker_class = "server.api.worker.ApiWorker"
workers = _settings.workers
# A listening socket from a supervisor comes as a descriptor's number; systemd's own way gunicorn knows by itself.
bind = [f"fd://{os.environ['HEARTH_LISTEN_FD']}" if "HEARTH_LISTEN_FD" in os.environ else _settings.listen]
backlog = 2048
preload_app = False
asgi_loop = "uvloop"
asgi_lifespan = "on"

# Not how long a call may take: how long a worker's loop may stand still.
timeout = 60
graceful_timeout = int(os.environ.get("HEARTH_STOP_GRACE", _LONGEST_CALL_SECONDS))
keepalive = _settings.http_idle_seconds

limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 16_384  # a credential, and the longest headers that clients of clouds sign

# At DEBUG gunicorn would write every path, with whatever a client has put into it.
loglevel = "info" if _settings.log_level.upper() == "DEBUG" else _settings.log_level.lower()
accesslog = None
errorlog = "-"
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def on_starting(_arbiter: Any) -> None:
    """As many descriptors as we may have: the usual 1024 are no limit, they are for programs that call select(2).

    The counts of a former life go: its processes' files would be added to ours for ever.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    shutil.rmtree(_metrics, ignore_errors=True)
    _metrics.mkdir(parents=True, exist_ok=True)
