"""A dataset: a manifest (JSON) of blocks in a store, and the lazy handle through which steps read them.

A manifest names every block with its size, checksum and tensors, so a reader can plan and verify without opening any
block. It is written after its blocks and never changed; which manifest is current is said by a pointer (publish.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from gpu_ops.source import Layout
from orchestrator_pkg.blocks import Block, decode, encode, layout_of
from orchestrator_pkg.store.base import BlockStore, ChecksumMismatch, crc32c_of, require_crc

MANIFEST_VERSION = 1
# A manifest is read whole; a hundred thousand blocks make about 30 MB of JSON.
BLOCKS_MAX = 100_000

JsonValue = Any


class ManifestError(ValueError):
    """A manifest that this version cannot read, or a dataset that cannot be described by one."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Dtype (safetensors' name) and shape of one tensor of a block."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """One block: where it is, how long, its CRC32C, and its tensors by name."""

    key: str
    size_bytes: int
    crc32c: int
    tensors: Mapping[str, TensorInfo]

    @property
    def rows(self) -> int:
        """The common first dimension of its tensors; 0 when it has none."""
        return next((info.shape[0] for info in self.tensors.values() if info.shape), 0)

    def to_json(self) -> dict[str, JsonValue]:
        """As plain JSON."""
        tensors = {name: [info.dtype, list(info.shape)] for name, info in self.tensors.items()}
        return {"key": self.key, "bytes": self.size_bytes, "crc32c": f"{self.crc32c:08x}", "tensors": tensors}

    @classmethod
    def from_json(cls, data: Mapping[str, JsonValue]) -> BlockInfo:
        """The reverse of to_json."""
        tensors = {name: TensorInfo(dtype, tuple(shape)) for name, (dtype, shape) in data["tensors"].items()}
        return cls(data["key"], int(data["bytes"]), int(data["crc32c"], 16), tensors)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All blocks of one version of a dataset, and what else its readers need.

    `kind` says what was stored: "dataset" (many blocks), "tensors" (a dict), "tensor", "json" (no blocks, the value is
    in the attributes) or "none". `attributes` are JSON: names of codes, scales, seeds. A part of a dataset has a
    manifest of its own, which says with `first` and `total` where the part lies in the whole.
    """

    kind: str
    blocks: tuple[BlockInfo, ...] = ()
    attributes: Mapping[str, JsonValue] = field(default_factory=dict)
    first: int = 0
    total: int | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all blocks."""
        return sum(block.size_bytes for block in self.blocks)

    @property
    def rows(self) -> int:
        """Rows of all blocks."""
        return sum(block.rows for block in self.blocks)

    @property
    def crc32c(self) -> int:
        """One checksum over those of all blocks, in order: equal data in equal blocks give an equal number."""
        return crc32c_of(b"".join(block.crc32c.to_bytes(4, "big") for block in self.blocks))

    def to_bytes(self) -> bytes:
        """As JSON."""
        blocks = [block.to_json() for block in self.blocks]
        body = {
            "version": MANIFEST_VERSION,
            "kind": self.kind,
            "attributes": dict(self.attributes),
            "blocks": blocks,
            "first": self.first,
            "total": self.total,
        }
        return json.dumps(body, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """The reverse of to_bytes. Raises ManifestError."""
        try:
            body = json.loads(data)
            if body["version"] != MANIFEST_VERSION:
                raise ManifestError(
                    f"The manifest has version {body['version']}, known is {MANIFEST_VERSION}; upgrade this process."
                )
            blocks = tuple(map(BlockInfo.from_json, body["blocks"]))
            return cls(body["kind"], blocks, body["attributes"], body["first"], body["total"])
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ManifestError(f"The manifest cannot be read ({error!r}); materialize its asset again.") from None


@dataclass(frozen=True, slots=True)
class BlockRef:
    """One block that is read when it is needed."""

    store: BlockStore
    info: BlockInfo

    def load(self) -> Block:
        """The tensors, on the CPU, checked against the manifest. Raises StoreError, ChecksumMismatch."""
        room = bytearray(self.info.size_bytes)
        self.read_into(memoryview(room))
        return decode(room)

    def read_into(self, buffer: memoryview) -> Layout:
        """Reads the object into the start of a buffer and says where its tensors lie. Raises as load."""
        part = buffer[: self.info.size_bytes]
        stored = self.store.get_into(self.info.key, part)
        # The store has verified the bytes against its own record; this compares that record with the manifest's.
        found = stored.crc32c if stored.crc32c is not None else crc32c_of(part)
        require_crc(self.info.key, found=found, wanted=self.info.crc32c)
        return layout_of(part)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A published dataset: nothing is read before it is asked for. Also a BlockSource of gpu_ops' streaming engine."""

    store: BlockStore
    manifest: Manifest

    def __len__(self) -> int:
        return len(self.manifest.blocks)

    def __getitem__(self, index: int) -> BlockRef:
        return BlockRef(self.store, self.manifest.blocks[index])

    def __iter__(self) -> Iterator[BlockRef]:
        return (self[index] for index in range(len(self)))

    @property
    def attributes(self) -> Mapping[str, JsonValue]:
        """What the writer said about the data."""
        return self.manifest.attributes

    @property
    def block_bytes_max(self) -> int:
        """Size of the largest block; at least one byte, so that a ring can be made."""
        return max((block.size_bytes for block in self.manifest.blocks), default=1)

    @property
    def total_blocks(self) -> int:
        """Blocks of the whole dataset, of which this may be a part."""
        return len(self) if self.manifest.total is None else self.manifest.total

    @property
    def indexes(self) -> range:
        """Indexes of these blocks in the whole dataset."""
        return range(self.manifest.first, self.manifest.first + len(self))

    def slice(self, blocks: range) -> Dataset:
        """A contiguous part: the same blocks by reference, so nothing is read or written."""
        first = self.manifest.first + blocks.start
        part = self.manifest.blocks[blocks.start : blocks.stop]
        return replace(self, manifest=replace(self.manifest, blocks=part, first=first, total=self.total_blocks))

    def fill(self, index: int, buffer: memoryview) -> Layout:
        """Reads the block with this index in the whole dataset into a ring's buffer. Raises StoreError."""
        return self[index - self.manifest.first].read_into(buffer)


@dataclass(frozen=True, slots=True)
class BlockStream:
    """What an asset returns to write a dataset block by block, so that never all of it is in memory."""

    blocks: Iterable[Mapping[str, torch.Tensor]]
    attributes: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(slots=True)
class WriteReport:
    """What writing took; `seconds` counts encoding and storing, not the making of the blocks."""

    size_bytes: int = 0
    seconds: float = 0.0


def write_blocks(
    store: BlockStore, prefix: str, blocks: Iterable[Mapping[str, torch.Tensor]], report: WriteReport
) -> tuple[BlockInfo, ...]:
    """Writes blocks under prefix and describes them.

    Raises:
        StoreError: the store refuses; blocks written before stay unpublished, so nobody reads them.
        ManifestError: too many blocks.
    """
    infos: list[BlockInfo] = []
    for index, block in enumerate(blocks):
        if index >= BLOCKS_MAX:
            raise ManifestError(f"A dataset has at most {BLOCKS_MAX} blocks; write larger ones.")
        started = time.perf_counter()
        infos.append(_write_block(store, f"{prefix}/block-{index:06d}.safetensors", block))
        report.seconds += time.perf_counter() - started
        report.size_bytes += infos[-1].size_bytes
    return tuple(infos)


def _write_block(store: BlockStore, key: str, block: Mapping[str, torch.Tensor]) -> BlockInfo:
    encoded = encode(block)
    stored = store.put(key, encoded.parts)
    if stored.size_bytes != encoded.size_bytes or stored.crc32c is None:
        raise ChecksumMismatch(f"{key} was stored with {stored.size_bytes} of {encoded.size_bytes} bytes; try again.")
    tensors = {name: TensorInfo(dtype, shape) for name, (dtype, shape) in encoded.tensors.items()}
    return BlockInfo(key, encoded.size_bytes, stored.crc32c, tensors)
