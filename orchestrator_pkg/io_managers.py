"""I/O managers that keep tensors as safetensors blocks in a store; never pickle.

They take `dict[str, Tensor]`, `Tensor`, `BlockStream` (a dataset written block by block), `Dataset` (kept by
reference), JSON values and None, and give back the same; a dataset comes back as a lazy `Dataset`. An input annotated
`Dataset` or `BlockRef` is never loaded, only opened.

Blocks and manifest go under keys of the attempt's own. Outside a slot the pointer is swapped at once; inside one, an
intent is left for the commit point (publish.py).
"""

# Dagster reads annotations at run time, so they must not become strings: no `from __future__ import annotations`.

import json
import time
import uuid
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from dagster import ConfigurableIOManager, InputContext, MetadataValue, OutputContext, ResourceDependency
from dagster_aws.s3 import S3Resource

from orchestrator_pkg.dataset import BlockRef, BlockStream, Dataset, Manifest, WriteReport, write_blocks
from orchestrator_pkg.failures import BadInput, plain_failures
from orchestrator_pkg.publish import PublishIntent, current_attempt, open_dataset, publish
from orchestrator_pkg.resources import StoreResource
from orchestrator_pkg.store import BlockStore, LocalStore
from orchestrator_pkg.store.s3 import S3Store

# Partitions of one input that are read at the same time.
PARALLEL_PARTITIONS_MAX = 8
# A JSON value lives in the manifest; larger data belong into tensors.
JSON_BYTES_MAX = 1024 * 1024
# Shapes shown in metadata; a dataset may have many more tensors.
SHAPES_SHOWN_MAX = 20


class BlockIOManager(ConfigurableIOManager):
    """What all tensor I/O managers do; a subclass says only which store."""

    @abstractmethod
    def open_store(self) -> BlockStore:
        """The store that keeps the blocks."""

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        """Writes, publishes or leaves an intent, and reports. Raises dagster.Failure in plain words."""
        with plain_failures():
            started = time.perf_counter()
            store, dataset, report = self.open_store(), _output_key(context), WriteReport()
            attempt = f"{dataset}/_attempts/{_attempt_name(context)}"
            manifest = _write(store, attempt, obj, report)
            manifest_key = f"{attempt}/manifest.json"
            store.put(manifest_key, manifest.to_bytes())
            _publish_or_leave(context, store, dataset, manifest_key)
        context.add_output_metadata(_metadata(context, manifest, report, time.perf_counter() - started))

    def load_input(self, context: InputContext) -> Any:
        """Loads or opens the current version. Raises dagster.Failure in plain words."""
        with plain_failures():
            store, wanted = self.open_store(), context.dagster_type.typing_type
            if context.has_asset_key and context.has_asset_partitions:
                return _load_partitions(store, context, wanted)
            return _value_of(open_dataset(store, _input_key(context)), wanted)


class TensorIOManager(BlockIOManager):
    """Keeps blocks in the store of the settings: S3 when MINIO_ENDPOINT is set, otherwise the folder STORE_DIR."""

    store: ResourceDependency[StoreResource]

    def open_store(self) -> BlockStore:
        return self.store.open()


class LocalTensorIOManager(BlockIOManager):
    """Keeps blocks below a local folder."""

    root: str

    def open_store(self) -> BlockStore:
        return LocalStore(Path(self.root))


class S3TensorIOManager(BlockIOManager):
    """Keeps blocks in an S3 bucket, through dagster-aws's S3Resource."""

    s3: ResourceDependency[S3Resource]
    bucket: str
    prefix: str = ""

    def open_store(self) -> BlockStore:
        return S3Store(self.s3.get_client(), self.bucket, prefix=self.prefix)


# ----------------------------------------------------------------------------------------------------------- keys


def _output_key(context: OutputContext) -> str:
    if context.has_asset_key:
        partition = context.asset_partition_key if context.has_asset_partitions else None
        return asset_dataset_key(context.asset_key.path, partition)
    return "/".join(["_runs", *(quote(part, safe="") for part in context.get_identifier())])


def asset_dataset_key(path: Sequence[str], partition: str | None = None) -> str:
    """Where the store keeps an asset, or one partition of it."""
    parts = [*path] if partition is None else [*path, "partition=" + partition]
    return "/".join(quote(part, safe="=") for part in parts)


def _input_key(context: InputContext) -> str:
    if context.has_asset_key:
        return asset_dataset_key(context.asset_key.path)
    if context.upstream_output is None:
        raise BadInput(f"Input {context.name} has no upstream output; give it an asset key or connect it to an op.")
    return _output_key(context.upstream_output)


