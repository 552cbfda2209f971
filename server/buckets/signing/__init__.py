"""Signatures: AWS's version 4 (header, query, chunks) and 2, and COS's q-sign. Pure functions over a Call; nobody here knows a secret.

`read` finds what a request claims, `Claim.check` holds it against the secret. Sources: AWS "Signature Version 4 for S3" and
"Authenticating requests (version 2)", COS "请求签名" (document 7778), RFC 2104.
"""

from __future__ import annotations

from server.buckets.call import Call
from server.buckets.signing import qsign, sigv2, sigv4
from server.buckets.signing.model import Claim, Payload

__all__ = ["Claim", "Payload", "read"]


def read(call: Call) -> Claim | None:
    """The claim of a request; None for one without a signature. Raises BucketError for one that can't be read."""
    for scheme in (sigv4, sigv2, qsign):
        claim: Claim | None = scheme.read(call)
        if claim is not None:
            return claim
    return None
