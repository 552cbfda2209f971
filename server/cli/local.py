"""`hearth doctor | image | completion`: what happens on this machine without the API."""

from __future__ import annotations

import os
import sys

import click
from click.shell_completion import get_completion_class

PASS_THROUGH = {"ignore_unknown_options": True, "help_option_names": []}


def _admin(name: str, arguments: tuple[str, ...]) -> None:
    """Become `python -m sandbox.admin`: images are root's, and so is the proof that nothing is left behind."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "sandbox.admin", name, *arguments])


@click.command(context_settings=PASS_THROUGH, add_help_option=False, short_help="What this host can guarantee, and what is left on it.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def doctor(arguments: tuple[str, ...]) -> None:
    """Say what this host can and can't guarantee, and prove that nothing is left behind (root)."""
    _admin("doctor", arguments)


@click.command(context_settings=PASS_THROUGH, add_help_option=False, short_help="ls, import, build or rm images (root).")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def image(arguments: tuple[str, ...]) -> None:
    """List, import, build and remove images (root)."""
    _admin("image", arguments)


@click.command(short_help="Print a shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: hearth completion bash > /etc/bash_completion.d/hearth
    zsh:  hearth completion zsh > "${fpath[1]}/_hearth"
    fish: hearth completion fish > ~/.config/fish/completions/hearth.fish
    """
    complete = get_completion_class(shell)
    assert complete is not None  # the choice above names the shells that click knows
    click.echo(complete(context.find_root().command, {}, "hearth", "_HEARTH_COMPLETE").source())
