"""Tools of the host's that fill an image: found or named, told as they go, ended with us."""

from __future__ import annotations

import collections
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from sandbox.errors import ImageError
from sandbox.imaging import Progress

_LAST_LINES: Final = 40

# It ends with us, also when we are killed.
BOUND: Final = ("setpriv", "--pdeathsig", "KILL", "--")
# In a mount and a pid namespace of its own, what it mounts and starts ends with it too.
CONFINED: Final = (*BOUND, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--")


def find_tool(name: str, *, package: str = "") -> str:
    """The path of a program. Raises ImageError that names Debian's package."""
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise ImageError(f"{name} is missing", hint=f"apt-get install {package or name}")
    return program


def run_tool(
    command: Sequence[str],
    *,
    progress: Progress,
    environment: Mapping[str, str] | None = None,
    told: Callable[[str], str] = str,
) -> tuple[int, list[str]]:
    """Run to the end; exit status and its last lines. Each line, made readable by `told`, is progress."""
    last: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C", **(environment or {})},
    ) as process:
        assert process.stdout is not None  # asked for above
        try:
            for line in process.stdout:
                if text := told(line).strip():
                    last.append(text)
                    progress(0, None, text.rstrip(".")[:100])
        except BaseException:
            process.kill()
            # Its children hold the pipe: at its end the last one is gone, and the tree can be removed.
            process.stdout.read()
            raise
    return process.returncode, list(last)
