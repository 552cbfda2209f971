"""`hearth bucket create | ls | rm`: through the bucket service's own protocol (S3), signed with the operator's key."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

import click
import httpx

from server.buckets.access import OPERATOR_ID, operator_key
from server.buckets.signing.sigv4 import ALGORITHM, signing_key
from server.cli.client import load_settings, read_credential
from server.cli.failure import CommandError, NotServed, WrongRequest
from server.cli.output import Column, as_json, print_json, print_table
from server.cli.prepare import base_url

TIMEOUT_SECONDS: Final = 60
BUCKETS: list[Column] = [("BUCKET", lambda row: row["name"]), ("CREATED", lambda row: row["created_at"])]
OBJECTS: list[Column] = [
    ("KEY", lambda row: row["key"]),
    ("SIZE", lambda row: row["size"]),
    ("MODIFIED", lambda row: row["modified_at"]),
    ("ETAG", lambda row: row["etag"]),
]


class BucketApi:
    """A small S3 client: path style, bodies in memory. Closed by its context manager."""

    def __init__(self, url: str, token: str, region: str) -> None:
        self.url, self._key, self._region = url, operator_key(token), region
        self._http = httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False)

    def __enter__(self) -> BucketApi:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def request(self, method: str, path: str, body: bytes = b"", **params: str) -> ElementTree.Element | None:
        """The answer's XML, without namespaces; None for an empty one. Raises CommandError."""
        target, query = quote(path, safe="/-_.~"), urlencode(sorted(params.items()), quote_via=quote, safe="-_.~")
        url = f"{self.url}{target}{'?' if query else ''}{query}"
        try:
            response = self._http.request(method, url, content=body, headers=self._signed(method, target, query, body))
        except httpx.TransportError as error:
            hint = "start it with `hearth up`; HEARTH_BUCKET_LISTEN says where it listens"
            raise NotServed(f"no bucket service answers at {self.url}", hint=hint) from error
        if response.is_error:
            raise _failure(response)
        return _parsed(response.content) if response.content else None

    def _signed(self, method: str, target: str, query: str, body: bytes) -> dict[str, str]:
        digest, timestamp = hashlib.sha256(body).hexdigest(), time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers = {"host": self.url.removeprefix("http://"), "x-amz-content-sha256": digest, "x-amz-date": timestamp}
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        canonical = "\n".join((method, target, query, lines, names, digest))
        scope = f"{timestamp[:8]}/{self._region}/s3/aws4_request"
        text = f"{ALGORITHM}\n{timestamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.new(signing_key(self._key, scope), text.encode(), hashlib.sha256).hexdigest()
        value = f"{ALGORITHM} Credential={OPERATOR_ID}/{scope}, SignedHeaders={names}, Signature={signature}"
        return headers | {"authorization": value}

    def keys(self, bucket: str, prefix: str = "") -> Iterator[dict[str, Any]]:
        """Every object of a bucket."""
        more = {"prefix": prefix, "list-type": "2"}
        while True:
            page = self.request("GET", f"/{bucket}", b"", **more)
            assert page is not None
            for found in page.findall("Contents"):
                text = {child.tag: child.text or "" for child in found}
                size, etag = int(text["Size"]), text["ETag"].strip('"')
                yield {"key": text["Key"], "size": size, "modified_at": text["LastModified"], "etag": etag}
            if page.findtext("IsTruncated") != "true":
                return
            more["continuation-token"] = page.findtext("NextContinuationToken") or ""


def _parsed(content: bytes) -> ElementTree.Element:
    root = ElementTree.fromstring(content)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _failure(response: httpx.Response) -> CommandError:
    text = _parsed(response.content) if response.content else ElementTree.Element("Error")
    message = f"{text.findtext('Code') or response.status_code}: {text.findtext('Message') or response.reason_phrase}"
    if response.status_code == 503:
        return NotServed(message, status=503)
    return (WrongRequest if response.status_code < 500 else CommandError)(message, status=response.status_code)


def open_buckets() -> BucketApi:
    """This machine's own bucket service, with the credential that `hearth up` wrote."""
    settings, token = load_settings(), _token()
    if not settings.bucket_address:
        raise WrongRequest("the bucket service is off", hint="HEARTH_BUCKET_LISTEN is `off`")
    return BucketApi(base_url(settings.bucket_address), token, settings.region)


def _token() -> str:
    token = read_credential(load_settings())
    if token is None:
        raise WrongRequest("the credential can't be read", hint="run it as root")
    return token


@click.group(short_help="Create, list and remove buckets.")
def bucket() -> None:
    """Create, list and remove buckets of the built-in bucket service."""


@bucket.command()
@as_json
def key(json_output: bool) -> None:
    """Print the operator's own secret pair, for clients of S3 and COS. Who has it may do everything here."""
    token = _token()
    pair = {"secret_id": OPERATOR_ID, "secret_key": operator_key(token)}
    if json_output:
        print_json(pair)
    else:
        click.echo(f"{pair['secret_id']} {pair['secret_key']}")


@bucket.command()
@click.argument("name")
def create(name: str) -> None:
    """Create a bucket. For COS clients name it `name-appid`, for example `photos-1250000000`."""
    with open_buckets() as buckets:
        buckets.request("PUT", f"/{name}")
    click.echo(f"created bucket {name}")


@bucket.command()
@click.argument("name", required=False)
@click.option("--prefix", default="", help="Only keys that begin with this.")
@as_json
def ls(name: str | None, prefix: str, json_output: bool) -> None:
    """List the buckets, or the objects of one."""
    with open_buckets() as buckets:
        rows = list(buckets.keys(name, prefix)) if name else _all(buckets)
    if json_output:
        print_json(rows)
    else:
        print_table(rows, OBJECTS if name else BUCKETS, empty="no objects" if name else "no buckets: hearth bucket create NAME")


def _all(buckets: BucketApi) -> list[dict[str, Any]]:
    found = buckets.request("GET", "/")
    assert found is not None
    return [{"name": row.findtext("Name"), "created_at": row.findtext("CreationDate")} for row in found.iter("Bucket")]


@bucket.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Delete what is in it first.")
def rm(name: str, force: bool) -> None:
    """Remove an empty bucket."""
    with open_buckets() as buckets:
        if force:
            for found in list(buckets.keys(name)):
                buckets.request("DELETE", f"/{name}/{found['key']}")
        buckets.request("DELETE", f"/{name}")
    click.echo(f"removed bucket {name}")
