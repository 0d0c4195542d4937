"""The same answers on CUDA as on the CPU; the highest level also gives the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpu_ops import (
    Block,
    CallSource,
    Combiner,
    Covariance,
    Determinism,
    GroupBySum,
    Histogram,
    MinMax,
    Moments,
    Precision,
    SpectralDataset,
    SpectralMatrix,
    StreamEngine,
    Tiling,
    TopK,
    compose,
    merge_nodes,
    product_tiles,
    same_bits,
    stream_reduce,
    uniform,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

ROWS = 10_007
BLOCK_BYTES = ROWS * (8 + 8 + 8 + 8 * 4)
GPU_TO_GPU = Precision(determinism=Determinism.GPU_TO_GPU)
SAME_BITS: dict[str, Combiner] = {
    "moments": Moments("x", precision=GPU_TO_GPU),
    "covariance": Covariance(["x", "m"], precision=GPU_TO_GPU),
    "group_by": GroupBySum(keys={"k": 5}, values=["x", "n"]),
    "histogram": Histogram("x", -3.0, 3.0, 37),
    "extrema": MinMax("x"),
    "top_k": TopK("x", 20, carry=["n"]),
}


def make_block(index: int) -> Block:
    random = np.random.default_rng(index)
    return {
        "x": torch.from_numpy(random.normal(size=ROWS)),
        "k": torch.from_numpy(random.integers(0, 5, ROWS)),
        "n": torch.from_numpy(random.integers(-(2**40), 2**40, ROWS)),
        "m": torch.from_numpy(random.lognormal(size=(ROWS, 4))),
    }


def streamed(combiner: Combiner, device: str) -> dict[str, torch.Tensor]:
    result = stream_reduce(combiner, CallSource(make_block, BLOCK_BYTES), range(7), device=device, readers=2)
    return merge_nodes(combiner, result.nodes, n_blocks=7)


@pytest.mark.parametrize("name", SAME_BITS)
def test_same_bits_as_the_cpu(name: str) -> None:
    assert same_bits(streamed(SAME_BITS[name], "cuda"), streamed(SAME_BITS[name], "cpu"))


def test_default_level_is_close_and_repeats_its_bits() -> None:
    combiner = compose(moments=Moments("x"), covariance=Covariance(["x", "m"]))
    on_cuda, again, on_cpu = streamed(combiner, "cuda"), streamed(combiner, "cuda"), streamed(combiner, "cpu")
    assert same_bits(on_cuda, again)
    for key, tensor in on_cpu.items():
        torch.testing.assert_close(on_cuda[key].cpu(), tensor, rtol=1e-12, atol=1e-12)


def test_blocks_arrive_whole_and_in_order() -> None:
    with StreamEngine(CallSource(make_block, BLOCK_BYTES), device="cuda", depth=3, readers=3) as engine:
        for position, (index, block) in enumerate(engine.blocks(range(20))):
            assert index == position
            assert same_bits(block, make_block(index))


def test_shrinking_in_the_middle_keeps_every_block() -> None:
    with StreamEngine(CallSource(make_block, BLOCK_BYTES), device="cuda", depth=8, window=4) as engine:
        for position, (index, block) in enumerate(engine.blocks(range(12))):
            assert same_bits(block, make_block(index))
            if position in {3, 5}:
                assert engine.shrink()
        assert (engine.report.window, engine.report.halvings, engine.report.blocks) == (1, 2, 12)


class FullOnce(Moments):
    """Moments that run out of device memory at one block until the window is 1."""

    def __init__(self, failures: int) -> None:
        super().__init__("x")
        self.failures = failures

    def lift(self, block: Block) -> dict[str, torch.Tensor]:
        if self.failures:
            self.failures -= 1
            raise torch.OutOfMemoryError("planted")
        return super().lift(block)


def test_a_full_device_halves_the_window_not_the_block() -> None:
    source = CallSource(make_block, BLOCK_BYTES)
    result = stream_reduce(FullOnce(2), source, range(7), device="cuda")
    assert (result.report.window, result.report.halvings) == (1, 2)
    assert same_bits(merge_nodes(Moments("x"), result.nodes), streamed(Moments("x"), "cuda"))


def test_product_on_the_device() -> None:
    tiling = Tiling(200, 300, 100, 64, 64, 64)
    a = torch.from_numpy(np.random.default_rng(1).integers(-99, 99, (200, 300)))
    b = torch.from_numpy(np.random.default_rng(2).integers(-99, 99, (300, 100)))
    c = torch.empty(200, 100, dtype=torch.int64)
    for i, j, tile in product_tiles(tiling, load_a=lambda r, k: a[r, k], load_b=lambda k, n: b[k, n], device="cuda"):
        assert tile.is_cuda
        c[tiling.rows(i), tiling.columns(j)] = tile.to(torch.int64).cpu()
    assert torch.equal(c, a @ b)


def test_generated_data_have_the_same_bits() -> None:
    assert torch.equal(uniform(5, 17, 1000, device="cuda").cpu(), uniform(5, 17, 1000))
    matrix = SpectralMatrix(rows=100, columns=40, singular_values=torch.rand(40, dtype=torch.float64), seed=2)
    assert torch.equal(matrix.row_block(30, 50, device="cuda").cpu(), matrix.row_block(30, 50))
    ones = torch.ones(40, dtype=torch.float64)
    data = SpectralDataset(rows=128, columns=40, variances=ones, mean=ones)
    assert torch.equal(data.row_block(1, 9, device="cuda").cpu(), data.row_block(1, 9))
