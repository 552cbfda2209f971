"""Reading a zip's directory with suspicion: every member's name, kind and mode, before anything is written.

A zip is hostile input. `scan` gives back the members to make, in order, or raises BadRequest / PayloadTooLarge with the name of
the one it refuses. It decides by names and headers alone; sizes are counted again while inflating (`unpack`).
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

from server.errors import BadRequest, PayloadTooLarge

Kind = Literal["file", "directory", "symlink"]

MAX_NAME_BYTES: Final = 255
MAX_PATH_BYTES: Final = 2048
MAX_DEPTH: Final = 64
MAX_LINK_BYTES: Final = 1024
#: What we inflate. Their decompressors work in bounded steps; LZMA's dictionary is as large as the header says.
METHODS: Final = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
ENCRYPTED: Final = 0x1 | 0x40
UTF8_NAME: Final = 0x800

# APPNOTE.TXT 4.3.16, 4.3.14, 4.3.12: end of central directory, its zip64 form and locator, one entry.
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_BYTES: Final = 20
_ENTRY = struct.Struct("<4s4B4HL2L5H2L")

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029\ud800-\udfff]")
_DRIVE = re.compile(r"[A-Za-z]:")

#: What zipfile raises for bytes that are not a zip, or not the zip they say.
ZIP_ERRORS: Final = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    struct.error,
    UnicodeError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OverflowError,
    ValueError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one package may come to once unpacked."""

    unpacked_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class Member:
    """One thing to make: `path` is relative, normalised, and safe to join to a directory of ours."""

    path: str
    kind: Kind
    executable: bool
    info: zipfile.ZipInfo


def refuse(name: str, why: str, *, hint: str = "") -> BadRequest:
    """The one form of a refusal: the member's name as printable text, and what is wrong with it."""
    shown = name if len(name) <= 120 else name[:117] + "..."
    return BadRequest(f"code package: {shown!r}: {why}", field="code.zip", code="invalid_code", hint=hint)


def open_zip(file: BinaryIO, limits: Limits) -> zipfile.ZipFile:
    """Open it, having counted its entries first: each costs zipfile half a kilobyte of memory before anyone can object."""
    try:
        entries = _count_entries(file, limits.files)
        if entries > limits.files:
            raise PayloadTooLarge(f"code package: more than {limits.files} files and directories", code="code_too_large")
        archive = zipfile.ZipFile(file)
    except ZIP_ERRORS as error:
        raise BadRequest(
            f"code package: not a readable zip: {_reason(error)}",
            field="code.zip",
            code="invalid_code",
            hint="make it with `zip -r code.zip .` in the code's directory",
        ) from error
    if not archive.infolist():
        raise BadRequest("code package: the zip is empty", field="code.zip", code="invalid_code")
    return archive


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return _CONTROL.sub("?", text[:1].lower() + text[1:])[:200]


def _count_entries(file: BinaryIO, limit: int) -> int:
    """How many entries zipfile would read, at most `limit` + 1."""
    size = file.seek(0, 2)
    tail_start = max(0, size - 65_535 - _END.size)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise zipfile.BadZipFile("no end of central directory; cut short, or not a zip")
    directory_bytes = _END.unpack_from(tail, at)[5]
    end = tail_start + at
    position = end - _LOCATOR_BYTES - _END64.size
    if position >= 0:
        file.seek(position)
        before = file.read(_END64.size + 4)
        if before[:4] == b"PK\6\6" and before[-4:] == b"PK\6\7":
            directory_bytes, end = _END64.unpack_from(before)[8], position
    if directory_bytes > end:
        raise zipfile.BadZipFile("central directory larger than the file")
    file.seek(end - directory_bytes)
    count, left = 0, directory_bytes
    while left >= _ENTRY.size and count <= limit:
        entry = _ENTRY.unpack(file.read(_ENTRY.size))
        if entry[0] != b"PK\1\2":
            raise zipfile.BadZipFile("bad entry in the central directory")
        variable = sum(entry[12:15])
        file.seek(variable, 1)
        left -= _ENTRY.size + variable
        count += 1
    return count


