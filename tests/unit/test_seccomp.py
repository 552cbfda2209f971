"""The filters: the table is whole and consistent, what libseccomp made of it answers as the table says, and a host without it is told."""

from __future__ import annotations

import base64
import errno
import json
import platform
import subprocess
import sys
from pathlib import Path

import pyseccomp
import pytest

from sandbox import seccomp, seccomp_page, syscalls
from sandbox.errors import ConfigError
from tests.seccomp_probes import BY_ARGUMENT, BY_NUMBER, LIKE_OUTSIDE, X32_GETPID, Probe

ROOT = Path(__file__).resolve().parents[2]
FILTERS = seccomp.compile_filters()

#: argv: our code, the payload, {"filters": programs to install, "event": …}. Prints what the payload answers.
PROGRAM = r"""
import base64, json, os, sys
sys.path[:0] = sys.argv[1:3]
request = json.loads(sys.argv[3])
import probe
from sandbox.kernel import process
process.set_no_new_privs()
for text in request["filters"]:
    process.set_seccomp_filter(base64.b64decode(text))
print(json.dumps(probe.main_handler(request["event"], None)))
"""

#: What waiting takes, and what it does not, as PID 1 under its filter; `answer` is written before the end.
INIT_PROGRAM = r"""
import base64, errno, os, select, signal, sys
sys.path.insert(0, sys.argv[1])
from sandbox.kernel import process
process.set_no_new_privs()
child = os.fork()
if child == 0:
    os._exit(7)
for text in sys.argv[2:]:
    process.set_seccomp_filter(base64.b64decode(text))
def refused(act):
    try:
        act()
    except OSError as error:
        return error.errno == errno.EPERM
    return False
r, w = os.pipe()
signal.signal(signal.SIGALRM, lambda *_: None)
os.write(w, b"x")
assert select.select([r], [], [])[0] == [r] and os.read(r, 1) == b"x"
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert bytearray(1 << 22)
assert refused(lambda: os.open("/dev/null", os.O_RDONLY)) and refused(os.fork) and refused(lambda: os.execv("/bin/true", ["true"]))
os.write(1, b"as told")
os._exit(0)
"""


def ask(filters: tuple[str, ...], event: object) -> list[int] | int:
    texts = [base64.b64encode(FILTERS[name]).decode() for name in filters]
    request = json.dumps({"filters": texts, "event": event})
    command = [sys.executable, "-c", PROGRAM, str(ROOT), str(ROOT / "tests/payloads/seccomp"), request]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    answer: list[int] | int = json.loads(done.stdout)
    return answer


def told(probes: list[Probe]) -> dict[str, int]:
    answers = ask(("base", "worker"), [probe.to_json() for probe in probes])
    assert isinstance(answers, list)
    return dict(zip([probe.name for probe in probes], answers, strict=True))


# The table --------------------------------------------------------------------------------------------------------------------


def test_no_call_is_both_allowed_and_refused_and_none_is_named_twice() -> None:
    allowed = [*syscalls.names(*syscalls.ALLOWED), *{rule.call for rule in syscalls.ALLOWED_WITH}]
    refused = syscalls.names(*syscalls.MAKING, *syscalls.REFUSED)
    assert sorted([*allowed, *refused]) == sorted({*allowed, *refused})


def test_rules_by_argument_are_about_calls_that_are_allowed_and_whole() -> None:
    # libseccomp keeps only the rule without arguments where one program has both for a call
    assert {rule.call for rule in syscalls.REFUSED_WITH} <= set(syscalls.names(*syscalls.ALLOWED))
    assert all(
        argument.value & ~argument.mask == 0 for rule in (*syscalls.ALLOWED_WITH, *syscalls.REFUSED_WITH) for argument in rule.arguments
    )


def test_each_rule_has_a_reason_and_what_is_refused_an_errno() -> None:
    assert all(
        rule.reason for rule in (*syscalls.ALLOWED, *syscalls.ALLOWED_WITH, *syscalls.MAKING, *syscalls.REFUSED, *syscalls.REFUSED_WITH)
    )
    assert {rule.errno for rule in (*syscalls.MAKING, *syscalls.REFUSED)} == {errno.EPERM, errno.ENOSYS}
    assert all(rule.errno for rule in syscalls.REFUSED_WITH)


#: What was promised, apart from the table: a rule that is moved by mistake must not take its test along.
PROMISED = """
    unshare setns mount umount2 pivot_root move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr chroot swapon init_module
    finit_module delete_module bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl
    ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd kexec_load kexec_file_load settimeofday clock_settime clock_adjtime reboot
    acct quotactl syslog iopl ioperm name_to_handle_at open_by_handle_at lookup_dcookie vhangup nfsservctl setdomainname sethostname clone3
"""


def test_what_was_promised_is_refused() -> None:
    assert set(PROMISED.split()) <= set(syscalls.names(*syscalls.MAKING, *syscalls.REFUSED))


def test_init_may_do_nothing_that_the_base_refuses() -> None:
    assert set(syscalls.names(syscalls.INIT)) < set(syscalls.names(*syscalls.ALLOWED))


