"""The bucket service driven by cos-python-sdk-v5, on the server's Python and on 2.7 where there is one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from qcloud_cos.cos_exception import CosServiceError

from tests.integration.bucketclients import cos, localhost_names
from tests.integration.bucketserver import READER, READER_KEY, BucketServer

BUCKET = "photos-1250000000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketServer]:
    server = BucketServer(tmp_path_factory.mktemp("buckets") / "home", bucket_hosts=f"127.0.0.1={BUCKET}")
    with cos(server) as client:
        client.create_bucket(Bucket=BUCKET)
    yield server
    server.stop()


@pytest.fixture
def client(server: BucketServer) -> Iterator[Any]:
    with cos(server) as client:
        yield client


def refused(call: Any, **parameters: Any) -> tuple[str, int]:
    with pytest.raises(CosServiceError) as caught:
        call(**parameters)
    return caught.value.get_error_code(), caught.value.get_status_code()


@pytest.mark.parametrize("key", ["k", "/leading", "a b/ü+&=?#%41", "日本語", "trailing/", "a/../b", "./x", "a//b"])
def test_an_object_comes_back_as_it_was_put(client: Any, key: str) -> None:
    put = client.put_object(Bucket=BUCKET, Key=key, Body=b"body", Metadata={"x-cos-meta-colour": "blue"}, ContentType="image/x")
    assert put["ETag"] == f'"{hashlib.md5(b"body").hexdigest()}"'
    got = client.get_object(Bucket=BUCKET, Key=key)
    assert got["Body"].get_raw_stream().read() == b"body"
    assert (got["x-cos-meta-colour"], got["Content-Type"], got["Content-Length"]) == ("blue", "image/x", "4")
    assert client.head_object(Bucket=BUCKET, Key=key)["ETag"] == put["ETag"]
    listed = client.list_objects(Bucket=BUCKET, Prefix=key.removeprefix("/"))
    assert [found["Key"] for found in listed["Contents"]] == [key.removeprefix("/")]
    client.delete_object(Bucket=BUCKET, Key=key)
    assert refused(client.head_object, Bucket=BUCKET, Key=key) == ("NoSuchResource", 404)
    assert refused(client.get_object, Bucket=BUCKET, Key=key) == ("NoSuchKey", 404)


def test_files_go_up_in_parts_and_come_down_in_ranges(client: Any, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(os.urandom(6 * 1024 * 1024 + 1))
    answer = client.upload_file(Bucket=BUCKET, Key="big", LocalFilePath=str(tmp_path / "up"), PartSize=2, MAXThread=3, EnableMD5=True)
    assert answer["ETag"].endswith('-4"')
    client.download_file(Bucket=BUCKET, Key="big", DestFilePath=str(tmp_path / "down"), PartSize=1)
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()
    source = {"Bucket": BUCKET, "Key": "big", "Region": "local"}
    client.copy_object(Bucket=BUCKET, Key="copy", CopySource=source)
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
    part = client.upload_part_copy(
        Bucket=BUCKET, Key="parts", PartNumber=1, UploadId=upload, CopySource=source, CopySourceRange=f"bytes=0-{1024 * 1024 - 1}"
    )
    assert client.list_parts(Bucket=BUCKET, Key="parts", UploadId=upload)["Part"][0]["ETag"] == part["ETag"]
    chosen = {"Part": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    client.complete_multipart_upload(Bucket=BUCKET, Key="parts", UploadId=upload, MultipartUpload=chosen)
    assert client.get_object(Bucket=BUCKET, Key="parts")["Body"].get_raw_stream().read() == (tmp_path / "up").read_bytes()[: 1024 * 1024]
    objects = [{"Key": key} for key in ("big", "copy", "parts")]
    assert len(client.delete_objects(Bucket=BUCKET, Delete={"Object": objects, "Quiet": "false"})["Deleted"]) == 3


def test_presigned_urls(client: Any) -> None:
    with httpx.Client(trust_env=False) as http:
        put = client.get_presigned_url(Bucket=BUCKET, Key="ü p", Method="PUT")
        assert http.put(put, content=b"by url").status_code == 200
        get = client.get_presigned_url(Bucket=BUCKET, Key="ü p", Method="GET", Params={"response-content-disposition": "attachment; x=1"})
        answer = http.get(get)
        assert (answer.content, answer.headers["content-disposition"]) == (b"by url", "attachment; x=1")
        assert http.put(get, content=b"other").status_code == 403
        assert http.get(get.replace("%20p", "%20q")).status_code == 403
        assert http.get(f"{get}&acl").status_code == 403
        source = {"x-cos-copy-source": f"{BUCKET}.cos.local.myqcloud.com/other"}
        assert http.put(put, headers=source).status_code == 403
        assert http.get(client.get_presigned_url(Bucket=BUCKET, Key="ü p", Method="GET", Expired=-1)).status_code == 403
    client.delete_object(Bucket=BUCKET, Key="ü p")


def test_the_endpoint_form_names_the_bucket_in_the_host(server: BucketServer, client: Any) -> None:
    endpoint = f"localhost:{server.port}"
    with localhost_names(), cos(server, Endpoint=endpoint, ServiceDomain=endpoint) as named:
        named.create_bucket(Bucket="more-1250000000")
        named.put_object(Bucket="more-1250000000", Key="k", Body=b"x")
        named.copy(Bucket="more-1250000000", Key="c", CopySource={"Bucket": "more-1250000000", "Key": "k", "Endpoint": endpoint})
        found = named.list_objects(Bucket="more-1250000000", Delimiter="/", MaxKeys=1)
        assert ([row["Key"] for row in found["Contents"]], found["IsTruncated"], found["NextMarker"]) == (["c"], "true", "c")
        assert "more-1250000000" in [bucket["Name"] for bucket in named.list_buckets()["Buckets"]["Bucket"]]
        for key in "kc":
            named.delete_object(Bucket="more-1250000000", Key=key)
        named.delete_bucket(Bucket="more-1250000000")
        assert refused(named.head_bucket, Bucket="more-1250000000") == ("NoSuchResource", 404)


def test_what_is_refused(server: BucketServer, client: Any) -> None:
    assert refused(client.put_object, Bucket=BUCKET, Key="k", Body=b"x", ACL="public-read") == ("NotImplemented", 501)
    assert refused(client.put_object, Bucket=BUCKET, Key="k", Body=b"x", ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg==") == ("BadDigest", 400)
    with cos(server, (READER, READER_KEY)) as reader:
        assert refused(reader.put_object, Bucket=BUCKET, Key="k", Body=b"x") == ("AccessDenied", 403)
    with cos(server, (READER, "wrong")) as wrong:
        assert refused(wrong.list_objects, Bucket=BUCKET) == ("SignatureDoesNotMatch", 403)
