"""The code store: packages unpacked once, under the SHA-256 of their zip.

    code_dir/<digest>/          the tree that sandboxes mount; it exists only when it is whole
    code_dir/<digest>.zip       the zip as it came
    code_dir/<digest>.unused    since when (its mtime) no function has used it
    code_dir/.tmp-…/            an upload in progress, flocked by the process that makes it
    code_dir/.lock              held for every change of names

Any number of processes may use one store. Everything in it may be read by anybody: sandboxes have uids of their own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from sandbox.settings import Settings
from server.errors import NotFound
from server.functions.handlers import require_handler
from server.functions.unpack import CHUNK_BYTES, fsync, unpack
from server.functions.zipscan import Limits, open_zip, scan

#: Longer than the longest call and the keep-alive of its worker: a sandbox of an old generation may still read its code.
COLLECT_GRACE_SECONDS: Final = 3600.0
SIZES_KEPT: Final = 4096
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TEMPORARY: Final = ".tmp-"


class CodeStore:
    """Packages by digest. Call `open()` once in a process before anything else."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.code_dir
        self._limits = Limits(settings.limit_unpacked_bytes, settings.limit_unpacked_files)
        self._sizes: dict[str, int] = {}

    def open(self) -> None:
        """Make the directory where it is missing and sweep the uploads of dead processes."""
        self._root.mkdir(parents=True, exist_ok=True)
        self._root.chmod(0o755)
        with self._locked():
            for path in self._root.glob(f"{_TEMPORARY}*"):
                _remove_if_dead(path)

    def put_zip(self, data: bytes | BinaryIO, *, handler: str = "", runtime: str = "") -> str:
        """Unpack a zip and return its digest; when it is known, nothing but that.

        With `handler` and `runtime` the package must hold the handler's file. Raises BadRequest or PayloadTooLarge, and then
        nothing of the package is left.
        """
        file = BytesIO(data) if isinstance(data, bytes) else data
        digest = _digest(file)
        if not self._keep(digest):
            self._add(digest, file, lambda tree: require_handler(tree, handler, runtime))
        elif handler:
            self.check_handler(digest, handler, runtime)
        return digest

    def path(self, digest: str) -> Path:
        """The unpacked tree. Raises NotFound."""
        if not _DIGEST.fullmatch(digest) or not (self._root / digest).is_dir():
            raise NotFound(f"code {digest!r} is not in the store")
        return self._root / digest

    def read_zip(self, digest: str) -> bytes:
        """The zip as it was uploaded. Raises NotFound."""
        return Path(f"{self.path(digest)}.zip").read_bytes()

    def unpacked_bytes(self, digest: str) -> int:
        """What the tree's files come to; counted once, since it never changes. Raises NotFound."""
        tree = self.path(digest)
        if digest not in self._sizes:
            if len(self._sizes) >= SIZES_KEPT:
                self._sizes.clear()
            self._sizes[digest] = sum(os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(tree) for name in names)
        return self._sizes[digest]

    def check_handler(self, digest: str, handler: str, runtime: str) -> None:
        """Raise BadRequest when the package has no file for the handler; whether the name is in it, its first call tells."""
        require_handler(self.path(digest), handler, runtime)

    def collect(self, used: Iterable[str], *, grace_seconds: float = COLLECT_GRACE_SECONDS) -> list[str]:
        """Remove the packages that have been unused for `grace_seconds`; return their digests.

        A package is first marked, and removed by a later call when the mark has aged.
        """
        keep, removed, now = set(used), [], time.time()
        with self._locked():
            for tree in [path for path in self._root.iterdir() if _DIGEST.fullmatch(path.name)]:
                if tree.name in keep:
                    self._mark(tree.name).unlink(missing_ok=True)
                elif self._unused_since(tree.name, now) + grace_seconds <= now:
                    self._drop(tree)
                    removed.append(tree.name)
        return removed

    def _keep(self, digest: str) -> bool:
        """Whether it is there; if so it counts as used again, so that no `collect` takes it before its function is stored."""
        with self._locked():
            if not (self._root / digest).is_dir():
                return False
            self._mark(digest).unlink(missing_ok=True)
            return True

    def _add(self, digest: str, file: BinaryIO, check: Callable[[Path], None]) -> None:
        with self._temporary() as place:
            tree = place / "root"
            tree.mkdir()
            tree.chmod(0o755)
            with open_zip(file, self._limits) as archive:
                unpack(archive, scan(archive, self._limits), tree, self._limits)
            check(tree)
            _copy(file, place / "code.zip")
            with self._locked():
                if not (self._root / digest).is_dir():
                    os.rename(place / "code.zip", self._root / f"{digest}.zip")
                    os.rename(tree, self._root / digest)
                    fsync(self._root)
                self._mark(digest).unlink(missing_ok=True)

    def _mark(self, digest: str) -> Path:
        return self._root / f"{digest}.unused"

    def _unused_since(self, digest: str, now: float) -> float:
        try:
            return self._mark(digest).stat().st_mtime
        except FileNotFoundError:
            self._mark(digest).touch()
            return now

    def _drop(self, tree: Path) -> None:
        # Renamed first: under its digest a tree is whole or not there.
        doomed = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._root))
        os.rename(tree, doomed / "root")
        for suffix in (".zip", ".unused"):
            Path(f"{tree}{suffix}").unlink(missing_ok=True)
        shutil.rmtree(doomed)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A directory that goes in any case: with this block, or with the next `open()` if this process dies in it."""
        with self._locked():
            place = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._root))
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
            os.close(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _copy(file: BinaryIO, target: Path) -> None:
    file.seek(0)
    with open(target, "xb") as out:
        shutil.copyfileobj(file, out, CHUNK_BYTES)
        out.flush()
        os.fsync(out.fileno())


def _remove_if_dead(place: Path) -> None:
    """Its maker holds a lock on it for as long as it lives."""
    with suppress(FileNotFoundError):
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place)
        except BlockingIOError:
            return
        finally:
            os.close(descriptor)
