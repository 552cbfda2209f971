"""Objects and their events when the service is killed, the disk is full, clients leave; large objects in little memory; loops."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.integration.bucketclients import s3
from tests.integration.bucketserver import BucketServer, until

WATCHED = {"alpha": [("thumb", {"event": "cos:ObjectCreated:*"}), ("gone", {"event": "cos:ObjectRemove:*", "filter": {"Prefix": "k"}})]}
MB = 1024 * 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BucketServer]:
    server = BucketServer(tmp_path / "home", bindings=WATCHED)
    with s3(server) as client:
        client.create_bucket(Bucket="alpha")
    yield server
    server.stop()


def told(server: BucketServer) -> list[dict[str, Any]]:
    """Every event, as the queue would have it."""
    with closing(sqlite3.connect(server.database)) as database:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("SELECT * FROM told ORDER BY number")]
    for row in rows:
        if row["kind"] == "event":
            row["record"] = json.loads(row["payload"])["Records"][0]
    return rows


def key_of(row: dict[str, Any]) -> str:
    return str(row["record"]["cos"]["cosObject"]["key"]).removeprefix("//alpha/")


def named_files(server: BucketServer) -> set[str]:
    with closing(sqlite3.connect(server.database)) as database:
        return {row[0] for row in database.execute("SELECT file FROM objects UNION SELECT file FROM upload_parts")}


class Writer(threading.Thread):
    """Puts objects of keys of its own, deletes each third of them, remembers what was acknowledged; goes on over every kill."""

    def __init__(self, client: Any, number: int, count: int) -> None:
        super().__init__()
        self._client, self._number, self._count = client, number, count
        self.puts: dict[str, str] = {}
        self.deletes: set[str] = set()

    def run(self) -> None:
        generator = random.Random(self._number)
        with httpx.Client(trust_env=False, timeout=60) as http:
            for at in range(self._count):
                key, body = f"k{self._number}/{at}", generator.randbytes(generator.choice((0, 10, 100_000, 2 * MB)))
                if self._done(http, "put_object", key, body):
                    self.puts[key] = hashlib.md5(body).hexdigest()
                    if at % 3 == 0 and self._done(http, "delete_object", key):
                        self.deletes.add(key)

    def _done(self, http: httpx.Client, operation: str, key: str, body: bytes = b"") -> bool:
        """Whether it was acknowledged; if not it may have happened or not."""
        url = self._client.generate_presigned_url(operation, Params={"Bucket": "alpha", "Key": key})
        try:
            return http.request("PUT" if operation == "put_object" else "DELETE", url, content=body).is_success
        except httpx.ConnectError:
            time.sleep(0.1)  # nobody is there just now: what counts is writes, not refused connections
            return self._done(http, operation, key, body)
        except httpx.TransportError:
            return False


def test_no_object_without_its_event_and_no_event_without_its_object_over_kills(server: BucketServer) -> None:
    with s3(server) as client:
        writers = [Writer(client, number, 50) for number in range(4)]
        for writer in writers:
            writer.start()
        kills = kill_now_and_then(server, writers)
        for writer in writers:
            writer.join(120)
    assert kills >= 3
    acknowledged = {key: etag for writer in writers for key, etag in writer.puts.items()}
    deleted = set().union(*(writer.deletes for writer in writers))
    created, removed = Counter(), Counter()
    for row in told(server):
        (removed if row["function"] == "gone" else created)[key_of(row)] += 1
    with s3(server) as client:
        objects = {
            found["Key"]: found["ETag"].strip('"')
            for page in client.get_paginator("list_objects_v2").paginate(Bucket="alpha")
            for found in page.get("Contents", [])
        }
        for key, etag in objects.items():
            assert hashlib.md5(client.get_object(Bucket="alpha", Key=key)["Body"].read()).hexdigest() == etag
    assert set(created.values()) | set(removed.values()) == {1}
    assert set(created) - set(removed) == set(objects)
    assert acknowledged.keys() <= created.keys()
    assert deleted <= removed.keys() <= created.keys()
    assert all(objects[key] == etag for key, etag in acknowledged.items() if key in objects)
    until(lambda: server.data_files() == named_files(server))


def kill_now_and_then(server: BucketServer, writers: list[Writer]) -> int:
    """How often. Each time at a random moment of the writing."""
    chance = random.Random()
    for kills in range(4):
        wanted = sum(len(writer.puts) for writer in writers) + chance.randrange(5, 40)
        until(lambda wanted=wanted: sum(len(w.puts) for w in writers) >= wanted or not any(w.is_alive() for w in writers), 60)
        if not any(writer.is_alive() for writer in writers):
            return kills
        server.kill()
        server.start()
    return 4


def test_what_a_killed_upload_left_is_swept_at_the_next_start(server: BucketServer) -> None:
    with s3(server) as client:
        upload = client.create_multipart_upload(Bucket="alpha", Key="k")["UploadId"]
        client.upload_part(Bucket="alpha", Key="k", UploadId=upload, PartNumber=1, Body=b"kept")
        url = client.generate_presigned_url("put_object", Params={"Bucket": "alpha", "Key": "half"})
    with half_sent(server, url):
        until(lambda: len(server.data_files()) == 2)
        server.kill()
    server.start()
    until(lambda: server.data_files() == named_files(server))
    assert len(server.data_files()) == 1


def test_a_client_that_leaves_leaves_nothing(server: BucketServer) -> None:
    with s3(server) as client:
        url = client.generate_presigned_url("put_object", Params={"Bucket": "alpha", "Key": "half"})
        with half_sent(server, url):
            until(lambda: len(server.data_files()) == 1)
        until(lambda: not server.data_files())
        assert "Contents" not in client.list_objects_v2(Bucket="alpha")
    assert told(server) == []


@contextmanager
def half_sent(server: BucketServer, url: str) -> Iterator[None]:
    """A PUT of which half has been sent; the client leaves at the end."""
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        head = f"PUT {url.removeprefix(server.url)} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {4 * MB}\r\n\r\n"
        client.sendall(head.encode() + bytes(2 * MB))
        yield


def test_readers_finish_what_was_replaced_under_them(server: BucketServer) -> None:
    body = os.urandom(24 * MB)
    with s3(server) as client:
        client.put_object(Bucket="alpha", Key="k", Body=body)
        stream = client.get_object(Bucket="alpha", Key="k")["Body"]
        first = stream.read(1000)
        client.put_object(Bucket="alpha", Key="k", Body=b"new")
        until(lambda: len(server.data_files()) == 1)
        assert first + stream.read() == body
        assert client.get_object(Bucket="alpha", Key="k")["Body"].read() == b"new"


@pytest.mark.requires("root")
def test_a_full_disk_refuses_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "state" / "buckets").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(home / "state" / "buckets")], check=True)
    try:
        server = BucketServer(home, bindings=WATCHED)
        try:
            with s3(server) as client:
                client.create_bucket(Bucket="alpha")
                client.put_object(Bucket="alpha", Key="small", Body=b"x" * MB)
                with pytest.raises(ClientError) as caught:
                    client.put_object(Bucket="alpha", Key="large", Body=bytes(9 * MB))
                answer = caught.value.response
                assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == ("InsufficientStorage", 507)
                assert [found["Key"] for found in client.list_objects_v2(Bucket="alpha")["Contents"]] == ["small"]
                client.put_object(Bucket="alpha", Key="again", Body=b"x" * MB)
            assert [key_of(row) for row in told(server)] == ["small", "again"]
            assert server.data_files() == named_files(server)
        finally:
            server.stop()
    finally:
        subprocess.run(["umount", str(home / "state" / "buckets")], check=True)


def test_a_gigabyte_goes_through_a_little_memory(server: BucketServer) -> None:
    size, piece = 1024 * MB, os.urandom(MB)

    def pieces() -> Iterator[bytes]:
        for _ in range(size // MB):
            yield piece

    with s3(server) as client, httpx.Client(trust_env=False, timeout=120) as http:
        put = client.generate_presigned_url("put_object", Params={"Bucket": "alpha", "Key": "large"})
        assert http.put(put, content=pieces(), headers={"Content-Length": str(size)}).status_code == 200
        seen = 0
        with http.stream("GET", client.generate_presigned_url("get_object", Params={"Bucket": "alpha", "Key": "large"})) as answer:
            for part in answer.iter_raw():
                seen += len(part)
        assert seen == size
        client.delete_object(Bucket="alpha", Key="large")
    peaks = [
        int(line.split()[1]) for pid in server.workers() for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line
    ]
    assert max(peaks) < 256 * 1024, peaks


def test_many_clients_at_once(server: BucketServer) -> None:
    failures: list[str] = []

    def work(number: int) -> None:
        with s3(server) as client:
            for at in range(10):
                body = f"{number} {at}".encode() * 1000
                client.put_object(Bucket="alpha", Key="shared", Body=body)
                client.put_object(Bucket="alpha", Key=f"own/{number}", Body=body)
                if client.get_object(Bucket="alpha", Key=f"own/{number}")["Body"].read() != body:
                    failures.append(f"{number} {at}")
                read = client.get_object(Bucket="alpha", Key="shared")
                if hashlib.md5(read["Body"].read()).hexdigest() != read["ETag"].strip('"'):
                    failures.append(f"shared {number} {at}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert Counter(key_of(row) for row in told(server))["shared"] == 80
    until(lambda: server.data_files() == named_files(server))


def test_events_are_those_of_scf(server: BucketServer) -> None:
    with s3(server) as client:
        client.put_object(Bucket="alpha", Key="k/ü", Body=b"12345", Metadata={"mykey": "v"}, ContentType="image/jpeg")
        client.copy_object(Bucket="alpha", Key="k2", CopySource={"Bucket": "alpha", "Key": "k/ü"})
        client.delete_object(Bucket="alpha", Key="k/ü")
        client.delete_object(Bucket="alpha", Key="k/ü")
    rows = told(server)
    assert [row["record"]["event"]["eventName"] for row in rows] == [
        "cos:ObjectCreated:Put",
        "cos:ObjectCreated:Copy",
        "cos:ObjectRemove:Delete",
    ]
    stored = rows[0]["record"]["cos"]["cosObject"]
    assert (stored["key"], stored["size"], stored["vid"]) == ("//alpha/k/ü", 5, "")
    assert (stored["meta"]["x-cos-meta-mykey"], stored["meta"]["Content-Type"]) == ("v", "image/jpeg")
    assert rows[0]["record"]["event"]["requestParameters"]["requestHeaders"]["Authorization"].endswith("Signature=")


def test_figures(server: BucketServer) -> None:
    with s3(server) as client:
        client.put_object(Bucket="alpha", Key="k", Body=b"12345")
        client.get_object(Bucket="alpha", Key="k")["Body"].read()
    page = httpx.get(f"{server.url}/-/metrics", trust_env=False).text
    assert 'hearth_bucket_requests_total{operation="put_object",status="200"} 1.0' in page
    assert "hearth_bucket_received_bytes_total 5.0" in page
    assert "hearth_bucket_sent_bytes_total 5.0" in page
