"""Stores of blocks behind one interface: a local folder, or a bucket of any S3 server.

`open_store(settings)` chooses: S3 when MINIO_ENDPOINT is set, otherwise the folder STORE_DIR. boto3 is imported only
for S3.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator_pkg.config import StoreSettings, load
from orchestrator_pkg.store.base import (
    AccessDenied,
    BadKey,
    BlockStore,
    BucketMissing,
    ChecksumMismatch,
    Listed,
    ObjectMissing,
    PreconditionFailed,
    Stored,
    StoreError,
    StoreUnreachable,
    StoreUnsuitable,
)
from orchestrator_pkg.store.local import LocalStore

__all__ = [
    "AccessDenied",
    "BadKey",
    "BlockStore",
    "BucketMissing",
    "ChecksumMismatch",
    "Listed",
    "LocalStore",
    "ObjectMissing",
    "PreconditionFailed",
    "StoreError",
    "StoreUnreachable",
    "StoreUnsuitable",
    "Stored",
    "ensure_bucket",
    "open_described",
    "open_store",
]


def open_store(settings: StoreSettings | None = None) -> BlockStore:
    """The store of the settings (default: of the environment and .env). Makes no request yet.

    Raises:
        ConfigError: a setting is wrong.
    """
    chosen = settings or load(StoreSettings)
    if not chosen.is_s3:
        return LocalStore(chosen.local_dir)
    from orchestrator_pkg.store.client import s3_client
    from orchestrator_pkg.store.s3 import S3Store

    return S3Store(s3_client(chosen), chosen.bucket)


def open_described(description: dict[str, str]) -> BlockStore:
    """Opens the store that `BlockStore.describe` wrote down; credentials come from this process's settings.

    Raises:
        StoreUnreachable: the description is of another kind of store.
    """
    kind = description.get("kind")
    if kind == "local":
        return LocalStore(Path(description["root"]))
    if kind != "s3":
        raise StoreUnreachable(f"No store of kind {kind!r} is known; upgrade this process, then try again.")
    from orchestrator_pkg.store.client import s3_client
    from orchestrator_pkg.store.s3 import S3Store

    settings = load(StoreSettings)
    endpoint = settings.endpoint if settings.endpoint == "aws" else description["endpoint"]
    here = settings.model_copy(update={"endpoint": endpoint})
    return S3Store(s3_client(here), description["bucket"], prefix=description["prefix"])


def ensure_bucket(settings: StoreSettings | None = None) -> None:
    """Creates the bucket (or folder) of the settings when it is missing, and probes that writes are conditional.

    Raises:
        StoreUnreachable, AccessDenied, StoreUnsuitable: with the cure.
    """
    open_store(settings).ensure()
