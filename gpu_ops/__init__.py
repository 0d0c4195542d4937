"""Map/reduce operations on torch tensors, on CUDA when there is one. Needs torch and numpy only.

A *block* is one tile of a dataset: `dict[str, Tensor]`, column name to tensor whose first dimension is the rows. A
*partial* is what a combiner knows about some blocks: `dict[str, Tensor]` again, so it can be stored like a block. The
empty dict is the zero of every combiner. One file one noun; import from the package:

Combiners (keyword arguments; each has zero(), lift(block), merge(left, right), present(partial), guard(partial))
    Moments(column, nan_policy="raise", precision=Precision(), ddof=1)      -> count mean variance std
    MinMax(column, nan_policy="raise", position_column=None)                -> min max [argmin argmax]
    Covariance(columns, nan_policy="raise", precision=Precision(), ddof=1)  -> count mean covariance correlation
        principal_components(presented["covariance"], count=k) -> PrincipalComponents(variances, directions, shares)
    GroupBySum(keys={"flag": 3, "status": 2}, values=("qty", "cents"))
        -> key.flag key.status count sum.qty sum.cents, one row per combination of codes 0..n-1, empty ones too;
        integer columns are summed exactly (int64), floats to the same bits each time
    Histogram(column, low, high, bins, nan_policy="raise") or Histogram(column, edges=tensor)
        -> counts edges below above nan_count
    TopK(column, count, is_largest=True, position_column=None, carry=())    -> values positions carry.NAME
    compose(name=combiner, ...)   many statistics in one pass               -> "name.key" for each key of each
    check_laws(combiner, blocks)  raises LawBroken; guard(combiner, partial) raises NaNFound and the like early
    position_column: int64 global row numbers, or one element, the number of the block's first row
    A partial must not be a view of the block's memory, which the stream reuses.

Tree (same bits for any split into ranges, any order of arrival, any number of steps)
    reduce_range(combiner, blocks: Iterable[(index, Block)], on_block=None) -> dict[Node(level, index), Partial]
    merge_nodes(combiner, nodes: Mapping or pairs, n_blocks=None) -> Partial   refuses gaps and overlaps
    pack_nodes(nodes) -> dict[str, Tensor], unpack_nodes(tensors) -> nodes     for safetensors
    split_range(n_blocks, n_steps) -> list[range]                              contiguous, as even as can be

Stream (reader threads -> ring of reused, pinned buffers -> copy stream -> compute; the same engine on the CPU)
    class BlockSource(Protocol): block_bytes_max: int; fill(index, buffer: memoryview) -> Layout
        Layout maps names to TensorSlot(dtype, shape, offset): where each tensor lies in the buffer, in bytes
    CallSource(load: Callable[[int], Block], block_bytes_max)   when the block already is tensors
    with StreamEngine(source, device=None, depth=4, readers=1) as engine:
        for index, block in engine.blocks(indexes): ...         a block is valid until the next one is asked for
        engine.report -> StreamReport(device, blocks, bytes, seconds, wait_seconds, gb_per_s, depth, window, halvings)
    stream_reduce(combiner, source, indexes, device=None, depth=4, readers=1, on_block=None)
        -> StreamResult(nodes, report)

Matrices
    Tiling(m, k, n, tile_m, tile_k, tile_n); a tile loader is load(rows: slice, columns: slice) -> Tensor
    product_tiles(tiling, load_a=, load_b=, device=None, tiles=None, precision=None) yields (i, j, tile of C)
    freivalds(tiling, load_a=, load_b=, load_c=, rounds=20, seed=0)
        -> FreivaldsResult(is_equal, worst, worst_row, rounds, miss_probability)
    SpectralMatrix(rows, columns, singular_values, seed)  .row_block(first, count) .tile(rows, columns)
    SpectralDataset(rows, columns, variances, mean, seed) .row_block(first, count) .covariance()
    uniform(seed, first, count), integers(..., low=, high=), signs(...): Philox4x32-10 by counter

Settings: NanPolicy raise|omit|propagate; Precision(determinism=Determinism.RUN_TO_RUN, accumulate, is_tf32_allowed);
    best_device(name=None), describe(device) -> DeviceFacts
Errors: GpuOpsError, one sentence with the cure: EmptyDataset, NotNumeric, NaNFound, ShapeMismatch, ColumnMissing, ...
"""

from gpu_ops.combiner import Block, Combiner, Composed, Guarded, Partial, compose, guard, same_bits, to_device
from gpu_ops.covariance import Covariance, PrincipalComponents, principal_components
from gpu_ops.device import DeviceFacts, best_device, describe, peak_memory_bytes, synchronize
from gpu_ops.errors import (
    BadSetting,
    CodeOutOfRange,
    ColumnMissing,
    DeviceMemoryFull,
    EmptyDataset,
    GpuOpsError,
    LawBroken,
    NaNFound,
    NotNumeric,
    ShapeMismatch,
    SumOverflow,
    TreeBroken,
)
from gpu_ops.extrema import MinMax
from gpu_ops.freivalds import FreivaldsResult, freivalds
from gpu_ops.groupby import GroupBySum
from gpu_ops.histogram import Histogram
from gpu_ops.laws import check_laws
from gpu_ops.matmul import product_tiles
from gpu_ops.moments import Moments
from gpu_ops.nan_policy import NanPolicy
from gpu_ops.philox import integers, philox_words, signs, uniform
from gpu_ops.precision import Determinism, Precision
from gpu_ops.source import BlockSource, CallSource, Layout, TensorSlot
from gpu_ops.stream import StreamEngine, StreamReport, StreamResult, stream_reduce
from gpu_ops.testmatrix import SpectralDataset, SpectralMatrix
from gpu_ops.tiling import TileLoader, Tiling
from gpu_ops.topk import TopK
from gpu_ops.tree import Node, Nodes, TreeReducer, merge_nodes, pack_nodes, reduce_range, split_range, unpack_nodes

__all__ = [
    "BadSetting",
    "Block",
    "BlockSource",
    "CallSource",
    "CodeOutOfRange",
    "ColumnMissing",
    "Combiner",
    "Composed",
    "Covariance",
    "Determinism",
    "DeviceFacts",
    "DeviceMemoryFull",
    "EmptyDataset",
    "FreivaldsResult",
    "GpuOpsError",
    "GroupBySum",
    "Guarded",
    "Histogram",
    "LawBroken",
    "Layout",
    "MinMax",
    "Moments",
    "NaNFound",
    "NanPolicy",
    "Node",
    "Nodes",
    "NotNumeric",
    "Partial",
    "Precision",
    "PrincipalComponents",
    "ShapeMismatch",
    "SpectralDataset",
    "SpectralMatrix",
    "StreamEngine",
    "StreamReport",
    "StreamResult",
    "SumOverflow",
    "TensorSlot",
    "TileLoader",
    "Tiling",
    "TopK",
    "TreeBroken",
    "TreeReducer",
    "best_device",
    "check_laws",
    "compose",
    "describe",
    "freivalds",
    "guard",
    "integers",
    "merge_nodes",
    "pack_nodes",
    "peak_memory_bytes",
    "philox_words",
    "principal_components",
    "product_tiles",
    "reduce_range",
    "same_bits",
    "signs",
    "split_range",
    "stream_reduce",
    "synchronize",
    "to_device",
    "uniform",
    "unpack_nodes",
]
