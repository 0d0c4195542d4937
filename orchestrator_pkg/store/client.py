"""The boto3 client of the S3 settings, one per process and settings, for a new one costs a tenth of a second."""

from __future__ import annotations

import os
import threading
from typing import Any

from orchestrator_pkg.config import StoreSettings

# As many connections as ranges in flight by two readers.
CONNECTIONS_MAX = 32
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
# First try included. Standard mode waits with jitter in between.
ATTEMPTS_MAX = 4

_clients: dict[tuple[int, str, str, str, str], Any] = {}
_lock = threading.Lock()


def s3_client(settings: StoreSettings) -> Any:
    """A boto3 S3 client for these settings; safe to share between threads, never across a fork."""
    identity = (os.getpid(), settings.endpoint, settings.region, settings.access_key, settings.secret_key)
    with _lock:
        if identity not in _clients:
            _clients[identity] = _new_client(settings)
        return _clients[identity]


def _new_client(settings: StoreSettings) -> Any:
    import boto3
    from botocore.config import Config

    is_aws = settings.endpoint == "aws"
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=CONNECTIONS_MAX,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS_MAX},
        # The store sends and verifies checksums itself; boto3's default ones break older servers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={} if is_aws else {"addressing_style": "path"},
    )
    # On AWS the machine's role or AWS's own variables may give the credentials.
    own_keys = not is_aws or settings.access_key != StoreSettings.model_fields["access_key"].default
    keys = {"aws_access_key_id": settings.access_key, "aws_secret_access_key": settings.secret_key}
    return boto3.session.Session().client(
        "s3",
        endpoint_url=None if is_aws else settings.endpoint,
        region_name=settings.region,
        config=config,
        **(keys if own_keys else {}),
    )
