"""Resources: the store of the settings, and dagster-aws's S3Resource with the settings' endpoint and keys.

Both read the settings where they are used, so that no secret stands in a run's configuration, which Dagster's UI shows.
"""

# Dagster reads annotations at run time, so they must not become strings: no `from __future__ import annotations`.

from typing import Any

from dagster import ConfigurableResource
from dagster_aws.s3 import S3Resource

from orchestrator_pkg.config import StoreSettings, load
from orchestrator_pkg.failures import plain_failures
from orchestrator_pkg.store import BlockStore, open_store
from orchestrator_pkg.store.client import s3_client


class StoreResource(ConfigurableResource["StoreResource"]):
    """The store that MINIO_ENDPOINT and STORE_DIR choose; `store.open()` in an asset."""

    def open(self) -> BlockStore:
        """The store. Raises dagster.Failure when a setting is wrong."""
        with plain_failures():
            return open_store()

    @property
    def location(self) -> str:
        """Where the blocks are, for people."""
        return load(StoreSettings).location


class SettingsS3Resource(S3Resource):
    """dagster-aws's S3Resource with endpoint, region and keys of the MINIO_ settings."""

    def get_client(self) -> Any:
        """The boto3 client, shared within the process. Raises dagster.Failure without MINIO_ENDPOINT."""
        with plain_failures():
            return s3_client(load(StoreSettings, endpoint=self.endpoint_url))
