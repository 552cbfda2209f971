"""Secrets at rest: AES-256-GCM under the instance's own key, which the database does not have.

A checker of HMACs needs the secret itself, so a hash won't do. `hearth up` makes the key (`HOME/secrets.key`, root's alone) and
hands it over in HEARTH_SECRETS_KEY; several machines with one database have the same file. Whoever has only the database has no secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sandbox.errors import ConfigError
from sandbox.settings import Settings

ENVIRONMENT: Final = "HEARTH_SECRETS_KEY"
KEY_BYTES: Final = 32
#: NIST SP 800-38D: 96 bits; random ones may be used 2^32 times.
NONCE_BYTES: Final = 12


def vault_key(settings: Settings, environ: Mapping[str, str]) -> str:
    """The key as text: from the environment, else from its file where that may be read; empty where there is none."""
    text = environ.get(ENVIRONMENT, "").strip()
    if not text:
        try:
            text = settings.secrets_key_path.read_text().strip()
        except OSError:
            return ""
    return text


class Vault:
    """Seals and opens with the key, the base64 of 32 bytes. Without one every method raises ConfigError. No secret is ever in a message."""

    def __init__(self, key: str) -> None:
        self._key = _decoded(key) if key else b""

    def seal(self, secret: str, bound_to: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(self._present()).encrypt(nonce, secret.encode(), bound_to)

    def open(self, sealed: bytes, bound_to: bytes) -> str:
        """Raises ConfigError for what was sealed under another key or for something else."""
        try:
            return AESGCM(self._present()).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound_to).decode()
        except (InvalidTag, ValueError) as error:
            raise ConfigError("a stored secret can't be decrypted", hint="was secrets.key replaced, or the row changed?") from error

    def mac(self, purpose: str, message: str) -> str:
        """HMAC-SHA256 in hex under a key derived for one purpose: for what we sign ourselves and check again."""
        key = hmac.digest(self._present(), purpose.encode(), hashlib.sha256)
        return hmac.digest(key, message.encode(), hashlib.sha256).hex()

    def _present(self) -> bytes:
        if not self._key:
            raise ConfigError(f"no key for stored secrets: {ENVIRONMENT} is not set", hint="start with `hearth up`")
        return self._key


def _decoded(text: str) -> bytes:
    try:
        key = base64.urlsafe_b64decode(text)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{ENVIRONMENT} is not the base64 of {KEY_BYTES} bytes", hint="as in secrets.key, which `hearth up` makes")
    return key