@pytest.mark.parametrize("arch", [pyseccomp.Arch.X86_64, pyseccomp.Arch.AARCH64], ids=["x86_64", "aarch64"])
def test_every_call_that_libseccomp_knows_was_thought_of(arch: int) -> None:
    named = {
        *syscalls.names(*syscalls.ALLOWED, *syscalls.MAKING, *syscalls.REFUSED),
        *(rule.call for rule in syscalls.ALLOWED_WITH),
    }
    known = set()
    for number in range(457):  # newer ones are refused as unknown until somebody has thought of them
        try:
            known.add(pyseccomp.resolve_syscall(arch, number).decode())
        except ValueError:
            continue
    assert len(known) > 250
    assert known - named == set()


def test_the_page_is_made_from_the_table() -> None:
    text = seccomp_page.page()
    assert text == (ROOT / "docs/seccomp.md").read_text(), "python -m sandbox.seccomp_page > docs/seccomp.md"
    assert all(f"`{name}`" in text for name in syscalls.names(*syscalls.ALLOWED, *syscalls.MAKING, *syscalls.REFUSED, syscalls.INIT))
    assert all(f"`{rule.shown}`" in text for rule in (*syscalls.ALLOWED_WITH, *syscalls.REFUSED_WITH))


# What it answers --------------------------------------------------------------------------------------------------------------


def test_each_refused_call_is_refused_with_the_errno_of_the_table() -> None:
    assert told(BY_NUMBER) == {probe.name: probe.told for probe in BY_NUMBER}


def test_calls_are_refused_by_their_arguments() -> None:
    assert told(BY_ARGUMENT) == {probe.name: probe.told for probe in BY_ARGUMENT}


def test_what_is_allowed_is_answered_by_the_kernel() -> None:
    assert told(LIKE_OUTSIDE) == {probe.name: probe.told for probe in LIKE_OUTSIDE}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine lacks x32 and i386")
def test_the_32_bit_interfaces_are_not_there() -> None:
    assert told([X32_GETPID]) == {X32_GETPID.name: errno.ENOSYS}
    if int(str(ask((), "32 bit"))) > 0:  # else this kernel has none anyway
        assert ask(("base", "worker"), "32 bit") == -errno.ENOSYS


def test_the_base_alone_lets_a_sandbox_be_made() -> None:
    making = [probe for probe in BY_NUMBER if probe.call in syscalls.names(*syscalls.MAKING)]
    answers = ask(("base",), [probe.to_json() for probe in making])
    assert isinstance(answers, list)
    assert making
    assert all(answer not in (errno.ENOSYS, errno.EPERM) for answer in answers)


def test_init_can_wait_and_nothing_else() -> None:
    texts = [base64.b64encode(FILTERS[name]).decode() for name in ("base", "init")]
    done = subprocess.run([sys.executable, "-c", INIT_PROGRAM, str(ROOT), *texts], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, b"as told"), done.stderr.decode()


def test_a_call_above_the_table_is_enosys_ahead_of_everything() -> None:
    highest = int.from_bytes(FILTERS["base"][12:16], sys.byteorder)
    numbers = [probe.number for probe in BY_NUMBER]
    assert max(numbers) <= highest < 1000
    below, above = Probe("", highest, (-1,) * 6, 0), Probe("", highest + 1, (-1,) * 6, 0)
    assert isinstance(answers := ask(("base", "worker"), [below.to_json(), above.to_json()]), list)
    assert answers[0] != errno.ENOSYS
    assert answers[1] == errno.ENOSYS


# What may be missing ------------------------------------------------------------------------------------------------------------

MISSING = r"""
import ctypes.util, sys
sys.path.insert(0, sys.argv[1])
found = ctypes.util.find_library
ctypes.util.find_library = lambda name: None if name == "seccomp" else found(name)
from sandbox import errors, seccomp
try:
    seccomp.compile_filters()
except errors.ConfigError as error:
    print(error.message, "|", error.hint)
"""


def test_a_host_without_libseccomp_is_told_what_to_install() -> None:
    told = subprocess.check_output([sys.executable, "-c", MISSING, str(ROOT)], timeout=30).decode()
    assert told.startswith("libseccomp can't be used: ")
    assert "apt-get install libseccomp2" in told


def test_a_libseccomp_that_cannot_compile_is_an_error_not_a_weaker_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, "no")

    monkeypatch.setattr(pyseccomp.SyscallFilter, "add_rule", refuse)
    with pytest.raises(ConfigError, match="can't compile"):
        seccomp.compile_filters()


@pytest.mark.parametrize("name", ["openat2", "io_uring_setup", "clone3"])
def test_an_old_libseccomp_that_lacks_a_name_leaves_it_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    known = pyseccomp.resolve_syscall
    monkeypatch.setattr(pyseccomp, "resolve_syscall", lambda arch, wanted: -1 if wanted == name else known(arch, wanted))
    older = seccomp.compile_filters()
    monkeypatch.undo()
    monkeypatch.setitem(FILTERS, "base", older["base"])  # type: ignore[arg-type]
    answers = ask(("base",), [Probe(name, name, (-1,) * 6, 0).to_json()])
    assert answers == [errno.EPERM]


def test_an_old_libseccomp_without_the_tree_makes_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    known = pyseccomp.SyscallFilter.set_attr

    def older(self: object, attr: int, value: int) -> None:
        if attr == pyseccomp.Attr.CTL_OPTIMIZE:
            raise OSError(errno.EOPNOTSUPP, "no")
        known(self, attr, value)

    monkeypatch.setattr(pyseccomp.SyscallFilter, "set_attr", older)
    assert len(seccomp.compile_filters()["base"]) < len(FILTERS["base"])
