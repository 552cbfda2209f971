"""An archive as a stream: compression told by its first bytes, digest and progress taken on the way.

file ─▶ Source (sha256, bytes read, progress) ─▶ decompressor ─▶ Plain (remembers the end) ─▶ tarfile "r|"
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import hashlib
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, Final, Self, cast

import zstandard

from sandbox.errors import ImageError
from sandbox.imaging import Progress

_CHUNK: Final = 1 << 20
_PROGRESS_STEP_BYTES: Final = 4 << 20
_BLOCK: Final = 512
_MAX_HEADER_BYTES: Final = 1 << 20
_MAX_TRAILER_BYTES: Final = 64 << 20
_ZSTD_WINDOW_BYTES: Final = 1 << 31  # what `zstd --ultra --long=31` writes

_MAGIC: Final = {
    b"\x1f\x8b": "gz",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zst",
}
_NOT_FOR_US: Final = {
    b"PK\x03\x04": "a zip file",
    b"\xed\xab\xee\xdb": "an RPM package",
    b"!<arch>": "a Debian package",
    b"hsqs": "a squashfs",
}

#: Everything that reading a damaged archive raises, in tarfile and below it.
DAMAGED: Final = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, ValueError)

#: What a file of ours may fail with that says nothing about the archive.
_OURS: Final = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "the disk is read-only"}

# tarfile reads these members whole, into memory: none of them has a reason to be large.
_HEADER_TYPES: Final = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class Source(io.RawIOBase):
    """The archive file: counts, hashes and reports what is read through it."""

    def __init__(self, file: IO[bytes], total: int, progress: Progress) -> None:
        self._file, self._total, self._progress = file, total, progress
        self._hash = hashlib.sha256()
        self._done = self._reported = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._hash.update(memoryview(buffer)[:count])
        self._done += count
        if self._done - self._reported >= _PROGRESS_STEP_BYTES or not count:
            self._reported = self._done
            self._progress(self._done, self._total, "unpacking")
        return count

    def finish(self) -> str:
        """Read what is left and return the SHA-256 of the whole file."""
        while self.read(_CHUNK):
            continue
        return self._hash.hexdigest()


class Plain:
    """The decompressed stream as tarfile wants it. `ended` tells whether the archive's end marker was really there; a layer has its
    digest for that, told as `sha256` if asked for."""

    def __init__(self, stream: IO[bytes], *, hashed: bool = False) -> None:
        self._stream = stream
        self._tail = b""
        self._hash = hashlib.sha256() if hashed else None

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._tail = (self._tail + data)[-_BLOCK:] if len(data) < _BLOCK else data[-_BLOCK:]
        if self._hash is not None:
            self._hash.update(data)
        return data

    def ended(self) -> bool:
        """Read to the end, so that checksums are verified. tarfile takes a cut between two members for the end; zeros prove it."""
        return self._drain() and self._tail == bytes(_BLOCK)

    def sha256(self) -> str:
        """Read to the end; the digest of all of it, "" if that is longer than an archive has reason to be."""
        if self._hash is None or not self._drain():
            return ""
        return self._hash.hexdigest()

    def _drain(self) -> bool:
        left = _MAX_TRAILER_BYTES
        while left > 0 and (data := self.read(_CHUNK)):
            left -= len(data)
        return left > 0


class _Member(tarfile.TarInfo):
    """A header that is refused before tarfile reads gigabytes of it into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADER_TYPES and member.size > _MAX_HEADER_BYTES:
            raise ImageError(f"archive has a header of {member.size} bytes")
        return member


@contextlib.contextmanager
def opened(
    path: str | os.PathLike[str], progress: Progress, *, shown: str = "", hashed: bool = False
) -> Iterator[tuple[tarfile.TarFile, Plain, Source]]:
    """Open an archive for one pass. Raises ImageError for what is no tarball; reading on may raise any of DAMAGED.

    Errors call it `shown`, if that is given. `hashed` takes the digest of the decompressed bytes too.
    """
    shown = shown or os.fspath(path)
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115 closed below, with what is stacked on it
    except OSError as error:
        raise ImageError(f"{shown}: {error.strerror}") from error
    with file:
        kind = _kind(file, shown)
        source = Source(file, os.fstat(file.fileno()).st_size, progress)
        plain = Plain(_decompressed(io.BufferedReader(source, _CHUNK), kind), hashed=hashed)
        try:
            archive = tarfile.open(fileobj=cast(IO[bytes], plain), mode="r|", tarinfo=_Member, errors="surrogateescape")  # noqa: SIM115
        except DAMAGED as error:
            raise ImageError(f"{shown} is not a tarball, or a damaged one: {error}", hint=_FORMATS) from error
        with archive:
            yield archive, plain, source


def blamed(error: Exception, shown: str, root: str) -> ImageError:
    """What to raise for one of DAMAGED while an archive went to `root`: the disk's fault, or else the archive's."""
    if isinstance(error, OSError) and error.errno in _OURS:
        return ImageError(f"{root}: {_OURS[error.errno]}", hint="HEARTH_HOME names a directory on another disk")
    return ImageError(f"{shown} is damaged: {error}", hint="fetch it again and compare its checksum")


_FORMATS: Final = "a root filesystem, `docker save` or an OCI archive as .tar, .tar.gz, .tar.bz2, .tar.xz or .tar.zst"


def _kind(file: io.FileIO, shown: str) -> str:
    start = file.read(_BLOCK)
    file.seek(0)
    for magic, what in _NOT_FOR_US.items():
        if start.startswith(magic):
            raise ImageError(f"{shown} is {what}", hint=_FORMATS)
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "plain")


def _decompressed(file: io.BufferedReader, kind: str) -> IO[bytes]:
    if kind == "gz":
        return gzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[return-value]
    if kind == "bz2":
        return bz2.BZ2File(file)
    if kind == "xz":
        return lzma.LZMAFile(file)
    if kind == "zst":
        reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).stream_reader(file, read_across_frames=True)
        return io.BufferedReader(reader, _CHUNK)
    return file
