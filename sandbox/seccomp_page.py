"""docs/seccomp.md, made from the table: `python -m sandbox.seccomp_page > docs/seccomp.md`; scripts/check compares."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from itertools import groupby

from sandbox import syscalls

HEAD = """# System calls of a sandbox

Made from `sandbox/syscalls.py` by `python -m sandbox.seccomp_page`; `scripts/check` fails where it differs.

Every worker, and whatever it starts, runs under a seccomp filter for as long as it lives: what is not allowed here is refused with an error
number, and nothing is killed for asking. The filter is an allow-list: calls that a table below does not name are refused with EPERM, and
calls newer than all of these with ENOSYS, as an older kernel would, so that libraries fall back. So are those of the 32-bit and x32
interfaces: a 32-bit program does not run. PID 1 of a sandbox has a narrower filter, the zygote that forks sandboxes a wider one.

Not in a sandbox, therefore: debuggers and tracers (`gdb`, `strace`), `ping`, `unshare`, container engines, programs that install a seccomp
filter themselves (Chromium needs `--no-sandbox`).
"""


def page() -> str:
    """The whole page, Markdown."""
    parts = [
        HEAD,
        "## Refused\n",
        _table(("calls", "answer", "why"), ((_calls(r), _answer(r.errno), r.reason) for r in (*syscalls.MAKING, *syscalls.REFUSED))),
        "## Refused with these arguments\n",
        _table(("call", "with", "answer", "why"), _grouped(syscalls.REFUSED_WITH, answers=True)),
        "## Allowed with these arguments only, otherwise EPERM\n",
        _table(("call", "with", "why"), _grouped(syscalls.ALLOWED_WITH, answers=False)),
        "## Allowed\n",
        _table(("what for", "calls"), ((rule.reason, _calls(rule)) for rule in syscalls.ALLOWED)),
        "## PID 1\n",
        f"All that is allowed to it once the sandbox has its function, {syscalls.INIT.reason}: {_calls(syscalls.INIT)}.\n",
    ]
    return "\n".join(parts)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("|" + "|".join(f" {cell} " if cell != "---" else cell for cell in line) + "|" for line in lines) + "\n"


def _calls(rule: syscalls.Rule) -> str:
    return " ".join(f"`{name}`" for name in rule.calls.split())


def _answer(number: int) -> str:
    return errno.errorcode[number]


def _grouped(rules: Iterable[syscalls.ArgumentRule], *, answers: bool) -> Iterable[tuple[str, ...]]:
    """One row for neighbours that differ only in their arguments."""
    for (call, number, reason), same in groupby(rules, key=lambda rule: (rule.call, rule.errno, rule.reason)):
        shown = " · ".join(f"`{rule.shown}`" for rule in same)
        yield (f"`{call}`", shown, *((_answer(number),) if answers else ()), reason)


if __name__ == "__main__":
    print(page(), end="")
