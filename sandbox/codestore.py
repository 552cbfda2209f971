"""Opening what is in the code store, as root. The store is the unprivileged API's: everything beneath it may have been exchanged."""

from __future__ import annotations

import os

from sandbox.errors import ImageError
from sandbox.kernel import filesystem
from sandbox.settings import Settings


class CodeStore:
    """Unpacked packages, code and layers alike, by their digest. Knows nothing but the way in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def open(self, digest: str, what: str = "code") -> int:
        """The package's directory, O_PATH, the caller's to close. Raises ImageError if it is not there.

        No symbolic link is followed below the state directory, the store's own name included.
        """
        if not digest or "/" in digest or digest.startswith("."):
            raise ImageError(f"{digest!r} is not a {what} digest")
        state = os.open(self._settings.state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return filesystem.open_beneath(state, f"{self._settings.code_dir.name}/{digest}", os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise ImageError(
                f"{what} {digest[:12]} is not in the store: {os.strerror(error.errno or 0)}", hint="deploy the function again"
            ) from error
        finally:
            os.close(state)
