"""Starting a machine: which accelerator works here, the command line, the console.

/dev/kvm alone proves nothing: some hosts have one under which Debian's kernel hangs. So a kernel is given a few seconds to say its name.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.machines.disk import Disk

MEMORY_MB: Final = 2048
CPUS: Final = 2
KVM_TRIAL_SECONDS: Final = 10
POLL_SECONDS: Final = 0.2
#: Longer than that between two looks, and it was not the machine that took the time.
LONGEST_POLL_SECONDS: Final = 2.0
#: Drivers that udev would load for what an emulated processor says it has.
UNUSED: Final = "kvm,kvm_amd,kvm_intel,powernow_k8,aesni_intel,cryptd,ghash_clmulni_intel,psmouse,evdev,button"
#: no_timer_check: an emulator that gets little of a busy processor fails the kernel's trial of its timer.
KERNEL: Final = (
    f"console=ttyS0 no_timer_check root=/dev/vda rw quiet systemd.show_status=0 loglevel=4 net.ifnames=0 module_blacklist={UNUSED}"
)
CGROUPS: Final = {
    "unified": "systemd.unified_cgroup_hierarchy=1",
    "hybrid": "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0",
    "legacy": "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1",
}


def accelerator(disk: Disk, work: Path) -> str:
    """ "kvm" where a kernel says its name under it within seconds, else "tcg"."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    console = work / "kvm-trial.log"
    command = [*_base(disk, "kvm"), "-m", "512", "-append", "console=ttyS0", "-serial", f"file:{console}", "-no-reboot"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + KVM_TRIAL_SECONDS
    works = False
    while not works and process.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        # Not its first lines: where it hangs, it hangs after those.
        works = console.exists() and b"Run /init" in console.read_bytes()
    process.kill()
    process.wait()
    return "kvm" if works else "tcg"


def _base(disk: Disk, accel: str) -> list[str]:
    cpu = "host" if accel == "kvm" else "max"
    accels = "kvm" if accel == "kvm" else "tcg,thread=multi"
    machine = ["qemu-system-x86_64", "-M", "q35", "-accel", accels, "-cpu", cpu, "-smp", str(CPUS)]
    return [
        "nice",
        "-n",
        "10",
        *machine,
        "-display",
        "none",
        "-monitor",
        "none",
        "-nic",
        "none",
        "-kernel",
        str(disk.kernel),
        "-initrd",
        str(disk.initrd),
    ]


@dataclass(slots=True)
class Machine:
    """One life of a machine, reboots included. It ends by powering itself off."""

    process: subprocess.Popen[bytes]
    console: Path
    progress: Path

    def wait(self, timeout_seconds: float, say: Callable[[str], None]) -> bool:
        """Pass on what it says, line by line; False when it did not end in time, and then it has been killed.

        While it is stopped, or this host was, its time does not run.
        """
        left, last, shown = timeout_seconds, time.monotonic(), 0
        try:
            while True:
                ended = self.process.poll() is not None
                text = self.progress.read_bytes() if self.progress.exists() else b""
                end = len(text) if ended else text.rfind(b"\n") + 1
                for line in text[shown:end].decode(errors="replace").splitlines():
                    say(line.rstrip())
                shown = max(shown, end)
                if ended:
                    return True
                if left < 0:
                    return False
                time.sleep(POLL_SECONDS)
                now = time.monotonic()
                left, last = left - (0 if self._is_stopped() else min(now - last, LONGEST_POLL_SECONDS)), now
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def _is_stopped(self) -> bool:
        """proc(5): the state follows the name, which is in parentheses."""
        try:
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].startswith("T")
        except FileNotFoundError:
            return False


def boot(disk: Disk, overlay: Path, parcel: Path, results: Path, work: Path, *, cgroup: str, accel: str) -> Machine:
    """vda is the system (an overlay), vdb the parcel, vdc takes the results: a tar file and nothing else."""
    console, progress = work / "console.log", work / "progress.log"
    drives = [(overlay, "qcow2"), (parcel, "raw"), (results, "raw")]
    command = [*_base(disk, accel), "-m", str(MEMORY_MB), "-append", f"{KERNEL} {CGROUPS[cgroup]}"]
    for file, form in drives:
        command += ["-drive", f"file={file},format={form},if=virtio,cache=unsafe"]
    command += ["-serial", f"file:{console}", "-serial", f"file:{progress}"]
    errors = (work / "qemu.log").open("wb")
    with errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    return Machine(process, console, progress)
