"""The streaming engine: store -> ring of reused buffers -> device -> compute, all at the same time.

    reader threads   fill free slots of the ring (pinned memory on CUDA, so that copies run in the background)
    copy stream      moves whole slots to the device, one transfer a block, as the slots become full
    compute          starts when its block has landed; meanwhile the next ones are read and moved

On the CPU the same engine runs: the ring is plain memory, there is no second copy, and a block is a view of its slot.

Memory: depth x block bytes on the host, window x block bytes on the device, allocated once. If the device is full, the
window is halved (4 blocks in transfer, 2, 1), never the block: blocks are the leaves of the canonical tree, so halving
them would change the bits.

Expected time: the slowest of bytes / store bandwidth, bytes / 55 GB/s (PCIe 5), and compute; `wait_seconds` near the
total says that the source is the limit, near zero that compute is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch

from gpu_ops.combiner import Block, Combiner, Partial, guard
from gpu_ops.device import best_device
from gpu_ops.errors import BadSetting, DeviceMemoryFull
from gpu_ops.landing import Landing
from gpu_ops.ring import Filled, Ring
from gpu_ops.source import BlockSource, view_tensor
from gpu_ops.tree import Node, Nodes, TreeReducer

DEPTH_MAX = 64  # slots; more would only hide a source that is too slow
READERS_MAX = 64  # threads of one engine
WINDOW_START = 4  # blocks on the device at a time: one computing, one in transfer, two to even out the readers


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What a stream did. Bytes are those of the blocks' tensors; seconds are wall clock."""

    device: str
    blocks: int
    bytes: int
    seconds: float
    wait_seconds: float  # of it, time in which compute had no block
    depth: int
    window: int  # blocks on the device at a time, after halving
    halvings: int

    @property
    def gb_per_s(self) -> float:
        """Bytes a second, in units of 1e9."""
        return self.bytes / self.seconds / 1e9 if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class StreamResult:
    """The nodes of a streamed range, and the report."""

    nodes: Nodes
    report: StreamReport


class StreamEngine:
    """Streams blocks of a source to a device. Use as a context manager; one iteration at a time."""

    def __init__(
        self,
        source: BlockSource,
        *,
        device: torch.device | str | None = None,
        depth: int = 4,
        readers: int = 1,
        window: int = WINDOW_START,
    ) -> None:
        if not 2 <= depth <= DEPTH_MAX:
            raise BadSetting("depth", depth, f"between 2 (one slot fills while one is read) and {DEPTH_MAX}")
        if not 1 <= readers <= READERS_MAX:
            raise BadSetting("readers", readers, f"between 1 and {READERS_MAX}")
        if window < 1:
            raise BadSetting("window", window, "at least 1")
        self.source = source
        self.device = best_device(device)
        self.depth = depth
        self.readers = readers
        self.window = min(window, depth)
        is_pinned = self.device.type == "cuda"
        self._slots = [
            torch.empty(source.block_bytes_max, dtype=torch.uint8, pin_memory=is_pinned) for _ in range(depth)
        ]
        self._ring: Ring | None = None
        self._landing: Landing | None = None
        self._blocks = self._bytes = self._halvings = 0
        self._seconds = self._wait_seconds = 0.0

    def __enter__(self) -> StreamEngine:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the readers and free the ring."""
        self._stop()
        self._slots = []

    @property
    def report(self) -> StreamReport:
        """Totals of all iterations so far."""
        return StreamReport(
            device=str(self.device),
            blocks=self._blocks,
            bytes=self._bytes,
            seconds=self._seconds,
            wait_seconds=self._wait_seconds,
            depth=self.depth,
            window=self.window,
            halvings=self._halvings,
        )

    def blocks(self, indexes: Sequence[int]) -> Generator[tuple[int, Block], None, None]:
        """Yield (index, block) in the given order. A block is valid until the next one is asked for.

        Raises what the source raised, at the block where it happened; DeviceMemoryFull if one block does not fit.
        """
        if not self._slots:
            raise BadSetting("the engine", "closed", "used inside its `with` statement")
        if self._ring is not None:
            raise BadSetting("the engine", "already streaming", "used for one iteration at a time")
        started = time.perf_counter()
        ring = self._ring = Ring(self.source, self._slots, indexes)
        ring.start(self.readers)
        moved = self._cuda_blocks(ring) if self.device.type == "cuda" else self._cpu_blocks(ring)
        try:
            for index, block, filled in moved:
                self._blocks += 1
                self._bytes += sum(slot.n_bytes for slot in filled.layout.values())
                yield index, block
        finally:
            moved.close()
            self._stop()
            self._wait_seconds += ring.wait_seconds
            self._seconds += time.perf_counter() - started

    def shrink(self) -> bool:
        """Halve the number of blocks on the device, at once; False if it was one already."""
        if self.window <= 1:
            return False
        self.window //= 2
        self._halvings += 1
        if self._landing is not None:
            self._landing.shrink(self.window)
        return True

    def shrink_or_raise(self) -> None:
        """Halve the number of blocks on the device. Raises DeviceMemoryFull if it was one already."""
        if not self.shrink():
            raise DeviceMemoryFull(self.source.block_bytes_max, self.device)

    def _stop(self) -> None:
        if self._ring is not None:
            self._ring.stop()
        self._ring = self._landing = None

    def _cpu_blocks(self, ring: Ring) -> Generator[tuple[int, Block, Filled], None, None]:
        for position, index in enumerate(ring.indexes):
            filled = ring.take(position)
            room = self._slots[filled.slot]
            yield index, {name: view_tensor(room, slot) for name, slot in filled.layout.items()}, filled
            ring.give_back(filled.slot)

    def _cuda_blocks(self, ring: Ring) -> Generator[tuple[int, Block, Filled], None, None]:
        while self._landing is None:
            try:
                self._landing = Landing(ring, self._slots, device=self.device, window=self.window)
            except torch.OutOfMemoryError:
                pass  # the next lines ask for less, after this attempt's buffers went with its frame
            if self._landing is None:
                self.shrink_or_raise()
                torch.cuda.empty_cache()
        yield from self._landing.blocks()


def stream_reduce(
    combiner: Combiner,
    source: BlockSource,
    indexes: Sequence[int],
    *,
    device: torch.device | str | None = None,
    depth: int = 4,
    readers: int = 1,
    on_block: Callable[[int], None] | None = None,
) -> StreamResult:
    """Stream a range of blocks through a combiner to the tree nodes it covers.

    Partials stay on the device until the end. `on_block` receives the number of blocks done. Raises what the source,
    the combiner's lift and its guard raise; DeviceMemoryFull if one block and its working memory do not fit.
    """
    reducer = TreeReducer(combiner)
    with StreamEngine(source, device=device, depth=depth, readers=readers) as engine:
        for done, (index, block) in enumerate(engine.blocks(indexes), start=1):
            reducer.add(Node(0, index), _lift_or_shrink(combiner, block, engine))
            if on_block is not None:
                on_block(done)
        nodes = reducer.nodes()
        for partial in nodes.values():
            guard(combiner, partial)
        return StreamResult(nodes=nodes, report=engine.report)


def _lift_or_shrink(combiner: Combiner, block: Block, engine: StreamEngine) -> Partial:
    """Lift; when the device is full, halve the window and lift the same block again."""
    while True:
        try:
            return combiner.lift(block)
        except torch.OutOfMemoryError:
            pass  # not handled here: until this clause ends, the failed attempt's frames hold its tensors
        engine.shrink_or_raise()
