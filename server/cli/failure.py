"""How a command ends badly: one line, an optional hint, and an exit status that scripts can rely on."""

from __future__ import annotations

from typing import IO, Any

import click


class CommandError(click.ClickException):
    """The function, or Hearth itself, failed: exit status 1. `hint` says what to do, `status` is the HTTP answer's, if there was one."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.hint, self.status = hint, status

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"hearth: {self.message}", file=file, err=True)
        if self.hint:
            click.echo(f"  hint: {self.hint}", file=file, err=True)


class WrongRequest(CommandError):
    """What was asked for is wrong and can't succeed as it is: exit status 2."""

    exit_code = 2


class NotServed(CommandError):
    """Nothing ran, and the same request may succeed later (429, 503, nobody listening): exit status 3."""

    exit_code = 3
