"""The clients for `s3://` and `gs://`: where they connect to and how patient they are.

Endpoint, region and credentials come from the environment or the cloud's own files, never from a
URL: URLs are logged. S3 requests are tried five times with exponential backoff (the SDK's
"standard" retry mode); one that moves no byte for three seconds counts as failed. Google's client
tries for a minute, with backoff of its own.
"""

import os
from datetime import timedelta
from functools import cache
from urllib.parse import urlsplit

from pyarrow import fs

from pipeline.errors import InputError

_ATTEMPTS = 5
_CONNECT_SECONDS = 5.0
_GS_SECONDS = 60.0  # its own limit is 15 minutes


def open_bucket(url: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of an `s3://` or `gs://` URL and the path on it, "bucket/…".

    AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL names a store other than Amazon's, AWS_REGION or
    AWS_DEFAULT_REGION the region; without either, the bucket is asked for its own.
    STORAGE_EMULATOR_HOST ("http://host:port") names another store for `gs://`, without credentials.

    Raises InputError for a URL with settings in it, a malformed one, and a bucket that cannot be
    asked.
    """
    parts = urlsplit(url)
    path = parts.netloc + parts.path.rstrip("/")
    if parts.query or parts.fragment or {"@", ":"} & set(parts.netloc):
        raise InputError(
            f"{parts.scheme}://{path.rpartition('@')[2]}: settings and credentials do not belong "
            "in a URL; set AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, … in the environment"
        )
    if not parts.netloc:
        raise InputError(f"{url} names no bucket; write {parts.scheme}://bucket/folder")
    try:
        if parts.scheme == "gs":
            return _gs(os.environ.get("STORAGE_EMULATOR_HOST", "")), path
        return _s3(*_place(parts.netloc)), path
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot open {url}: {error}; check the address, network and credentials"
        ) from error


def _place(bucket: str) -> tuple[str, str]:
    """Endpoint ("" for Amazon's own) and region of a bucket."""
    known = os.environ
    endpoint = known.get("AWS_ENDPOINT_URL_S3") or known.get("AWS_ENDPOINT_URL") or ""
    region = known.get("AWS_REGION") or known.get("AWS_DEFAULT_REGION")
    if not region:
        region = "us-east-1" if endpoint else fs.resolve_s3_region(bucket)
    return endpoint, region


@cache
def _s3(endpoint: str, region: str) -> fs.S3FileSystem:
    """One client for each store: its connections are shared."""
    scheme, _, host = endpoint.rpartition("://")
    return fs.S3FileSystem(
        region=region,
        scheme=scheme or "https",
        endpoint_override=host.rstrip("/") or None,
        connect_timeout=_CONNECT_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        allow_delayed_open=True,  # a small file is one PUT instead of three requests
    )


@cache
def _gs(emulator: str) -> fs.GcsFileSystem:
    limit = timedelta(seconds=_GS_SECONDS)
    if not emulator:
        return fs.GcsFileSystem(retry_time_limit=limit)
    scheme, _, host = emulator.rpartition("://")
    return fs.GcsFileSystem(
        anonymous=True,
        scheme=scheme or "http",
        endpoint_override=host.rstrip("/"),
        retry_time_limit=limit,
    )
