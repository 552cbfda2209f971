"""The root of the `hearth` command and its list of commands."""

from __future__ import annotations

import click

from server.cli import buckets, calls, concurrency, events, functions, inspection, layers, local, namespaces, triggers, versions
from server.cli.backup import backup, restore
from server.cli.demo import demo
from server.cli.keys import keys
from server.cli.root import Root
from server.cli.sources import source
from server.cli.up import up


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": None})
@click.option("--url", envvar="HEARTH_URL", help="Address of the API.  [HEARTH_URL; default: from HEARTH_LISTEN]")
@click.option("--token", envvar="HEARTH_TOKEN", help="Credential.  [HEARTH_TOKEN; default: the one in HEARTH_HOME]")
@click.version_option(package_name="hearth")
def main(url: str | None, token: str | None) -> None:
    """Run functions on a machine of your own.

    \b
    Exit status: 0, 1 the function or Hearth failed, 2 wrong usage, 3 refused (429, 503).
    """


for command in (
    up,
    functions.deploy,
    calls.invoke,
    calls.logs,
    functions.ls,
    functions.describe,
    functions.rm,
    versions.version,
    versions.alias,
    namespaces.namespace,
    layers.layer,
    concurrency.concurrency,
    concurrency.provisioned,
    concurrency.account,
    events.events,
    triggers.trigger,
    inspection.ps,
    inspection.usage,
    keys,
    source,
    inspection.token,
    inspection.config,
    local.image,
    local.doctor,
    local.completion,
    backup,
    restore,
    buckets.bucket,
    demo,
):
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name="hearth")
