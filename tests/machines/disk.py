"""The machine's disk: Debian 12 from the archive, made once for each set of inputs and kept in the cache directory.

    <cache>/<key>/disk.raw  vmlinuz  initrd          the key is a digest of everything named in this file

A run never writes to it: QEMU puts an overlay of the run's own in front.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUITE: Final = "bookworm"
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "linux-image-cloud-amd64", "initramfs-tools", "procps", "iproute2", "curl"),
    # What scripts/install would fetch: the machine has no network, the wheels come with the parcel.
    *("python3", "python3-venv", "libseccomp2", "libnftables1", "libcap2"),
)
SIZE: Final = "6G"
LEFT_OUT: Final = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
#: Only what this machine's virtual hardware needs: unpacking Debian's usual 40 MB takes an emulated processor ten seconds.
MODULES: Final = ("virtio_pci", "virtio_blk", "ext4")
INITRAMFS: Final = "MODULES=list\nCOMPRESS=lz4\n"

TRIAL: Final = """\
[Unit]
Description=Install Hearth and run the tests of the parcel
After=multi-user.target dbus.service
[Service]
Type=exec
ExecStart=/bin/bash -c 'mkdir -p /srv/parcel && mount LABEL=parcel /srv/parcel && exec /bin/bash /srv/parcel/start'
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
Restart=no
TimeoutStopSec=20
[Install]
WantedBy=graphical.target
"""
FILES: Final = {
    "etc/systemd/system/hearth-trial.service": TRIAL,
    "etc/fstab": "/dev/vda / ext4 rw,noatime 0 0\n",
    "etc/hostname": "trial\n",
    "etc/hosts": "127.0.0.1 localhost trial\n",
    "etc/initramfs-tools/conf.d/trial": INITRAMFS,
    "usr/share/initramfs-tools/modules.d/trial": "\n".join(MODULES) + "\n",
    "etc/systemd/journald.conf.d/trial.conf": "[Journal]\nStorage=persistent\n",
}
#: Nothing of them is tested, and each costs an emulated processor seconds.
MASKED: Final = (
    "systemd-timesyncd",
    "systemd-networkd",
    "systemd-resolved",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Disk:
    image: Path
    kernel: Path
    initrd: Path


def key() -> str:
    inputs = repr((SUITE, PACKAGES, SIZE, LEFT_OUT, sorted(FILES.items()), MASKED))
    return hashlib.sha256(inputs.encode()).hexdigest()[:16]


def ready(cache: Path, say: Say) -> Disk:
    """The disk, built if its inputs have changed. Raises CalledProcessError when the archive or a tool fails."""
    folder = cache / key()
    disk = Disk(folder / "disk.raw", folder / "vmlinuz", folder / "initrd")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _build(cache, folder, say)
    return disk


def _build(cache: Path, folder: Path, say: Say) -> None:
    say(f"building a Debian 12 disk ({len(PACKAGES)} packages and what they need; two minutes, then kept in {folder})")
    with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as name:
        work = Path(name)
        root, made = work / "root", work / "made"
        made.mkdir()
        _bootstrap(root, work)
        say("writing the disk")
        # What apt fetched for this is of no use to the machine.
        for path in (*root.glob("var/cache/apt/archives/*.deb"), *root.glob("var/lib/apt/lists/*Packages*")):
            path.unlink()
        shutil.copy(max(root.glob("boot/vmlinuz-*")), made / "vmlinuz")
        shutil.copy(max(root.glob("boot/initrd.img-*")), made / "initrd")
        _run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(made / "disk.raw"), SIZE])
        os.rename(made, folder)
        _forget_older(cache, folder)


def _bootstrap(root: Path, work: Path) -> None:
    files = work / "files"
    for name, text in FILES.items():
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text(text)
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    hooks = [
        # before the kernel is configured, which makes the initramfs
        f'--extract-hook=cp -a {files}/. "$1"/',
        f'--customize-hook=chroot "$1" systemctl enable -q hearth-trial.service && chroot "$1" systemctl mask -q {" ".join(MASKED)}',
        '--customize-hook=chroot "$1" systemctl set-default -q graphical.target',
    ]
    command = ["mmdebstrap", "--quiet", "--variant=minbase", '--aptopt=Acquire::Languages "none"', *options, *hooks]
    _run([*command, f"--include={','.join(PACKAGES)}", SUITE, str(root)])


def _run(command: list[str]) -> None:
    """Its output only where it fails."""
    done = subprocess.run(["nice", "-n", "10", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command[0], done.stdout[-3000:])


def _forget_older(cache: Path, folder: Path) -> None:
    """One disk takes a gigabyte; those of former inputs go."""
    for other in cache.iterdir():
        if other.is_dir() and other != folder and len(other.name) == len(folder.name) and (other / "disk.raw").exists():
            shutil.rmtree(other)
