"""nftables by libnftables, the library the `nft` program is made of: text in, one transaction, text out. See libnftables(3), nft(8).

No program is started: sandboxd never forks. The library comes with Debian's libnftables1.
"""

from __future__ import annotations

import ctypes
import errno
import re
from typing import Final

LIBRARY: Final = "libnftables.so.1"
NFT_CTX_DEFAULT: Final = 0


class Nftables:
    """A context of the network namespace its maker was in, for one thread at a time. OSError where the library is missing."""

    def __init__(self) -> None:
        try:
            lib = ctypes.CDLL(LIBRARY, use_errno=True)
        except OSError as error:
            raise OSError(errno.ENOENT, f"{LIBRARY} is missing: apt-get install libnftables1") from error
        lib.nft_ctx_new.argtypes, lib.nft_ctx_new.restype = (ctypes.c_uint32,), ctypes.c_void_p
        lib.nft_ctx_free.argtypes, lib.nft_ctx_free.restype = (ctypes.c_void_p,), None
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(lib, name).argtypes = (ctypes.c_void_p,)
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(lib, name).argtypes, getattr(lib, name).restype = (ctypes.c_void_p,), ctypes.c_char_p
        lib.nft_run_cmd_from_buffer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
        self._lib = lib
        self._context = lib.nft_ctx_new(NFT_CTX_DEFAULT)
        if not self._context:
            raise OSError(ctypes.get_errno() or errno.ENOMEM, "nftables can't be reached")
        lib.nft_ctx_buffer_output(self._context)
        lib.nft_ctx_buffer_error(self._context)

    def __enter__(self) -> Nftables:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._context:
            self._lib.nft_ctx_free(self._context)
            self._context = None

    def run(self, commands: str) -> str:
        """All of it or nothing; what it prints. Raises OSError with the library's first complaint."""
        ctypes.set_errno(0)
        failed = self._lib.nft_run_cmd_from_buffer(self._context, commands.encode())
        number = ctypes.get_errno()
        complaint = (self._lib.nft_ctx_get_error_buffer(self._context) or b"").decode(errors="replace")
        output = (self._lib.nft_ctx_get_output_buffer(self._context) or b"").decode(errors="replace")
        if failed:
            line = next((line for line in complaint.splitlines() if line.strip()), "refused")
            raise OSError(number or errno.EINVAL, f"nftables: {line}")
        return output

    def tables(self, prefix: str) -> list[str]:
        """`FAMILY NAME` of each table whose name starts with `prefix`."""
        found = re.findall(r"^table (\S+) (\S+)$", self.run("list tables"), re.MULTILINE)
        return sorted(f"{family} {name}" for family, name in found if name.startswith(prefix))
