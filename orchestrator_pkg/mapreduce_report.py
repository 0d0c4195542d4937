"""What map steps did: numbers that travel beside their nodes, and the metadata made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gpu_ops import StreamReport, describe, peak_memory_bytes

# Beside its nodes a map step stores what it did, under names that no node has.
_COUNTS = "report.counts"  # int64: blocks, bytes, blocks of the whole dataset
_SECONDS = "report.seconds"  # float64: streaming, waiting for data


def nodes_only(partial: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a map step stored, without its report."""
    return {name: tensor for name, tensor in partial.items() if name not in (_COUNTS, _SECONDS)}


def report_tensors(report: StreamReport, dataset_blocks: int) -> dict[str, torch.Tensor]:
    """The report of a map step as tensors that travel with its nodes."""
    return {
        _COUNTS: torch.tensor([report.blocks, report.bytes, dataset_blocks], dtype=torch.int64),
        _SECONDS: torch.tensor([report.seconds, report.wait_seconds], dtype=torch.float64),
    }


def stream_metadata(report: StreamReport, device: torch.device) -> dict[str, Any]:
    """Metadata of one map step."""
    return {
        "blocks": report.blocks,
        "bytes": report.bytes,
        "seconds": round(report.seconds, 4),
        "GB_per_s": round(report.gb_per_s, 3),
        "slowest_link": "store" if report.wait_seconds > report.seconds / 2 else "compute",
        "device": describe(device).name or str(device),
        "peak_device_bytes": peak_memory_bytes(device),
    }


@dataclass(frozen=True, slots=True)
class TotalReport:
    """What all map steps did together; `seconds` is the longest of them, for they run side by side."""

    steps: int
    blocks: int
    bytes: int
    dataset_blocks: int
    seconds: float
    busy_seconds: float
    wait_seconds: float

    @classmethod
    def of(cls, partials: Sequence[Mapping[str, torch.Tensor]]) -> TotalReport:
        """Adds up the reports of all map steps."""
        counts = torch.stack([partial[_COUNTS] for partial in partials])
        seconds = torch.stack([partial[_SECONDS] for partial in partials])
        return cls(
            steps=len(partials),
            blocks=int(counts[:, 0].sum()),
            bytes=int(counts[:, 1].sum()),
            dataset_blocks=int(counts[0, 2]),
            seconds=float(seconds[:, 0].max()),
            busy_seconds=float(seconds[:, 0].sum()),
            wait_seconds=float(seconds[:, 1].sum()),
        )

    def metadata(self, reduce_seconds: float) -> dict[str, Any]:
        """Metadata of the whole asset."""
        is_store_slow = self.wait_seconds > self.busy_seconds / 2
        return {
            "blocks": self.blocks,
            "bytes": self.bytes,
            "seconds": round(self.seconds + reduce_seconds, 4),
            "map_steps": self.steps,
            "map_seconds": round(self.busy_seconds, 4),
            "reduce_seconds": round(reduce_seconds, 4),
            "GB_per_s": round(self.bytes / self.busy_seconds / 1e9, 3) if self.busy_seconds else 0.0,
            "slowest_link": "store" if is_store_slow else "compute",
        }
