"""A function's layers as one read-only mount for /opt, merged in order: later ones win."""

from __future__ import annotations

from sandbox.errors import ImageError


class Layers:
    """Layers are published by later work; a function that names one cannot be made before they exist."""

    def mount(self, digests: tuple[str, ...]) -> int | None:
        """A detached mount, the caller's to close; None where there are none. Raises ImageError for an unknown layer."""
        if digests:
            raise ImageError(f"layer {digests[0][:12]} is not in the store", hint="publish it first")
        return None
