"""The system call filters: syscalls.py compiled by libseccomp into classic BPF, once, at sandboxd's start and for this architecture.

    base      the allow-list: by number, some by argument. Large, so a zygote installs it once and every fork has it for nothing; an
              exec'd sandbox does so in its init plan. What making a sandbox takes is still allowed
    worker    on top of it, the last step of a worker: refuses what making took, and some calls by their arguments
    init      on top of it, the last step of PID 1: the few calls that waiting takes

The kernel asks all filters of a process and takes the strictest answer. Two programs are needed anyway: where one has a rule with
arguments and one without for the same call, libseccomp silently drops the former.

They go to zygotes and to the launcher as data ("filters" in their messages, base64), and a plan names one: `Step("seccomp", ("worker",))`.
seccomp(2), seccomp_rule_add(3).
"""

from __future__ import annotations

import base64
import contextlib
import errno
import logging
import struct
import tempfile
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from sandbox import syscalls
from sandbox.errors import ConfigError

if TYPE_CHECKING:
    from pyseccomp import SyscallFilter

_log = logging.getLogger(__name__)

#: Name of a filter → its program, an array of struct sock_filter, <linux/filter.h>.
Filters = Mapping[str, bytes]

HINT: Final = (
    "install it (apt-get install libseccomp2; scripts/install and scripts/develop do): without a system call filter no function is started"
)
INSTRUCTION_BYTES: Final = 8
_BINARY_TREE: Final = 2  # SCMP_FLTATR_CTL_OPTIMIZE, seccomp_attr_set(3)


def compile_filters() -> Filters:
    """Both filters for the machine we run on. Raises ConfigError, with what to install, where libseccomp does not do it.

    Slow (0.1 s: pyseccomp asks ldconfig, in a process of its own, where the library is), so once, before anything else runs.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise ConfigError(f"libseccomp can't be used: {error}", hint=HINT) from error
    try:
        return {"base": _base(pyseccomp), "worker": _worker(pyseccomp), "init": _init(pyseccomp)}
    except OSError as error:
        raise ConfigError(f"libseccomp can't compile the system call filter: {error}", hint=HINT) from error


def to_json(filters: Filters) -> dict[str, str]:
    """What travels in a message."""
    return {name: base64.b64encode(program).decode() for name, program in filters.items()}


def _base(library: Any) -> bytes:
    """EPERM by default, ENOSYS where that makes libraries fall back and above every number that the table knows."""
    context = _context(library, library.ERRNO(errno.EPERM))
    allowed = _numbers(library, syscalls.names(*syscalls.ALLOWED, *syscalls.MAKING))
    for number in allowed:
        context.add_rule(library.ALLOW, number)
    for rule in syscalls.ALLOWED_WITH:
        _add(library, context, library.ALLOW, rule)
    refused = _refuse(library, context, (rule for rule in syscalls.REFUSED if rule.errno != errno.EPERM))  # EPERM is the default
    return _enosys_above(max(*allowed, *refused)) + _exported(context)


def _worker(library: Any) -> bytes:
    """Passes whatever it does not refuse: the base decides."""
    context = _context(library, library.ALLOW)
    _refuse(library, context, syscalls.MAKING)
    for rule in syscalls.REFUSED_WITH:
        _add(library, context, library.ERRNO(rule.errno), rule)
    return _exported(context)


def _init(library: Any) -> bytes:
    context = _context(library, library.ERRNO(errno.EPERM))
    for number in _numbers(library, syscalls.names(syscalls.INIT)):
        context.add_rule(library.ALLOW, number)
    return _exported(context)


def _refuse(library: Any, context: SyscallFilter, rules: Iterable[syscalls.Rule]) -> list[int]:
    """Rules that tell their errno; the numbers they are about."""
    refused = []
    for rule in rules:
        for number in _numbers(library, syscalls.names(rule)):
            context.add_rule(library.ERRNO(rule.errno), number)
            refused.append(number)
    return refused


def _context(library: Any, default: int) -> SyscallFilter:
    context = library.SyscallFilter(default)
    # i386 and x32: as a kernel without them answers, and not libseccomp's own choice, which is to kill
    context.set_attr(library.Attr.ACT_BADARCH, library.ERRNO(errno.ENOSYS))
    with contextlib.suppress(OSError):  # libseccomp before 2.5: a list instead of a tree, the same answers
        context.set_attr(library.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    return context


def _add(library: Any, context: SyscallFilter, action: int, rule: syscalls.ArgumentRule) -> None:
    conditions = [library.Arg(a.position, library.MASKED_EQ, a.mask, a.value) for a in rule.arguments]
    for number in _numbers(library, [rule.call]):
        context.add_rule(action, number, *conditions)


def _numbers(library: Any, wanted: Iterable[str]) -> list[int]:
    """Numbers on this architecture. A name that it lacks, or that this libseccomp is too old for, is left out: it stays refused."""
    numbers = {name: library.resolve_syscall(library.Arch.NATIVE, name) for name in wanted}
    if missing := [name for name, number in numbers.items() if number < 0]:
        _log.debug("system calls that libseccomp does not know here: %s", " ".join(missing))
    return [number for number in numbers.values() if number >= 0]


def _enosys_above(highest: int) -> bytes:
    """Three instructions ahead of libseccomp's, which knows no ranges: a number above `highest` (x32's among them) is ENOSYS."""
    load_number = struct.pack("=HBBI", 0x20, 0, 0, 0)  # BPF_LD | BPF_W | BPF_ABS: seccomp_data.nr
    if_greater = struct.pack("=HBBI", 0x25, 0, 1, highest)  # BPF_JMP | BPF_JGT | BPF_K: else skip one
    enosys = struct.pack("=HBBI", 0x06, 0, 0, 0x00050000 | errno.ENOSYS)  # BPF_RET | BPF_K: SECCOMP_RET_ERRNO
    return load_number + if_greater + enosys


def _exported(context: SyscallFilter) -> bytes:
    with tempfile.TemporaryFile() as file:
        context.export_bpf(file)
        file.seek(0)
        return file.read()
