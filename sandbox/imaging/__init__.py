"""Making images: import a tarball, build from the host's Python, build a Debian.

    admin ─▶ tarball · host · debian        each fills a staged root
                 │
                 ▼
             complete                       mount points, interpreters that run, manifest
                 │
                 ▼
             store                          staged beside the others, renamed into place, swept

Runs as root, by hand, never inside sandboxd. What is in an image is trusted like a host package; what is in an archive is not
trusted to stay inside its target.
"""

from __future__ import annotations

from collections.abc import Callable

#: Called with bytes done, bytes in all (None: unknown) and what is being done.
Progress = Callable[[int, int | None, str], None]


def silent(done: int, total: int | None, text: str) -> None:
    """The progress of who doesn't watch."""
