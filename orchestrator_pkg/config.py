"""Settings of workers and of the object store; the control plane's and its clients' stand in raft_service.config."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from raft_service.config import ClientSettings, ConfigError, Settings, load

__all__ = ["ClientSettings", "ConfigError", "PipelineSettings", "StoreSettings", "WorkerSettings", "load"]


class WorkerSettings(ClientSettings):
    """One worker: the agent process of a machine and the slots that it offers."""

    own_prefixes: ClassVar[tuple[str, ...]] = ("WORKER_", "ORCHESTRATOR_")

    # Unique in the cluster; empty: host name and process id.
    name: str = Field("", alias="WORKER_NAME")
    cloud_tag: str = Field("aws", alias="WORKER_CLOUD_TAG", min_length=1)
    # More labels, "key=value,key=value".
    labels: str = Field("", alias="WORKER_LABELS")
    # Read by the leader, which tells the worker; here so that one .env serves all.
    heartbeat_interval_s: float = Field(5, alias="WORKER_HEARTBEAT_INTERVAL_S", gt=0, le=3600)
    heartbeat_miss_limit: int = Field(3, alias="WORKER_HEARTBEAT_MISS_LIMIT", ge=2, le=100)
    run_slots: int = Field(2, alias="WORKER_RUN_SLOTS", ge=0, le=1000)
    step_slots: int = Field(2, alias="WORKER_STEP_SLOTS", ge=0, le=1000)
    # GPUs to offer; -1: as many as torch sees, 0 without torch.
    gpus: int = Field(-1, alias="WORKER_GPUS", ge=-1, le=64)
    # Main memory to offer in bytes; 0: what the machine has.
    memory_bytes: int = Field(0, alias="WORKER_MEMORY_BYTES", ge=0)
    # Named pools it brings, "name=amount,name=amount".
    pools: str = Field("", alias="WORKER_POOLS")
    # Modules that each slot imports before its first task, comma separated.
    preload: str = Field("dagster", alias="WORKER_PRELOAD")
    # A slot's process is replaced after so many tasks or above so much resident memory (0: no limit).
    slot_tasks_max: int = Field(1000, alias="WORKER_SLOT_TASKS_MAX", ge=0)
    slot_memory_max_bytes: int = Field(0, alias="WORKER_SLOT_MEMORY_MAX_BYTES", ge=0)
    # How long a canceled task may take to end after SIGINT before it is killed.
    cancel_grace_s: float = Field(10, alias="WORKER_CANCEL_GRACE_S", ge=0, le=3600)
    # 0 takes a free port; -1 serves none.
    metrics_port: int = Field(9090, alias="METRICS_PORT", ge=-1, le=65535)
    debug_http_port: int = Field(8080, alias="DEBUG_HTTP_PORT", ge=-1, le=65535)

    @model_validator(mode="after")
    def _relations(self) -> WorkerSettings:
        if self.run_slots + self.step_slots == 0:
            raise ValueError("WORKER_RUN_SLOTS and WORKER_STEP_SLOTS are both 0; a worker needs a slot.")
        _pairs("WORKER_LABELS", self.labels)
        for name, amount in _pairs("WORKER_POOLS", self.pools).items():
            if not amount.isdigit():
                raise ValueError(f"WORKER_POOLS gives pool {name} the amount {amount!r}; write a whole number.")
        return self

    @property
    def label_map(self) -> dict[str, str]:
        """Extra labels by name."""
        return _pairs("WORKER_LABELS", self.labels)

    @property
    def pool_amounts(self) -> dict[str, int]:
        """Amounts by pool."""
        return {name: int(amount) for name, amount in _pairs("WORKER_POOLS", self.pools).items()}

    @property
    def preload_modules(self) -> tuple[str, ...]:
        """Modules to import in each slot."""
        return tuple(part.strip() for part in self.preload.split(",") if part.strip())


def _pairs(variable: str, text: str) -> dict[str, str]:
    """Parses "key=value,key=value"."""
    pairs = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, separator, value = part.partition("=")
        if not separator or not key or not value:
            raise ValueError(f"{variable} has {part!r}; write key=value,key=value.")
        pairs[key] = value
    return pairs


class StoreSettings(Settings):
    """Where blocks are kept: an S3 bucket when an endpoint or a bucket is given, otherwise a local folder."""

    own_prefixes: ClassVar[tuple[str, ...]] = ("MINIO_", "STORE_")

    # Root folder of the local store, used when MINIO_ENDPOINT is empty.
    local_dir: Path = Field(Path("data/processed"), alias="STORE_DIR")
    # URL of MinIO or any S3 server. Empty: the local folder. "aws": Amazon's own endpoint.
    endpoint: str = Field("", alias="MINIO_ENDPOINT")
    access_key: str = Field("minioadmin", alias="MINIO_ROOT_USER")
    secret_key: str = Field("minioadmin", alias="MINIO_ROOT_PASSWORD", repr=False)
    bucket: str = Field("pipeline-data", alias="MINIO_BUCKET", min_length=3)
    region: str = Field("us-east-1", alias="MINIO_REGION")

    @model_validator(mode="after")
    def _relations(self) -> StoreSettings:
        if self.endpoint and self.endpoint != "aws" and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(
                f"MINIO_ENDPOINT={self.endpoint!r} is no URL; write http://host:9000, aws, or leave it empty."
            )
        return self

    @property
    def is_s3(self) -> bool:
        """True: the S3 store. False: the local folder."""
        return bool(self.endpoint)

    @property
    def location(self) -> str:
        """Where the blocks are, for people."""
        return f"s3://{self.bucket} at {self.endpoint}" if self.is_s3 else str(self.local_dir.resolve())


class PipelineSettings(Settings):
    """The pipelines that ship with the project."""

    # TPC-H's scale factor. Above 180, sums of query 1 may leave 64 bits (pipelines/lineitem.py has the arithmetic).
    scale_factor: float = Field(0.1, alias="SF", gt=0, le=180, allow_inf_nan=False)
    # Steps that a map is cut into. Beyond 10,000, Dagster's own cost of a step exceeds the work.
    map_steps: int = Field(8, alias="MAP_STEPS", ge=1, le=10_000)
    # Root of raw/ and matrices/.
    data_dir: Path = Field(Path("data"), alias="DATA_DIR")
