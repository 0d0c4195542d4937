"""The streaming engine on the CPU: order, reuse of the ring, failures, reports; the CUDA half is in tests/gpu."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest
import torch

from gpu_ops import (
    BadSetting,
    Block,
    CallSource,
    DeviceMemoryFull,
    Layout,
    Moments,
    NaNFound,
    Partial,
    ShapeMismatch,
    StreamEngine,
    TensorSlot,
    compose,
    merge_nodes,
    reduce_range,
    same_bits,
    stream_reduce,
)
from gpu_ops.source import layout_end, view_tensor

ROWS = 11


def make_block(index: int) -> Block:
    generator = torch.Generator().manual_seed(index)
    return {
        "x": torch.randn(ROWS, generator=generator, dtype=torch.float64),
        "flag": torch.full((ROWS,), index % 100, dtype=torch.int8),
        "m": torch.randn(ROWS, 3, generator=generator),
    }


BLOCK_BYTES = ROWS * (8 + 1 + 12)
COMBINER = compose(x=Moments("x"), m=Moments("m"))


class GatedSource:
    """Blocks that wait until the test lets them through, to force an order of reading."""

    def __init__(self) -> None:
        self.gates = [threading.Event() for _ in range(6)]
        self.inner = CallSource(make_block, BLOCK_BYTES)
        self.buffers: set[int] = set()

    @property
    def block_bytes_max(self) -> int:
        return self.inner.block_bytes_max

    def fill(self, index: int, buffer: memoryview) -> Layout:
        assert self.gates[index].wait(timeout=10), "the test opens every gate"
        self.buffers.add(torch.frombuffer(buffer, dtype=torch.uint8).data_ptr())
        if index > 0:
            self.gates[index - 1].set()
        return self.inner.fill(index, buffer)


@pytest.mark.parametrize(("depth", "readers"), [(2, 1), (3, 2), (8, 8)])
def test_every_block_arrives_in_order_and_whole(depth: int, readers: int) -> None:
    order = [5, 3, 9, 0, 1, 2, 40, 7]
    with StreamEngine(CallSource(make_block, BLOCK_BYTES), device="cpu", depth=depth, readers=readers) as engine:
        seen = []
        for index, block in engine.blocks(order):
            seen.append(index)
            assert same_bits(block, make_block(index))
        report = engine.report
    assert seen == order
    assert (report.blocks, report.bytes) == (8, 8 * BLOCK_BYTES)
    assert report.seconds >= report.wait_seconds > 0
    assert report.gb_per_s > 0


def test_order_holds_when_reads_end_in_reverse() -> None:
    source = GatedSource()
    source.gates[5].set()  # block 5 opens 4, 4 opens 3, ...
    with StreamEngine(source, device="cpu", depth=6, readers=6) as engine:
        assert [index for index, _ in engine.blocks(range(6))] == list(range(6))


def test_the_ring_is_reused() -> None:
    source = GatedSource()
    for gate in source.gates:
        gate.set()
    with StreamEngine(source, device="cpu", depth=2, readers=2) as engine:
        for _ in engine.blocks(range(6)):
            pass
    assert len(source.buffers) == 2


def test_same_bits_for_any_depth_readers_and_split() -> None:
    wanted = merge_nodes(COMBINER, reduce_range(COMBINER, ((i, make_block(i)) for i in range(13))))
    source = CallSource(make_block, BLOCK_BYTES)
    whole = stream_reduce(COMBINER, source, range(13), device="cpu", depth=5, readers=3)
    first = stream_reduce(COMBINER, source, range(4), device="cpu", depth=2)
    second = stream_reduce(COMBINER, source, range(4, 13), device="cpu")
    assert same_bits(merge_nodes(COMBINER, whole.nodes, n_blocks=13), wanted)
    assert same_bits(merge_nodes(COMBINER, [*second.nodes.items(), *first.nodes.items()], n_blocks=13), wanted)


def test_a_failed_read_is_raised_at_its_block() -> None:
    def load(index: int) -> Block:
        if index == 3:
            raise ConnectionError("store went away")
        return make_block(index)

    seen: list[int] = []

    def consume(engine: StreamEngine) -> None:
        for index, _ in engine.blocks(range(6)):
            seen.append(index)

    with (
        StreamEngine(CallSource(load, BLOCK_BYTES), device="cpu", depth=4, readers=2) as engine,
        pytest.raises(ConnectionError, match="store went away"),
    ):
        consume(engine)
    assert seen == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("block-reader")]


def test_leaving_early_stops_the_readers() -> None:
    with StreamEngine(CallSource(make_block, BLOCK_BYTES), device="cpu") as engine:
        for index, _ in engine.blocks(range(1000)):
            if index == 2:
                break
        again = [index for index, _ in engine.blocks(range(3))]
    assert again == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("block-reader")]


def test_progress_and_guard() -> None:
    done: list[int] = []
    stream_reduce(Moments("x"), CallSource(make_block, BLOCK_BYTES), range(3), device="cpu", on_block=done.append)
    assert done == [1, 2, 3]
    bad = CallSource(lambda _: {"x": torch.tensor([float("nan")])}, 8)
    with pytest.raises(NaNFound):
        stream_reduce(Moments("x"), bad, range(2), device="cpu")


class FullAtFirst(Moments):
    """Moments that run out of device memory some times."""

    def __init__(self, failures: int) -> None:
        super().__init__("x")
        self.failures = failures

    def lift(self, block: Block) -> Partial:
        if self.failures:
            self.failures -= 1
            raise torch.OutOfMemoryError("planted")
        return super().lift(block)


def test_a_full_device_halves_the_window_not_the_block() -> None:
    source = CallSource(make_block, BLOCK_BYTES)
    result = stream_reduce(FullAtFirst(2), source, range(5), device="cpu")
    assert (result.report.window, result.report.halvings) == (1, 2)
    wanted = stream_reduce(Moments("x"), source, range(5), device="cpu")
    assert same_bits(merge_nodes(Moments("x"), result.nodes), merge_nodes(Moments("x"), wanted.nodes))
    with pytest.raises(DeviceMemoryFull, match="write smaller blocks"):
        stream_reduce(FullAtFirst(3), source, range(5), device="cpu")


def test_no_blocks() -> None:
    result = stream_reduce(Moments("x"), CallSource(make_block, BLOCK_BYTES), range(0), device="cpu")
    assert result.nodes == {}
    assert result.report.bytes == 0


def test_bad_settings_are_refused() -> None:
    source = CallSource(make_block, BLOCK_BYTES)
    with pytest.raises(BadSetting, match="depth is 1"):
        StreamEngine(source, device="cpu", depth=1)
    with pytest.raises(BadSetting, match="readers is 0"):
        StreamEngine(source, device="cpu", readers=0)
    with pytest.raises(BadSetting, match="device"):
        StreamEngine(source, device="abacus")
    with pytest.raises(BadSetting, match="block_bytes_max"):
        CallSource(make_block, 0)
    engine = StreamEngine(source, device="cpu")
    engine.close()
    with pytest.raises(BadSetting, match="closed"):
        next(engine.blocks(range(1)))


def test_a_block_larger_than_its_slot_is_refused() -> None:
    source = CallSource(lambda _: {"x": torch.zeros(10_000)}, 8)
    with pytest.raises(ShapeMismatch, match="raise block_bytes_max"):
        stream_reduce(Moments("x"), source, range(1), device="cpu")


def test_unaligned_and_empty_tensors_are_read() -> None:
    room = torch.arange(32, dtype=torch.uint8)
    layout: Mapping[str, TensorSlot] = {
        "odd": TensorSlot(dtype=torch.int16, shape=(2, 2), offset=3),
        "none": TensorSlot(dtype=torch.float64, shape=(0, 4), offset=11),
    }
    assert view_tensor(room, layout["odd"]).tolist() == [[3 + 4 * 256, 5 + 6 * 256], [7 + 8 * 256, 9 + 10 * 256]]
    assert view_tensor(room, layout["none"]).shape == (0, 4)
    assert layout_end(layout) == 11
    assert layout_end({}) == 0
