"""Bodies of notifications, field for field as each sender makes them."""

from __future__ import annotations

from typing import Any

#: minio/minio internal/event: event.Log around event.Event.
MINIO: dict[str, Any] = {
    "EventName": "s3:ObjectCreated:Put",
    "Key": "photos/in/ä b+c.jpg",
    "Records": [
        {
            "eventVersion": "2.0",
            "eventSource": "minio:s3",
            "awsRegion": "",
            "eventTime": "2025-11-25T08:00:00.123Z",
            "eventName": "s3:ObjectCreated:Put",
            "userIdentity": {"principalId": "minioadmin"},
            "requestParameters": {"principalId": "minioadmin", "region": "", "sourceIPAddress": "127.0.0.1"},
            "responseElements": {
                "x-amz-id-2": "dd9025bab4ad464b049177c95eb6ebf374d3b3fd1af9251148b658df7ac2e3e8",
                "x-amz-request-id": "17B2A4C7B6F1E2A3",
                "x-minio-deployment-id": "6faeded5-5cf3-4133-8a37-07c5d500207c",
                "x-minio-origin-endpoint": "http://172.17.0.2:9000",
            },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "Config",
                "bucket": {"name": "photos", "ownerIdentity": {"principalId": "minioadmin"}, "arn": "arn:aws:s3:::photos"},
                "object": {
                    "key": "in%2F%C3%A4+b%2Bc.jpg",
                    "size": 1029,
                    "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                    "contentType": "image/jpeg",
                    "userMetadata": {"content-type": "image/jpeg", "X-Amz-Meta-Mykey": "myvalue"},
                    "sequencer": "17B2A4C7B8C1D2E4",
                },
            },
            "source": {"host": "127.0.0.1", "port": "", "userAgent": "MinIO (linux; amd64) minio-go/v7.0.90"},
        }
    ],
}

MINIO_REMOVED: dict[str, Any] = {
    "EventName": "s3:ObjectRemoved:DeleteMarkerCreated",
    "Key": "photos/in/a.jpg",
    "Records": [
        {
            "eventVersion": "2.0",
            "eventSource": "minio:s3",
            "awsRegion": "",
            "eventTime": "2025-11-25T08:00:01.000Z",
            "eventName": "s3:ObjectRemoved:DeleteMarkerCreated",
            "userIdentity": {"principalId": "minioadmin"},
            "requestParameters": {"principalId": "minioadmin", "region": "", "sourceIPAddress": "127.0.0.1"},
            "responseElements": {"x-amz-request-id": "17B2A4C7B6F1E2A4"},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "Config",
                "bucket": {"name": "photos", "ownerIdentity": {"principalId": "minioadmin"}, "arn": "arn:aws:s3:::photos"},
                "object": {"key": "in%2Fa.jpg", "versionId": "v-1", "sequencer": "17B2A4C7B8C1D2E5"},
            },
            "source": {"host": "127.0.0.1", "port": "", "userAgent": "MinIO (linux; amd64) minio-go/v7.0.90"},
        }
    ],
}

#: versity/versitygw s3event: EventFields around EventSchema.
VERSITYGW: dict[str, Any] = {
    "Records": [
        {
            "eventVersion": "2.2",
            "eventSource": "aws:s3",
            "awsRegion": "us-east-1",
            "eventTime": "2025-11-25T08:00:00Z",
            "eventName": "s3:ObjectCreated:Put",
            "userIdentity": {"PrincipalId": "root"},
            "requestParameters": {"sourceIPAddress": "127.0.0.1"},
            "responseElements": {"x-amz-request-id": "", "x-amz-id-2": ""},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "webhook-global",
                "bucket": {"name": "files", "ownerIdentity": {"PrincipalId": "root"}, "arn": "arn:aws:s3:::/files/a+b%20c d.txt"},
                "object": {"key": "a+b%20c d.txt", "size": 5, "eTag": "5d41402abc4b2a76b9719d911017c592", "versionId": None, "sequencer": "0A"},
            },
            "glacierEventData": {"restoreEventData": {"lifecycleRestorationExpiryTime": "", "lifecycleRestoreStorageClass": ""}},
        }
    ]
}

VERSITYGW_TEST: dict[str, Any] = {"Service": "S3", "Event": "s3:TestEvent", "Time": "2025-11-25T08:00:00Z", "Bucket": "Test-Bucket"}

#: ceph/ceph rgw_pubsub: rgw_pubsub_s3_event::dump.
RADOSGW: dict[str, Any] = {
    "Records": [
        {
            "eventVersion": "2.2",
            "eventSource": "ceph:s3",
            "awsRegion": "default",
            "eventTime": "2025-11-25T08:00:00.123456789Z",
            "eventName": "ObjectCreated:Put",
            "userIdentity": {"principalId": "tester"},
            "requestParameters": {"sourceIPAddress": ""},
            "responseElements": {"x-amz-request-id": "c1e4ac9e-1cbb-4a9e-8a0e-7e1f2b3c4d5e.4123.7", "x-amz-id-2": "101b-default-default"},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "hearth",
                "bucket": {
                    "name": "files",
                    "ownerIdentity": {"principalId": "tester"},
                    "arn": "arn:aws:s3:default::files",
                    "id": "c1e4ac9e-1cbb-4a9e-8a0e-7e1f2b3c4d5e.4123.1",
                },
                "object": {
                    "key": "a+b%20c d.txt",
                    "size": 5,
                    "eTag": "5d41402abc4b2a76b9719d911017c592",
                    "versionId": "",
                    "sequencer": "F7E66C65E0D3A411",
                    "metadata": [{"key": "x-amz-content-sha256", "val": "00"}, {"key": "x-amz-meta-color", "val": "blue"}],
                    "tags": [],
                },
            },
            "eventId": "1700000000.123456.5d41402abc4b2a76b9719d911017c592",
            "opaqueData": "",
        }
    ]
}

#: Amazon S3 User Guide, "Event message structure".
AMAZON: dict[str, Any] = {
    "Records": [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": "us-west-2",
            "eventTime": "2025-11-25T08:00:00.000Z",
            "eventName": "ObjectCreated:Put",
            "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
            "requestParameters": {"sourceIPAddress": "127.0.0.1"},
            "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8/IgAtTv8xRjskZQpcIZ9KG4V5Wp6S7S"},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "testConfigRule",
                "bucket": {"name": "files", "ownerIdentity": {"principalId": "A3NL1KOZZKExample"}, "arn": "arn:aws:s3:::files"},
                "object": {
                    "key": "a+b.txt",
                    "size": 1024,
                    "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                    "versionId": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
                    "sequencer": "0055AED6DCD90281E5",
                },
            },
        }
    ]
}
