"""`hearth doctor`: what this host can guarantee, what is left of instances on it, and the removal of what dead ones left.

    host, limits, state, network    checks of the kernel and root, of control groups, of the directories and the image, of `nat`
    leaks, sweep                    what is left and whose it is; `--fix`
    report                          the same for a terminal, a pipe, a script

Runs as root in one thread, beside living instances: it asks, and changes nothing unless told to.
"""

from __future__ import annotations

from sandbox.doctor import host, leaks, limits, network, state, sweep
from sandbox.doctor.model import Report
from sandbox.settings import Settings


def examine(conf: Settings, *, fix: bool = False) -> Report:
    """Look at everything, after the removal if that is wanted. Raises OSError only where the kernel hides its own /proc."""
    fixed = sweep.fix(conf) if fix else []
    found = (*host.checks(), *limits.checks(conf), *state.checks(conf), *network.checks(conf))
    return Report(conf.instance, conf.home, leaks.is_running(conf), found, tuple(leaks.findings(conf)), tuple(fixed))
