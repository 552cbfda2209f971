"""The outermost command: what is printed has come out when it ends, or it has failed, whichever command it was."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click


class Root(click.Group):
    """A group that ends with one line and status 1 where stdout takes nothing (a full disk), or where the system refuses a file.

    A pipe whose reader has gone is no news: then the line is left out.
    """

    def main(self, *args: Any, **extra: Any) -> Any:
        failed: OSError | None = None
        try:
            return super().main(*args, **extra)
        except OSError as error:
            failed = error
        finally:
            # Some of it may still be in the buffer: its failure is what the caller has to know, whatever else the command came to.
            failed = failed or _flush()
            if failed is not None:
                if failed.errno != errno.EPIPE:
                    click.echo(f"hearth: {_place(failed)}: {failed.strerror or failed}", err=True)
                _discard()
                raise SystemExit(1)


def _flush() -> OSError | None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        return error
    return None


def _place(error: OSError) -> str:
    """A failed write names no file; the command line itself does nothing else that could fail so (the API's client has its own errors)."""
    return str(error.filename) if error.filename is not None else "cannot write to stdout"


def _discard() -> None:
    """Or the interpreter tries once more at its end, and tells of it in three lines (the signal module's note on SIGPIPE)."""
    if sys.stdout is None:
        return
    descriptor = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)
