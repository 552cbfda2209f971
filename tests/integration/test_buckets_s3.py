"""The bucket service driven by boto3, the aws command and bare presigned URLs, over its socket."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from tests.integration.bucketclients import localhost_names, s3
from tests.integration.bucketserver import (
    INVOKER,
    INVOKER_KEY,
    OTHER,
    OTHER_KEY,
    READER,
    READER_KEY,
    SECRET_ID,
    SECRET_KEY,
    BucketServer,
)

BUCKET = "alpha"
STRANGE = [
    "a b",
    "ü/é/☃.txt",
    "a+b&c=d?e#f%41",
    "//double//",
    "../../etc/passwd",
    "./x",
    "trailing/",
    "q'\"<>",
    "~tilde",
    "\x01control",
    "日本語",
    "x" * 1024,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketServer]:
    server = BucketServer(tmp_path_factory.mktemp("buckets") / "home")
    with s3(server) as client:
        client.create_bucket(Bucket=BUCKET)
    yield server
    server.stop()


@pytest.fixture
def client(server: BucketServer) -> Iterator[Any]:
    with s3(server) as client:
        yield client
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for found in page.get("Contents", []):
                client.delete_object(Bucket=BUCKET, Key=found["Key"])


def refused(call: Any, **parameters: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_an_object_comes_back_as_it_was_put(client: Any) -> None:
    body = bytes(range(256)) * 100
    put = client.put_object(
        Bucket=BUCKET,
        Key="k",
        Body=body,
        Metadata={"colour": "blue"},
        ContentType="image/x",
        CacheControl="no-cache",
        ContentEncoding="odd",
    )
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    got = client.get_object(Bucket=BUCKET, Key="k")
    assert got["Body"].read() == body
    shown = (got["Metadata"], got["ContentType"], got["CacheControl"], got["ContentEncoding"], got["ContentLength"])
    assert shown == ({"colour": "blue"}, "image/x", "no-cache", "odd", len(body))
    head = client.head_object(Bucket=BUCKET, Key="k")
    assert (head["ContentLength"], head["ETag"], head["Metadata"]) == (len(body), put["ETag"], {"colour": "blue"})


@pytest.mark.parametrize("style", ["path", "virtual"])
def test_every_key_is_a_key_and_none_is_a_path(server: BucketServer, client: Any, style: str) -> None:
    url = f"http://localhost:{server.port}"
    before = {path for path in (server.home / "state" / "buckets").rglob("*") if path.is_dir()}
    with localhost_names(), s3(server, url=url, s3={"addressing_style": style}) as styled:
        for key in STRANGE:
            styled.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
        for key in STRANGE:
            assert styled.get_object(Bucket=BUCKET, Key=key)["Body"].read() == key.encode()
        listed = [found["Key"] for found in styled.list_objects_v2(Bucket=BUCKET)["Contents"]]
        assert listed == sorted(STRANGE, key=str.encode)
        assert [found["Key"] for found in styled.list_objects(Bucket=BUCKET)["Contents"]] == listed
        deleted = styled.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in STRANGE if key != "\x01control"]})
        assert len(deleted["Deleted"]) == len(STRANGE) - 1
    assert {path for path in (server.home / "state" / "buckets").rglob("*") if path.is_dir()} == before
    assert all(len(name) == 32 for name in server.data_files())


def test_a_listing_rolls_up_and_pages(client: Any) -> None:
    keys = [f"{folder}/{number:02d}" for folder in ("a", "b", "c") for number in range(12)] + ["top"]
    for key in keys:
        client.put_object(Bucket=BUCKET, Key=key, Body=b"")
    for operation in ("list_objects", "list_objects_v2"):
        for size in (1, 2, 5, 1000):
            pages = list(client.get_paginator(operation).paginate(Bucket=BUCKET, PaginationConfig={"PageSize": size}))
            assert [found["Key"] for page in pages for found in page.get("Contents", [])] == keys
            pages = list(client.get_paginator(operation).paginate(Bucket=BUCKET, Delimiter="/", PaginationConfig={"PageSize": size}))
            assert [found["Prefix"] for page in pages for found in page.get("CommonPrefixes", [])] == ["a/", "b/", "c/"]
            assert [found["Key"] for page in pages for found in page.get("Contents", [])] == ["top"]
            pages = list(client.get_paginator(operation).paginate(Bucket=BUCKET, Prefix="b/0", PaginationConfig={"PageSize": size}))
            assert [found["Key"] for page in pages for found in page.get("Contents", [])] == [f"b/{number:02d}" for number in range(10)]
    assert client.list_objects_v2(Bucket=BUCKET, StartAfter="c/10")["KeyCount"] == 2
    assert client.list_objects_v2(Bucket=BUCKET, MaxKeys=0)["KeyCount"] == 0


def test_ranges_and_conditions(client: Any) -> None:
    etag = client.put_object(Bucket=BUCKET, Key="k", Body=b"0123456789")["ETag"]
    for header, body, shown in (
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=5-99", b"56789", "bytes 5-9/10"),
    ):
        got = client.get_object(Bucket=BUCKET, Key="k", Range=header)
        assert (got["Body"].read(), got["ContentRange"], got["ResponseMetadata"]["HTTPStatusCode"]) == (body, shown, 206)
    assert refused(client.get_object, Bucket=BUCKET, Key="k", Range="bytes=10-") == ("InvalidRange", 416)
    assert client.get_object(Bucket=BUCKET, Key="k", Range="lines=1-2")["Body"].read() == b"0123456789"
    assert refused(client.get_object, Bucket=BUCKET, Key="k", IfMatch='"x"') == ("PreconditionFailed", 412)
    assert refused(client.get_object, Bucket=BUCKET, Key="k", IfNoneMatch=etag) == ("304", 304)
    assert client.get_object(Bucket=BUCKET, Key="k", IfMatch=etag)["Body"].read() == b"0123456789"
    assert refused(client.put_object, Bucket=BUCKET, Key="k", IfNoneMatch="*") == ("PreconditionFailed", 412)
    assert refused(client.put_object, Bucket=BUCKET, Key="k", IfMatch='"x"') == ("PreconditionFailed", 412)
    client.put_object(Bucket=BUCKET, Key="k", Body=b"new", IfMatch=etag)
    assert client.get_object(Bucket=BUCKET, Key="k")["Body"].read() == b"new"


def test_an_upload_in_parts(client: Any) -> None:
    body = os.urandom(12 * 1024 * 1024)
    client.upload_fileobj(io.BytesIO(body), BUCKET, "big", Config=TransferConfig(multipart_chunksize=5 * 1024 * 1024))
    head = client.head_object(Bucket=BUCKET, Key="big")
    assert (head["ContentLength"], head["ETag"][-3:]) == (len(body), '-3"')
    target = io.BytesIO()
    client.download_fileobj(BUCKET, "big", target)
    assert target.getvalue() == body
    second = client.get_object(Bucket=BUCKET, Key="big", PartNumber=2)
    assert (second["PartsCount"], second["Body"].read()) == (3, body[5 * 1024 * 1024 : 10 * 1024 * 1024])


def test_parts_are_listed_copied_replaced_and_checked(server: BucketServer, client: Any) -> None:
    client.put_object(Bucket=BUCKET, Key="source", Body=b"s" * (5 * 1024 * 1024))
    files = server.data_files()
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="k")["UploadId"]
    where = {"Bucket": BUCKET, "Key": "k", "UploadId": upload}
    assert [found["UploadId"] for found in client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]] == [upload]
    client.upload_part(**where, PartNumber=2, Body=b"old")
    second = client.upload_part(**where, PartNumber=2, Body=b"new")
    first = client.upload_part_copy(**where, PartNumber=1, CopySource={"Bucket": BUCKET, "Key": "source"})["CopyPartResult"]
    listed = client.list_parts(**where)["Parts"]
    assert [(part["PartNumber"], part["Size"]) for part in listed] == [(1, 5 * 1024 * 1024), (2, 3)]
    parts = [{"PartNumber": 1, "ETag": first["ETag"]}, {"PartNumber": 2, "ETag": second["ETag"]}]
    assert refused(client.complete_multipart_upload, **where, MultipartUpload={"Parts": parts[::-1]}) == ("InvalidPartOrder", 400)
    wrong = [parts[0], {"PartNumber": 2, "ETag": '"0"'}]
    assert refused(client.complete_multipart_upload, **where, MultipartUpload={"Parts": wrong}) == ("InvalidPart", 400)
    small = client.upload_part(**where, PartNumber=3, Body=b"last")
    parts.append({"PartNumber": 3, "ETag": small["ETag"]})
    assert refused(client.complete_multipart_upload, **where, MultipartUpload={"Parts": parts}) == ("EntityTooSmall", 400)
    client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts[:2]})
    assert client.get_object(Bucket=BUCKET, Key="k", Range="bytes=-4")["Body"].read() == b"snew"
    assert refused(client.upload_part, **where, PartNumber=4, Body=b"") == ("NoSuchUpload", 404)
    dropped = client.create_multipart_upload(Bucket=BUCKET, Key="dropped")["UploadId"]
    client.upload_part(Bucket=BUCKET, Key="dropped", UploadId=dropped, PartNumber=1, Body=b"x")
    client.abort_multipart_upload(Bucket=BUCKET, Key="dropped", UploadId=dropped)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)
    assert len(server.data_files()) == len(files) + 1


def test_a_copy_keeps_or_replaces_what_is_said_of_the_object(client: Any) -> None:
    client.put_object(Bucket=BUCKET, Key="a/ü+ b", Body=b"body", Metadata={"x": "1"}, ContentType="text/x")
    source = {"Bucket": BUCKET, "Key": "a/ü+ b"}
    client.copy_object(Bucket=BUCKET, Key="same", CopySource=source)
    client.copy_object(Bucket=BUCKET, Key="other", CopySource=source, MetadataDirective="REPLACE", Metadata={"y": "2"})
    client.delete_object(Bucket=BUCKET, Key="a/ü+ b")
    same, other = (client.get_object(Bucket=BUCKET, Key=key) for key in ("same", "other"))
    assert (same["Body"].read(), same["Metadata"], same["ContentType"]) == (b"body", {"x": "1"}, "text/x")
    assert (other["Body"].read(), other["Metadata"]) == (b"body", {"y": "2"})
    same_source = {"Bucket": BUCKET, "Key": "same"}
    assert refused(client.copy_object, Bucket=BUCKET, Key="same", CopySource=same_source) == ("InvalidRequest", 400)
    wrong = {"Bucket": BUCKET, "Key": "k", "CopySource": same_source, "CopySourceIfMatch": '"x"'}
    assert refused(client.copy_object, **wrong) == ("PreconditionFailed", 412)
    assert refused(client.copy_object, Bucket=BUCKET, Key="k", CopySource={"Bucket": BUCKET, "Key": "no"}) == ("NoSuchKey", 404)


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_are_checked_kept_and_given_back(client: Any, algorithm: str) -> None:
    put = client.put_object(Bucket=BUCKET, Key="k", Body=b"123456789", ChecksumAlgorithm=algorithm)
    got = client.get_object(Bucket=BUCKET, Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == b"123456789"
    assert got[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"]
    wrong = {f"Checksum{algorithm}": put[f"Checksum{algorithm}"]}
    assert refused(client.put_object, Bucket=BUCKET, Key="k", Body=b"12345678", **wrong) == ("BadDigest", 400)
    parts = [b"a" * (5 * 1024 * 1024), b"b"]
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="parts", ChecksumAlgorithm=algorithm)["UploadId"]
    done = []
    for number, part in enumerate(parts, 1):
        sent = client.upload_part(Bucket=BUCKET, Key="parts", UploadId=upload, PartNumber=number, Body=part, ChecksumAlgorithm=algorithm)
        done.append({"PartNumber": number, "ETag": sent["ETag"], f"Checksum{algorithm}": sent[f"Checksum{algorithm}"]})
    whole = client.complete_multipart_upload(Bucket=BUCKET, Key="parts", UploadId=upload, MultipartUpload={"Parts": done})
    assert whole["ChecksumType"] == ("FULL_OBJECT" if algorithm == "CRC64NVME" else "COMPOSITE")
    got = client.get_object(Bucket=BUCKET, Key="parts", ChecksumMode="ENABLED")
    assert (got["Body"].read(), got[f"Checksum{algorithm}"]) == (b"".join(parts), whole[f"Checksum{algorithm}"])


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_presigned_urls(server: BucketServer, version: str) -> None:
    with s3(server, signature_version=version) as client, httpx.Client(trust_env=False) as http:
        put = client.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": "ü p", "ContentType": "text/x"})
        assert http.put(put, content=b"by url", headers={"Content-Type": "text/x"}).status_code == 200
        get = client.generate_presigned_url(
            "get_object", Params={"Bucket": BUCKET, "Key": "ü p", "ResponseContentDisposition": "attachment"}
        )
        answer = http.get(get)
        assert (answer.content, answer.headers["content-disposition"]) == (b"by url", "attachment")
        assert http.put(get, content=b"other").status_code == 403
        assert http.get(get.replace("%20p", "%20q")).status_code == 403
        assert http.get(f"{get}&acl").status_code == 403
        expired = client.generate_presigned_url(
            "get_object", Params={"Bucket": BUCKET, "Key": "ü p"}, ExpiresIn=-1 if version == "s3" else 1
        )
        if version == "s3v4":
            expired = expired.replace("X-Amz-Expires=1", "X-Amz-Expires=0")
        assert http.get(expired).status_code in (400, 403)
        assert http.put(put, content=b"x", headers={"Content-Type": "text/y"}).status_code == 403
        client.delete_object(Bucket=BUCKET, Key="ü p")


def test_keys_do_what_their_scope_says(server: BucketServer, client: Any) -> None:
    client.put_object(Bucket=BUCKET, Key="k", Body=b"x")
    with s3(server, (READER, READER_KEY)) as reader:
        assert reader.get_object(Bucket=BUCKET, Key="k")["Body"].read() == b"x"
        assert reader.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 1
        assert refused(reader.put_object, Bucket=BUCKET, Key="k", Body=b"") == ("AccessDenied", 403)
        assert refused(reader.delete_object, Bucket=BUCKET, Key="k") == ("AccessDenied", 403)
        assert refused(reader.copy_object, Bucket=BUCKET, Key="c", CopySource={"Bucket": BUCKET, "Key": "k"}) == ("AccessDenied", 403)
    with s3(server, (INVOKER, INVOKER_KEY)) as invoker:
        assert refused(invoker.get_object, Bucket=BUCKET, Key="k") == ("AccessDenied", 403)
    with s3(server, (OTHER, OTHER_KEY)) as other:
        assert refused(other.get_object, Bucket=BUCKET, Key="k") == ("AccessDenied", 403)
        assert refused(other.create_bucket, Bucket=BUCKET) == ("BucketAlreadyExists", 409)
        assert other.list_buckets()["Buckets"] == []
        other.create_bucket(Bucket="others")
        assert refused(other.copy_object, Bucket="others", Key="c", CopySource={"Bucket": BUCKET, "Key": "k"}) == ("AccessDenied", 403)
        assert [found["Name"] for found in other.list_buckets()["Buckets"]] == ["others"]
        other.delete_bucket(Bucket="others")
    with s3(server, ("AKIDnobody", "x")) as nobody:
        assert refused(nobody.list_buckets) == ("InvalidAccessKeyId", 403)
    with s3(server, (SECRET_ID, "wrong")) as wrong:
        assert refused(wrong.list_buckets) == ("SignatureDoesNotMatch", 403)
    assert httpx.get(f"{server.url}/{BUCKET}/k", trust_env=False).status_code == 403


def test_buckets_come_and_go(client: Any) -> None:
    client.create_bucket(Bucket="beta", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert refused(client.create_bucket, Bucket="beta") == ("BucketAlreadyOwnedByYou", 409)
    assert client.head_bucket(Bucket="beta")["BucketRegion"] == "local"
    client.put_object(Bucket="beta", Key="k", Body=b"")
    assert refused(client.delete_bucket, Bucket="beta") == ("BucketNotEmpty", 409)
    client.delete_object(Bucket="beta", Key="k")
    client.delete_bucket(Bucket="beta")
    assert refused(client.head_bucket, Bucket="beta") == ("404", 404)
    assert refused(client.put_object, Bucket="beta", Key="k", Body=b"") == ("NoSuchBucket", 404)
    assert refused(client.create_bucket, Bucket="Bad_Name") == ("InvalidBucketName", 400)


def test_what_is_not_there_says_so(client: Any) -> None:
    client.put_object(Bucket=BUCKET, Key="k", Body=b"")
    assert client.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] == "local"
    assert "Status" not in client.get_bucket_versioning(Bucket=BUCKET)
    assert client.get_bucket_acl(Bucket=BUCKET)["Grants"][0]["Permission"] == "FULL_CONTROL"
    assert client.get_object_tagging(Bucket=BUCKET, Key="k")["TagSet"] == []
    assert refused(client.get_bucket_policy, Bucket=BUCKET) == ("NoSuchBucketPolicy", 404)
    assert [found["VersionId"] for found in client.list_object_versions(Bucket=BUCKET)["Versions"]] == ["null"]
    versioning = {"Bucket": BUCKET, "VersioningConfiguration": {"Status": "Enabled"}}
    assert refused(client.put_bucket_versioning, **versioning) == ("NotImplemented", 501)
    assert refused(client.put_object, Bucket=BUCKET, Key="k", ACL="public-read") == ("NotImplemented", 501)
    assert refused(client.put_object, Bucket=BUCKET, Key="k", StorageClass="GLACIER") == ("InvalidStorageClass", 400)
    assert refused(client.get_object, Bucket=BUCKET, Key="none") == ("NoSuchKey", 404)
    assert refused(client.head_object, Bucket=BUCKET, Key="none") == ("404", 404)
    assert client.delete_object(Bucket=BUCKET, Key="none")["ResponseMetadata"]["HTTPStatusCode"] == 204


def test_the_aws_command(server: BucketServer, client: Any, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": SECRET_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip

    def aws(*words: str) -> str:
        command = [str(Path(sys.executable).with_name("aws")), "--endpoint-url", server.url, *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout

    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "ü x").write_bytes(b"small")
    (tmp_path / "tree" / "large").write_bytes(os.urandom(9 * 1024 * 1024))
    aws("s3", "mb", "s3://commands")
    aws("s3", "sync", str(tmp_path / "tree"), "s3://commands/t")
    assert "t/large" in aws("s3", "ls", "--recursive", "s3://commands")
    aws("s3", "cp", "s3://commands/t/large", "s3://commands/copy")
    aws("s3", "cp", "s3://commands/copy", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "tree" / "large").read_bytes()
    aws("s3", "rm", "--recursive", "s3://commands/t")
    assert json.loads(aws("s3api", "list-objects-v2", "--bucket", "commands"))["Contents"][0]["Key"] == "copy"
    aws("s3", "rb", "--force", "s3://commands")
