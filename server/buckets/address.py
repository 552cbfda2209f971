"""Which bucket and key a request is about: in its path, in its host name, or by a setting.

path style     http://HOST/bucket/key                     S3 only: HOST is an address, or no rule below knows it
virtual host   http://bucket.DOMAIN/key                   DOMAIN is one of `bucket_domains`, or cos.… / s3.… as the clouds have it
COS            http://bucket-appid.anything/key           COS has no path style: the first label is the bucket
mapped         http://HOST/key, COS only                  `bucket_hosts` says whose bucket HOST is (cos-python-sdk-v5 with Domain=)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.buckets.call import COS, Call
from server.buckets.errors import BucketError

#: What the clouds' own host names look like behind the bucket, for those who point such names at this machine.
_CLOUD = re.compile(r"(?P<bucket>.+?)\.(?:cos|s3)(?:[.-][a-z0-9-]+)*\.(?:myqcloud\.com|tencentcos\.cn|amazonaws\.com)")
_CLOUD_SERVICE = re.compile(r"(?:cos|s3|service\.cos)(?:[.-][a-z0-9-]+)*\.(?:myqcloud\.com|tencentcos\.cn|amazonaws\.com)")
_COS_BUCKET = re.compile(r"(?P<bucket>[a-z0-9][a-z0-9.-]*-\d+)\..+")


@dataclass(frozen=True, slots=True)
class Target:
    """`bucket` is empty for the service itself, `key` for a bucket. `in_host`: the path is the key alone."""

    bucket: str
    key: str
    in_host: bool


@dataclass(frozen=True, slots=True)
class Hosts:
    """`domains`: what may stand behind `bucket.`; `mapped`: host, with or without port, to bucket."""

    domains: Sequence[str]
    mapped: Mapping[str, str]

    def target(self, call: Call) -> Target:
        """Raises BucketError."""
        host = call.host.lower().removeprefix("http://").removeprefix("https://")
        bucket = self.bucket_of(host, cos=call.dialect is COS)
        path = call.path[1:]
        if bucket is not None:
            return Target(bucket, path, in_host=True)
        bucket, _, key = path.partition("/")
        if call.dialect is COS and bucket:
            hint = f"COS requests name their bucket in the host; setting bucket_hosts can say that {host} is one"
            raise BucketError("InvalidBucketName", hint)
        return Target(bucket, key, in_host=False)

    def bucket_of(self, host: str, *, cos: bool = True) -> str | None:
        """The bucket that a host name says; None where it says none."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if cos and (mapped := self.mapped.get(host) or self.mapped.get(name)):
            return mapped
        for domain in self.domains:
            if name.endswith(f".{domain}"):
                return name[: -len(domain) - 1]
        if name in self.domains or _CLOUD_SERVICE.fullmatch(name):
            return None
        match = _CLOUD.fullmatch(name) or (_COS_BUCKET.fullmatch(name) if cos else None)
        return match["bucket"] if match else None
