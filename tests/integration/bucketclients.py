"""The stock clients, pointed at a BucketServer, each closed with its block."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import boto3
import requests
from botocore.config import Config
from qcloud_cos import CosConfig, CosS3Client

from tests.integration.bucketserver import SECRET_ID, SECRET_KEY, BucketServer


@contextmanager
def localhost_names() -> Iterator[None]:
    """`anything.localhost` is this machine (RFC 6761 section 6.3), also where no resolver knows it."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        return real("127.0.0.1" if isinstance(host, str) and host.endswith("localhost") else host, *rest, **more)

    with mock.patch("socket.getaddrinfo", getaddrinfo):
        yield


@contextmanager
def s3(
    server: BucketServer, secret: tuple[str, str] = (SECRET_ID, SECRET_KEY), url: str = "", token: str = "", **config: Any
) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        endpoint_url=url or server.url,
        aws_access_key_id=secret[0],
        aws_secret_access_key=secret[1],
        aws_session_token=token or None,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 1}, **config),
    )
    try:
        yield client
    finally:
        client.close()


@contextmanager
def cos(server: BucketServer, secret: tuple[str, str] = (SECRET_ID, SECRET_KEY), **config: Any) -> Iterator[Any]:
    """With `Domain=` unless told otherwise; the bucket is then the one that the setting maps to this address."""
    with _cos(secret, **({"Domain": f"127.0.0.1:{server.port}"} if "Endpoint" not in config else {}), **config) as client:
        yield client


@contextmanager
def cos_at(port: int, secret: tuple[str, str]) -> Iterator[Any]:
    """Of a service by its port, buckets as names of `localhost` (see `localhost_names`)."""
    with _cos(secret, Endpoint=f"localhost:{port}") as client:
        yield client


@contextmanager
def _cos(secret: tuple[str, str], **config: Any) -> Iterator[Any]:
    session = requests.Session()
    session.trust_env = False
    client = CosS3Client(
        CosConfig(Region="local", SecretId=secret[0], SecretKey=secret[1], Scheme="http", **config), retry=0, session=session
    )
    try:
        yield client
    finally:
        session.close()
