"""`python -m server.buckets`: become gunicorn with the bucket service."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    configuration = Path(__file__).with_name("gunicorn_conf.py")
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "-c", str(configuration), "server.buckets.app:create_app()"])


if __name__ == "__main__":
    main()
