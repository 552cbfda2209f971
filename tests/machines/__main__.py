"""`scripts/vm`: a Debian 12 machine with systemd, Hearth installed by scripts/install as an operator would, and a list of tests.

Exit status: 0 all tests passed · 1 tests failed · 3 the machine never got there (there was nothing to install, it did not boot, install, or
end in time) · 4 no machine can be made here (QEMU or the archive is missing) · 2 wrong usage.
"""

from __future__ import annotations

import argparse
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.machines import disk, parcel, qemu, results

PASSED, FAILED, NEVER_GOT_THERE, NOT_HERE = 0, 1, 3, 4
CACHE = Path("/var/cache/hearth-vm")


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(NEVER_GOT_THERE))  # so that the machine goes too
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"vm {options.cgroup} {time.monotonic() - began:4.0f} s | {line}", flush=True)

    try:
        made = disk.ready(options.cache, say)
    except (OSError, subprocess.CalledProcessError) as error:
        say(f"no disk: {getattr(error, 'output', None) or error}")
        return NOT_HERE
    with tempfile.TemporaryDirectory(prefix="hearth-vm-", dir=options.cache) as name:
        work = Path(name)
        boots = [options.pytest or ["tests/vm"]] + ([options.reboot.split()] if options.reboot else [])
        try:
            parcel.write(work / "parcel.raw", work, options.cache, boots, say)
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"the machine never got there, nothing to install: {getattr(error, 'output', None) or error}")
            return NEVER_GOT_THERE
        with (work / "results.raw").open("wb") as file:
            file.truncate(64 << 20)
        overlay = work / "overlay.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(made.image), str(overlay)], check=True)
        accel = qemu.accelerator(made, work) if options.accel == "auto" else options.accel
        say(f"booting with {'KVM' if accel == 'kvm' else 'emulation (slow)'}")
        machine = qemu.boot(made, overlay, work / "parcel.raw", work / "results.raw", work, cgroup=options.cgroup, accel=accel)
        ended = machine.wait(options.timeout, say)
        found = results.read(work / "results.raw", len(boots))
        if options.results:
            results.keep(found, options.results, options.cgroup, machine.console)
        if not ended or found.status != "complete":
            say(f"the machine never got there: {found.status or ('no result' if ended else f'not within {options.timeout} s')}")
            for line in machine.console.read_text(errors="replace").splitlines()[-30:] + found.journal.splitlines()[-40:]:
                say(f"  {line}")
            return NEVER_GOT_THERE
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        say(f"{found.summary()}; this host's processors spent {used.ru_utime + used.ru_stime:.0f} s on it")
        return PASSED if found.passed else FAILED


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/vm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cgroup", choices=sorted(qemu.CGROUPS), default="unified")
    parser.add_argument("--accel", choices=["auto", "kvm", "tcg"], default="auto")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for everything")
    parser.add_argument("--results", type=Path, help="directory for JUnit files, the console and the journal")
    parser.add_argument("--reboot", default="", help="then restart the machine and give pytest these arguments")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest (after --); default tests/vm")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
