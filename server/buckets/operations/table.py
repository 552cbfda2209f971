"""The table of operations: by what is addressed, method, and the parameter that picks another one. What is not in it is not here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from server.buckets.address import Target
from server.buckets.answer import Answer
from server.buckets.call import Call
from server.buckets.errors import BucketError
from server.buckets.operations import buckets, multipart, objects, subresources
from server.buckets.operations.ask import Ask

#: Parameters that pick an operation, on a bucket and on an object. `uploadId` is looked for first: ?partNumber goes with it.
BUCKET_PICKS: Final = (
    "accelerate acl analytics cors delete domain encryption intelligent-tiering inventory lifecycle location logging metadataTable metrics "
    "notification object-lock origin ownershipControls policy policyStatus publicAccessBlock referer replication requestPayment tagging "
    "uploads versioning versions website session"
).split()
OBJECT_PICKS: Final = "uploadId uploads acl append attributes legal-hold restore retention select tagging torrent".split()


@dataclass(frozen=True, slots=True)
class Operation:
    """`writes`: it needs a key that may do more than read."""

    run: Callable[[Ask], Awaitable[Answer]]
    writes: bool = False

    @property
    def name(self) -> str:
        return getattr(self.run, "__name__", "operation")


def _reads(run: Callable[[Ask], Awaitable[Answer]]) -> Operation:
    return Operation(run)


def _writes(run: Callable[[Ask], Awaitable[Answer]]) -> Operation:
    return Operation(run, writes=True)


SERVICE: Final = {("GET", ""): _reads(buckets.list_buckets)}
BUCKET: Final = {
    ("PUT", ""): _writes(buckets.create_bucket),
    ("HEAD", ""): _reads(buckets.head_bucket),
    ("DELETE", ""): _writes(buckets.delete_bucket),
    ("GET", ""): _reads(buckets.list_objects),
    ("POST", "delete"): _writes(buckets.delete_objects),
    ("GET", "uploads"): _reads(multipart.list_multipart_uploads),
    ("GET", "versions"): _reads(buckets.list_versions),
    ("GET", "location"): _reads(subresources.get_location),
    ("GET", "acl"): _reads(subresources.get_bucket_acl),
    ("PUT", "acl"): _writes(subresources.put_acl),
    ("GET", "requestPayment"): _reads(subresources.get_payment),
    **{("GET", name): _reads(subresources.get_configuration) for name in (*subresources.EMPTY, *subresources.ABSENT)},
}
OBJECT: Final = {
    ("PUT", ""): _writes(objects.put_object),
    ("PUT", "copy"): _writes(objects.copy_object),
    ("GET", ""): _reads(objects.get_object),
    ("HEAD", ""): _reads(objects.head_object),
    ("DELETE", ""): _writes(objects.delete_object),
    ("POST", "uploads"): _writes(multipart.begin_upload),
    ("PUT", "uploadId"): _writes(multipart.put_part),
    ("PUT", "uploadId copy"): _writes(multipart.copy_part),
    ("POST", "uploadId"): _writes(multipart.complete_upload),
    ("DELETE", "uploadId"): _writes(multipart.abort_upload),
    ("GET", "uploadId"): _reads(multipart.list_parts),
    ("GET", "acl"): _reads(subresources.get_object_acl),
    ("PUT", "acl"): _writes(subresources.put_acl),
    ("GET", "tagging"): _reads(subresources.get_object_tagging),
}


def select(call: Call, target: Target) -> Operation:
    """Raises BucketError: NotImplemented, MethodNotAllowed."""
    if not target.bucket:
        table, picks = SERVICE, BUCKET_PICKS
    elif not target.key:
        table, picks = BUCKET, BUCKET_PICKS
    else:
        table, picks = OBJECT, OBJECT_PICKS
    picked = next((name for name in picks if name in call.params), "")
    if table is OBJECT and call.method == "PUT" and call.header("copy-source"):
        picked = f"{picked} copy".strip()
    operation = table.get((call.method, picked))
    if operation is not None:
        return operation
    if picked or call.method == "POST":
        raise BucketError("NotImplemented", f"{call.method} ?{picked}" if picked else "POST of a form")
    raise BucketError("MethodNotAllowed", Method=call.method)