def scan(archive: zipfile.ZipFile, limits: Limits) -> list[Member]:
    """All members, checked against each other. Directories that are only implied are counted too."""
    kinds: dict[str, Kind] = {}
    members: list[Member] = []
    total = 0
    for info in archive.infolist():
        member = _member(info)
        if member is None:
            continue
        total += info.file_size
        if total > limits.unpacked_bytes:
            raise too_large(limits)
        if _enter(kinds, member):
            members.append(member)
        if len(kinds) > limits.files:
            raise PayloadTooLarge(f"code package: more than {limits.files} files and directories", code="code_too_large")
    if "file" not in kinds.values():
        raise BadRequest("code package: there is no file in the zip", field="code.zip", code="invalid_code")
    return members


def too_large(limits: Limits) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"code package: unpacks to more than {limits.unpacked_bytes} bytes",
        code="code_too_large",
        hint="the limit is the setting limit_unpacked_bytes",
    )


def _member(info: zipfile.ZipInfo) -> Member | None:
    """None for an entry that names the root itself."""
    name = _name(info)
    path = _safe_path(name)
    if info.flag_bits & ENCRYPTED:
        raise refuse(name, "is encrypted")
    if info.compress_type not in METHODS:
        raise refuse(name, f"compression method {info.compress_type} is not supported", hint="use deflate")
    mode = info.external_attr >> 16
    kind = _kind(name, mode)
    if kind == "symlink" and info.file_size > MAX_LINK_BYTES:
        raise refuse(name, f"link target of {info.file_size} bytes, limit {MAX_LINK_BYTES}")
    if kind == "directory" and info.file_size:
        raise refuse(name, "a directory with content")
    if not path:
        if kind != "directory":
            raise refuse(name, "is not a file's name")
        return None
    return Member(path, kind, bool(mode & 0o111), info)


def _name(info: zipfile.ZipInfo) -> str:
    """The name as its maker meant it: zipfile reads unmarked bytes as code page 437, most tools write UTF-8 all the same."""
    name = info.orig_filename
    if not info.flag_bits & UTF8_NAME and not name.isascii():
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            return name
    return name


def _safe_path(name: str) -> str:
    if found := _CONTROL.search(name):
        raise refuse(name, f"character {found.group()!r} in a name")
    if "\\" in name:
        raise refuse(name, "backslash in a name", hint="the zip format separates directories with /")
    if name.startswith("/"):
        raise refuse(name, "absolute name")
    if _DRIVE.match(name):
        raise refuse(name, "drive letter in a name")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise refuse(name, "name leads out of the package")
    if len(parts) > MAX_DEPTH:
        raise refuse(name, f"more than {MAX_DEPTH} directories deep")
    path = "/".join(parts)
    if len(path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise refuse(name, f"name too long; the limit is {MAX_NAME_BYTES} bytes a part and {MAX_PATH_BYTES} in all")
    return path


def _kind(name: str, mode: int) -> Kind:
    form = stat.S_IFMT(mode)
    if name.endswith("/") or stat.S_ISDIR(form):
        return "directory"
    if stat.S_ISLNK(form):
        return "symlink"
    if form in (0, stat.S_IFREG):
        return "file"
    raise refuse(name, "neither a file, a directory nor a symbolic link")


def _enter(kinds: dict[str, Kind], member: Member) -> bool:
    """Put it into the tree so far; False for a directory that is there already."""
    before = kinds.get(member.path)
    if before == member.kind == "directory":
        return False
    if before == member.kind:
        raise refuse(member.path, "is in the zip more than once")
    if before is not None:
        raise refuse(member.path, f"is both a {before} and a {member.kind}")
    kinds[member.path] = member.kind
    above = member.path.rpartition("/")[0]
    while above and (known := kinds.setdefault(above, "directory")):
        if known != "directory":
            raise refuse(member.path, f"lies below {above!r}, which is a {known}")
        above = above.rpartition("/")[0]
    return True
