"""Turns botocore's errors into sentences with a cure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)

from orchestrator_pkg.store.base import (
    AccessDenied,
    BucketMissing,
    ChecksumMismatch,
    ObjectMissing,
    PreconditionFailed,
    StoreError,
    StoreUnreachable,
    StoreUnsuitable,
)

_DENIED = frozenset(
    {
        "401",
        "403",
        "AccessDenied",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "Forbidden",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
_LOST_RACE = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict", "OperationAborted"})
_DAMAGED = frozenset({"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"})
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes, for messages."""

    endpoint: str
    bucket: str


@contextmanager
def s3_errors(place: Place, key: str = "") -> Iterator[None]:
    """Raises what botocore raises inside as a StoreError; the traceback of botocore helps nobody and is cut."""
    try:
        yield
    except ClientError as error:
        raise in_words(error, place, key) from None
    except FlexibleChecksumError:
        raise ChecksumMismatch(
            f"{key} came damaged from {place.endpoint}; try again, and check the network and the server's disk."
        ) from None
    except (NoCredentialsError, PartialCredentialsError):
        raise AccessDenied(
            f"No credentials for {place.endpoint}; set MINIO_ROOT_USER and MINIO_ROOT_PASSWORD, or AWS's own variables."
        ) from None
    except (ConnectionError, HTTPClientError, IncompleteReadError) as error:
        raise StoreUnreachable(
            f"No S3 server answers at {place.endpoint} ({type(error).__name__}); start it or correct MINIO_ENDPOINT."
        ) from None
    except BotoCoreError as error:
        raise StoreUnreachable(
            f"The request to {place.endpoint} could not be made ({error}); correct the MINIO_ settings."
        ) from None


def in_words(error: ClientError, place: Place, key: str) -> StoreError:
    """The StoreError for an answer of the server."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{code or status}"
    if code == "NoSuchBucket":
        return bucket_missing(place)
    if code in _MISSING:
        return ObjectMissing(
            f"{key} is not in bucket {place.bucket} at {place.endpoint}; materialize the asset that writes it."
        )
    if code in _DENIED or status in (401, 403):
        return AccessDenied(
            f"{place.endpoint} refuses access to bucket {place.bucket} ({said}); correct MINIO_ROOT_USER and "
            "MINIO_ROOT_PASSWORD, or give that user the right."
        )
    if code in _LOST_RACE:
        return PreconditionFailed(f"{key} was written by another writer first ({said}); read it again before writing.")
    if code in _DAMAGED:
        return ChecksumMismatch(f"{key} arrived damaged at {place.endpoint} ({said}); try again, check the network.")
    if status == 501:
        return StoreUnsuitable(
            f"{place.endpoint} does not know a request that is needed ({said}); use a server with conditional writes, "
            "such as MinIO, Ceph 20 or AWS."
        )
    return StoreUnreachable(f"{place.endpoint} answered {said} for {key or place.bucket}; see the server's log.")


def bucket_missing(place: Place) -> BucketMissing:
    """The sentence about a bucket that does not exist."""
    return BucketMissing(
        f"Bucket {place.bucket} does not exist at {place.endpoint}; create it, or correct MINIO_BUCKET."
    )