def _attempt_name(context: OutputContext) -> str:
    attempt, unique = current_attempt(), uuid.uuid4().hex[:8]
    if attempt is None:
        return f"{context.run_id}-{unique}"
    return f"{context.run_id}-{attempt.token[0]}.{attempt.token[1]}-{unique}"


def _publish_or_leave(context: OutputContext, store: BlockStore, dataset: str, manifest_key: str) -> None:
    attempt = current_attempt()
    intent = PublishIntent(
        store=store.describe(),
        dataset=dataset,
        manifest=manifest_key,
        run_id=context.run_id,
        step_key=context.step_key,
        token=attempt.token if attempt else None,
        plane=attempt.plane if attempt else "",
    )
    if attempt is None:
        publish(intent, store=store)
    else:
        attempt.intents.append(intent)


# --------------------------------------------------------------------------------------------------------- values


def _write(store: BlockStore, prefix: str, obj: Any, report: WriteReport) -> Manifest:
    if obj is None:
        return Manifest("none")
    if isinstance(obj, torch.Tensor):
        return Manifest("tensor", write_blocks(store, prefix, [{"value": obj}], report))
    if isinstance(obj, BlockStream):
        blocks = write_blocks(store, prefix, obj.blocks, report)
        if not blocks:
            raise BadInput(
                "The dataset is empty: it has no block; check the filter or the source that makes its blocks."
            )
        return Manifest("dataset", blocks, obj.attributes)
    if isinstance(obj, Dataset):
        return obj.manifest
    if isinstance(obj, BlockRef):
        return Manifest("dataset", (obj.info,))
    if isinstance(obj, Mapping) and obj and all(isinstance(value, torch.Tensor) for value in obj.values()):
        return Manifest("tensors", write_blocks(store, prefix, [obj], report))
    return _json_manifest(obj)


def _json_manifest(obj: Any) -> Manifest:
    try:
        text = json.dumps(obj, allow_nan=False)
        is_same = json.loads(text) == obj
    except (TypeError, ValueError):
        text, is_same = "", False
    if not is_same:
        raise BadInput(
            f"A value of type {type(obj).__name__} cannot be stored without pickle; return tensors, a BlockStream, or "
            "plain JSON values, or choose another I/O manager for this output."
        )
    if len(text) > JSON_BYTES_MAX:
        raise BadInput(
            f"A JSON value of {len(text)} bytes is too large (most: {JSON_BYTES_MAX}); store it as a tensor."
        )
    return Manifest("json", attributes={"value": obj})


def _value_of(dataset: Dataset, wanted: Any) -> Any:
    if wanted is Dataset:
        return dataset
    if wanted is BlockRef:
        return dataset[0]
    match dataset.manifest.kind:
        case "none":
            return None
        case "json":
            return dataset.attributes["value"]
        case "tensor":
            return dataset[0].load()["value"]
        case "tensors":
            return dataset[0].load()
        case _:
            return dataset


def _load_partitions(store: BlockStore, context: InputContext, wanted: Any) -> Any:
    keys = list(context.asset_partition_keys)

    def load(partition: str) -> Any:
        key = asset_dataset_key(context.asset_key.path, partition)
        return _value_of(open_dataset(store, key), wanted)

    if len(keys) == 1:
        return load(keys[0])
    with ThreadPoolExecutor(PARALLEL_PARTITIONS_MAX, thread_name_prefix="partition") as pool:
        return dict(zip(keys, pool.map(load, keys), strict=True))


# ------------------------------------------------------------------------------------------------------- metadata


def _metadata(context: OutputContext, manifest: Manifest, report: WriteReport, seconds: float) -> dict[str, Any]:
    """What Dagster's UI shows. An asset that reports its own bytes and seconds keeps them."""
    rate = report.size_bytes / report.seconds / 1e6 if report.seconds else 0.0
    found: dict[str, Any] = {"stored_bytes": report.size_bytes, "stored_seconds": round(report.seconds, 4)}
    if report.size_bytes:
        found["stored_MB_per_s"] = round(rate, 3)
        found["checksum"] = f"crc32c:{manifest.crc32c:08x}"
        found["tensors"] = MetadataValue.json(_shapes(manifest))
    own = context.output_metadata
    usual = {"blocks": len(manifest.blocks), "bytes": manifest.size_bytes, "seconds": round(seconds, 4)}
    if manifest.kind == "dataset":
        usual["rows"] = manifest.rows
    return found | {name: value for name, value in usual.items() if name not in own}


def _shapes(manifest: Manifest) -> dict[str, str]:
    first = manifest.blocks[0].tensors
    shown = list(first.items())[:SHAPES_SHOWN_MAX]
    more = {"...": f"{len(first) - len(shown)} more"} if len(first) > len(shown) else {}
    return {name: f"{info.dtype} {list(info.shape)}" for name, info in shown} | more
