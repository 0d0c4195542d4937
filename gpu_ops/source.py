"""Where blocks come from: something that fills a buffer with the bytes of one block.

A store's reader receives the bytes straight from the socket into the ring's (pinned) buffer and answers with a layout:
which tensor lies where. That is the only host copy on the way to the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch

from gpu_ops.combiner import Block
from gpu_ops.errors import BadSetting, ShapeMismatch

ALIGNMENT = 64  # bytes: a cache line, and more than any dtype needs


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """Where one tensor lies in a buffer, in bytes; row-major."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def n_bytes(self) -> int:
        """Length in bytes."""
        return prod(self.shape) * self.dtype.itemsize


Layout = Mapping[str, TensorSlot]


class BlockSource(Protocol):
    """What the streaming engine reads from. `fill` is called from several threads at once, with different buffers."""

    @property
    def block_bytes_max(self) -> int:
        """Most bytes that any block needs in a buffer."""
        ...

    def fill(self, index: int, buffer: memoryview) -> Layout:
        """Write block `index` into the buffer and say where its tensors lie."""
        ...


class CallSource:
    """A source of blocks that are tensors already (generated, or in memory): copies them into the ring."""

    def __init__(self, load: Callable[[int], Block], block_bytes_max: int) -> None:
        if block_bytes_max < 1:
            raise BadSetting("block_bytes_max", block_bytes_max, "at least 1")
        self._load = load
        # Each tensor starts on a cache line; 16 columns' worth of padding is allowed for.
        self._bytes_max = block_bytes_max + 16 * ALIGNMENT

    @property
    def block_bytes_max(self) -> int:
        """Most bytes of a block, with padding."""
        return self._bytes_max

    def fill(self, index: int, buffer: memoryview) -> Layout:
        """Load block `index` and copy its tensors into the buffer. Raises ShapeMismatch if they do not fit."""
        room = torch.frombuffer(buffer, dtype=torch.uint8)
        layout: dict[str, TensorSlot] = {}
        end = 0
        for name, tensor in self._load(index).items():
            slot = TensorSlot(dtype=tensor.dtype, shape=tuple(tensor.shape), offset=-(-end // ALIGNMENT) * ALIGNMENT)
            end = slot.offset + slot.n_bytes
            if end > room.shape[0]:
                raise ShapeMismatch(
                    f"Block {index} with {end} bytes", "too long", f"{room.shape[0]} bytes", "raise block_bytes_max"
                )
            view_tensor(room, slot).copy_(tensor)
            layout[name] = slot
        return layout


def view_tensor(room: torch.Tensor, slot: TensorSlot) -> torch.Tensor:
    """The tensor at a slot of a byte buffer: a view, or a copy where the offset is not aligned for the dtype."""
    raw = room[slot.offset : slot.offset + slot.n_bytes]
    if slot.n_bytes == 0:
        return torch.empty(slot.shape, dtype=slot.dtype, device=room.device)
    if slot.offset % slot.dtype.itemsize:
        raw = raw.clone()
    return raw.view(slot.dtype).view(slot.shape)


def layout_end(layout: Layout) -> int:
    """One past the last byte in use."""
    return max((slot.offset + slot.n_bytes for slot in layout.values()), default=0)
