"""What clients ask of a bucket or an object besides its content: `?location`, `?acl`, `?versioning`. Short answers, all of them true."""

from __future__ import annotations

from typing import Any, Final

from server.buckets.answer import Answer, xml_answer
from server.buckets.errors import BucketError
from server.buckets.operations.ask import PRIVATE, Ask
from server.buckets.operations.buckets import owner

#: A bucket's configuration that is empty, by its root element.
EMPTY: Final = {
    "versioning": "VersioningConfiguration",
    "logging": "BucketLoggingStatus",
    "notification": "NotificationConfiguration",
    "accelerate": "AccelerateConfiguration",
}
#: One that doesn't exist, by the code that says so.
ABSENT: Final = {
    "cors": "NoSuchCORSConfiguration",
    "encryption": "ServerSideEncryptionConfigurationNotFoundError",
    "lifecycle": "NoSuchLifecycleConfiguration",
    "object-lock": "ObjectLockConfigurationNotFoundError",
    "policy": "NoSuchBucketPolicy",
    "replication": "ReplicationConfigurationNotFoundError",
    "tagging": "NoSuchTagSet",
    "website": "NoSuchWebsiteConfiguration",
}
XSI: Final = 'Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"'


async def get_location(ask: Ask) -> Answer:
    await ask.own_bucket()
    return xml_answer(ask.dialect, "LocationConstraint", ask.services.settings.region)


async def get_bucket_acl(ask: Ask) -> Answer:
    await ask.own_bucket()
    return _acl(ask)


async def get_object_acl(ask: Ask) -> Answer:
    await _require_object(ask)
    return _acl(ask)


def _acl(ask: Ask) -> Answer:
    grantee: tuple[str, Any] = (XSI, owner(ask))
    grants = [("Grant", [grantee, ("Permission", "FULL_CONTROL")])]
    return xml_answer(ask.dialect, "AccessControlPolicy", [("Owner", owner(ask)), ("AccessControlList", grants)])


async def put_acl(ask: Ask) -> Answer:
    """`private` is what everything is; anything else there is not."""
    if ask.key:
        await _require_object(ask)
    else:
        await ask.own_bucket()
    length = ask.call.headers.get("content-length", "0")
    if ask.call.header("acl") not in PRIVATE[1:] or length != "0" or any("grant-" in name for name in ask.call.headers):
        raise BucketError("NotImplemented", "every bucket and object is private here")
    return Answer()


async def get_object_tagging(ask: Ask) -> Answer:
    await _require_object(ask)
    return xml_answer(ask.dialect, "Tagging", [("TagSet", [])])


async def get_payment(ask: Ask) -> Answer:
    await ask.own_bucket()
    return xml_answer(ask.dialect, "RequestPaymentConfiguration", [("Payer", "BucketOwner")])


async def get_configuration(ask: Ask) -> Answer:
    await ask.own_bucket()
    name = next(name for name in ask.call.params if name in EMPTY or name in ABSENT)
    if name in ABSENT:
        raise BucketError(ABSENT[name], BucketName=ask.bucket)
    return xml_answer(ask.dialect, EMPTY[name], [])


async def _require_object(ask: Ask) -> None:
    await ask.own_bucket()
    await ask.services.lookups.run(ask.services.objects.get, ask.bucket, ask.key)
