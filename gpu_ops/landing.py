"""The landing field: buffers on the CUDA device that transfers fill while kernels read the one before.

Order is kept by events on the device, so no CPU thread waits for a kernel: the copy stream waits for the kernels that
last read a buffer, the compute stream waits for the transfer that fills it. When the device is full, buffers are given
up: free ones first, then those whose block is not in use yet, which goes back to its host slot unharmed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gpu_ops.combiner import Block
from gpu_ops.ring import Filled, Ring
from gpu_ops.source import layout_end, view_tensor


@dataclass(frozen=True, slots=True)
class _Room:
    """A buffer on the device, and the event after which it may be overwritten."""

    tensor: torch.Tensor
    used: torch.cuda.Event | None


@dataclass(frozen=True, slots=True)
class _Landed:
    """A block on its way to, or on, the device."""

    position: int
    filled: Filled
    tensor: torch.Tensor
    copied: torch.cuda.Event


class Landing:
    """Moves the blocks of a ring to a device, at most `window` of them at a time."""

    def __init__(self, ring: Ring, slots: list[torch.Tensor], *, device: torch.device, window: int) -> None:
        self.ring = ring
        self.window = window
        self._slots = slots
        self._device = device
        self._copy_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch does not annotate it
        size = slots[0].shape[0]
        self._free = deque(_Room(torch.empty(size, dtype=torch.uint8, device=device), None) for _ in range(window))
        self._landed: deque[_Landed] = deque()
        self._position = 0
        self._copy_stream.wait_stream(torch.cuda.current_stream(device))  # the buffers' memory was last used there

    def blocks(self) -> Iterator[tuple[int, Block, Filled]]:
        """Yield (index, block on the device, its host slot); the block is valid until the next one is asked for."""
        try:
            while self._position < len(self.ring.indexes) or self._landed:
                self._fill_ahead()
                current = self._landed.popleft()
                torch.cuda.current_stream(self._device).wait_event(current.copied)
                tensors = {name: view_tensor(current.tensor, slot) for name, slot in current.filled.layout.items()}
                yield self.ring.indexes[current.position], tensors, current.filled
                self._retire(current)
        finally:
            self._copy_stream.synchronize()  # no transfer may outlive its buffers

    def shrink(self, window: int) -> None:
        """Give up buffers until at most `window` are left, the one in use counted in."""
        self.window = window
        while len(self._free) + len(self._landed) + 1 > window:
            if self._free:
                self._free.pop()
            elif self._landed:
                last = self._landed.pop()
                last.copied.synchronize()
                self.ring.put_back(last.position, last.filled)
                self._position = last.position
            else:
                break
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()

    def _fill_ahead(self) -> None:
        """Start transfers into free buffers; waits for a block only if there is none to compute on."""
        is_more = self._position < len(self.ring.indexes)
        while is_more and self._free and (not self._landed or self.ring.is_ready(self._position)):
            filled = self.ring.take(self._position)
            self._landed.append(self._transfer(filled, self._free.popleft()))
            self._position += 1
            is_more = self._position < len(self.ring.indexes)

    def _transfer(self, filled: Filled, room: _Room) -> _Landed:
        """One copy for all tensors of the block."""
        end = layout_end(filled.layout)
        copied = _new_event()
        with torch.cuda.stream(self._copy_stream):
            if room.used is not None:
                self._copy_stream.wait_event(room.used)
            room.tensor[:end].copy_(self._slots[filled.slot][:end], non_blocking=True)
            copied.record(self._copy_stream)
        return _Landed(position=self._position, filled=filled, tensor=room.tensor, copied=copied)

    def _retire(self, current: _Landed) -> None:
        used = _new_event()
        used.record(torch.cuda.current_stream(self._device))
        current.copied.synchronize()  # over long ago: compute was queued behind it; now the host slot may be refilled
        self.ring.give_back(current.filled.slot)
        if len(self._free) + len(self._landed) < self.window:
            self._free.append(_Room(current.tensor, used))


def _new_event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch does not annotate it
