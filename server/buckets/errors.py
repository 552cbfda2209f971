"""Every refusal of the bucket service: code, HTTP status and words, as S3's and COS's clients know them.

Both protocols share the codes; `BucketError` carries one. The table below is the only place where a code meets its status.
"""

from __future__ import annotations

from typing import Final

#: Code → status, and what it says where nothing better is known.
CODES: Final[dict[str, tuple[int, str]]] = {
    "AccessDenied": (403, "Access Denied"),
    "AuthorizationHeaderMalformed": (400, "The authorization header is malformed"),
    "AuthorizationQueryParametersError": (400, "The authorization parameters of the query are wrong"),
    "BadDigest": (400, "The Content-MD5 or checksum you specified did not match what was received"),
    "BucketAlreadyExists": (409, "The requested bucket name is not available"),
    "BucketAlreadyOwnedByYou": (409, "The bucket exists already and is yours"),
    "BucketNotEmpty": (409, "The bucket you tried to delete is not empty"),
    "EntityTooLarge": (400, "The object is larger than this service takes"),
    "EntityTooSmall": (400, "A part other than the last is smaller than the minimum"),
    "IncompleteBody": (400, "The body ended before its declared length"),
    "InsufficientStorage": (507, "There is no room left on this server's disk"),
    "InternalError": (500, "An internal error occurred"),
    "InvalidAccessKeyId": (403, "The access key id you provided does not exist"),
    "InvalidArgument": (400, "An argument is not valid"),
    "InvalidBucketName": (400, "The bucket name is not valid"),
    "InvalidDigest": (400, "The Content-MD5 you specified is not a base64 MD5"),
    "InvalidPart": (400, "One or more of the parts could not be found, or an ETag does not match"),
    "InvalidPartOrder": (400, "The parts are not listed in ascending order"),
    "InvalidRange": (416, "The requested range is not satisfiable"),
    "InvalidRequest": (400, "The request is not valid"),
    "InvalidStorageClass": (400, "There is one storage class here: STANDARD"),
    "InvalidURI": (400, "The path is not percent-encoded UTF-8"),
    "KeyTooLongError": (400, "The key is longer than 1024 bytes"),
    "MalformedXML": (400, "The XML you provided was not well-formed or is not what this operation takes"),
    "MaxMessageLengthExceeded": (400, "The request body is too long"),
    "MetadataTooLarge": (400, "The user metadata is larger than 2 KB"),
    "MethodNotAllowed": (405, "The method is not allowed against this resource"),
    "MissingContentLength": (411, "You must provide the Content-Length header"),
    "MissingSecurityHeader": (400, "A header that this request needs is missing"),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "NoSuchBucketPolicy": (404, "The bucket has no policy"),
    "NoSuchCORSConfiguration": (404, "The bucket has no CORS configuration"),
    "NoSuchKey": (404, "The specified key does not exist"),
    "NoSuchLifecycleConfiguration": (404, "The bucket has no lifecycle configuration"),
    "NoSuchTagSet": (404, "The bucket has no tags"),
    "NoSuchUpload": (404, "The specified multipart upload does not exist; it may have been completed or aborted"),
    "NoSuchWebsiteConfiguration": (404, "The bucket has no website configuration"),
    "NotImplemented": (501, "This service does not have what you asked for"),
    "NotModified": (304, "Not Modified"),
    "ObjectLockConfigurationNotFoundError": (404, "The bucket has no object lock configuration"),
    "OperationAborted": (409, "Another operation on this resource is in progress; try again"),
    "PreconditionFailed": (412, "At least one of the preconditions you specified did not hold"),
    "ReplicationConfigurationNotFoundError": (404, "The bucket has no replication configuration"),
    "RequestTimeTooSkewed": (403, "The difference between the request's time and this server's is too large"),
    "RequestTimeout": (400, "The body did not come in time"),
    "ServerSideEncryptionConfigurationNotFoundError": (404, "The bucket has no encryption configuration"),
    "ServiceUnavailable": (503, "The database is away; try again"),
    "SignatureDoesNotMatch": (403, "The signature we calculated does not match the one you provided; check key and signing method"),
    "SlowDown": (503, "The event queue is full; try again"),
    "TooManyBuckets": (400, "There are as many buckets as this service takes"),
    "XAmzContentSHA256Mismatch": (400, "The body does not match its x-amz-content-sha256"),
}
RETRY_AFTER_SECONDS: Final = 1


class BucketError(Exception):
    """A refusal. `details` become elements of the XML beside Code and Message."""

    def __init__(self, code: str, message: str = "", **details: str) -> None:
        self.code = code
        self.status, usual = CODES[code]
        self.message = message or usual
        self.details = details
        super().__init__(f"{code}: {self.message}")
