"""`python -m sandbox.daemon.sweep`: what a sandboxd that was killed left on the host goes at once, not at its next start.

systemd runs it when the service has ended. Where a sandboxd lives it does nothing.
"""

from __future__ import annotations

import os
import sys

from sandbox import log, settings
from sandbox.cgroup import detect
from sandbox.daemon import recovery
from sandbox.errors import SandboxError


def main() -> None:
    try:
        conf = settings.load()
        log.configure("sweep", conf.log_level)
        if not os.path.exists(recovery.lock_path(conf)):
            return  # it has never run
        lock = recovery.lock(conf)
        recovery.sweep(conf, detect(conf.instance, recovery.cgroup_root(conf)), lock)
        recovery.remove_run_files(conf)
    except SandboxError as error:
        sys.exit(f"hearth: {error.message}")


if __name__ == "__main__":
    main()
