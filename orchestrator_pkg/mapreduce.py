"""Map/reduce as a Dagster asset: a plan step, K map steps that stream blocks, one reduce step.

    source dataset --plan--> K contiguous ranges of blocks --map--> nodes of the canonical tree --reduce--> result

Every map step streams its range through gpu_ops' engine and merges what it can; what it stores are the nodes of one
binary tree over *all* block indexes that its range covers. The reduce step merges them to the root. Which step computed
a node does not show in its bits, so the result is the same for every K, every executor and after any retry.

The ranges carry the manifest that the plan step saw. A refresh of the source in the middle of the run therefore cannot
mix two versions: old blocks stay where they are, and the run ends on the version that it began with.
"""

# Dagster reads annotations at run time, so they must not become strings: no `from __future__ import annotations`.

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from dagster import (
    AssetIn,
    AssetKey,
    AssetsDefinition,
    DynamicOut,
    DynamicOutput,
    Field,
    In,
    OpDefinition,
    OpExecutionContext,
    Out,
    graph_asset,
    op,
)

from gpu_ops import (
    Block,
    Combiner,
    Partial,
    best_device,
    guard,
    merge_nodes,
    pack_nodes,
    split_range,
    stream_reduce,
    unpack_nodes,
)
from orchestrator_pkg.config import PipelineSettings, load
from orchestrator_pkg.dataset import Dataset
from orchestrator_pkg.failures import BadInput, plain_failures
from orchestrator_pkg.mapreduce_report import TotalReport, nodes_only, report_tensors, stream_metadata

MapBlock = Callable[[Block], Block]
Present = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


class Describe(Protocol):
    """Metadata for a result, such as a table or a plot."""

    def __call__(self, result: Mapping[str, torch.Tensor]) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Mapped:
    """A combiner that transforms each block before lifting it, so that map and reduce are one pass."""

    combiner: Combiner
    map_block: MapBlock

    def zero(self) -> Partial:
        """The partial of nothing."""
        return self.combiner.zero()

    def lift(self, block: Block) -> Partial:
        """The partial of one block."""
        return self.combiner.lift(self.map_block(block))

    def merge(self, left: Partial, right: Partial) -> Partial:
        """The partial of both."""
        return self.combiner.merge(left, right)

    def present(self, partial: Partial) -> dict[str, torch.Tensor]:
        """The result."""
        return self.combiner.present(partial)

    def guard(self, partial: Partial) -> None:
        """Raises early what the combiner's present would raise late, such as NaNFound."""
        guard(self.combiner, partial)


def map_reduce_asset(
    *,
    name: str,
    source: str | Sequence[str] | AssetKey,
    combiner: Combiner,
    map_block: MapBlock | None = None,
    present: Present | None = None,
    describe_result: Describe | None = None,
    group_name: str | None = None,
    description: str | None = None,
    map_tags: Mapping[str, Any] | None = None,
    code_version: str | None = None,
) -> AssetsDefinition:
    """A graph-backed asset that reduces a dataset with a combiner, in K parallel steps.

    Args:
        name: of the asset; its ops are `<name>_plan`, `<name>_map`, `<name>_reduce`.
        source: key of the asset that holds the dataset.
        combiner: what to compute (gpu_ops), on CUDA where a step has one.
        map_block: applied to every block before it is combined.
        present: applied to what the combiner presents; its result is stored.
        describe_result: more metadata of the result, such as a table or a plot.
        group_name, description, code_version: as in Dagster.
        map_tags: tags of the map steps, for executors that read them (resources, placement).

    K comes from the op config `steps` of the plan op, else from MAP_STEPS, else 8.
    """
    whole = Mapped(combiner, map_block) if map_block else combiner
    plan = _plan_op(name)
    mapper = _map_op(name, whole, map_tags or {}, code_version)
    reducer = _reduce_op(name, whole, present, describe_result, code_version)
    key = source if isinstance(source, AssetKey) else AssetKey(source)

    @graph_asset(name=name, group_name=group_name, description=description, ins={"dataset": AssetIn(key)})
    def assembled(dataset: Any) -> Any:
        return reducer(plan(dataset).map(mapper).collect())

    return assembled


def _plan_op(name: str) -> OpDefinition:
    steps_field = Field(int, is_required=False, description="Number of map steps; default: MAP_STEPS, else 8.")

    @op(
        name=f"{name}_plan",
        ins={"dataset": In(Dataset)},
        out=DynamicOut(Dataset),
        config_schema={"steps": steps_field},
    )
    def plan(context: OpExecutionContext, dataset: Dataset) -> Iterator[DynamicOutput[Dataset]]:
        with plain_failures():
            steps = context.op_config.get("steps") or load(PipelineSettings).map_steps
            if not len(dataset):
                raise BadInput("The dataset is empty: it has no block; materialize its asset from data with rows.")
            ranges = split_range(len(dataset), min(steps, len(dataset)))
        context.log.info(f"{len(dataset)} blocks, {dataset.manifest.size_bytes} bytes in {len(ranges)} map steps")
        for number, blocks in enumerate(ranges):
            yield DynamicOutput(dataset.slice(blocks), mapping_key=f"{number:04d}")

    return plan


def _map_op(name: str, combiner: Combiner, tags: Mapping[str, Any], code_version: str | None) -> OpDefinition:
    @op(
        name=f"{name}_map",
        ins={"piece": In(Dataset)},
        out=Out(dict),
        tags=dict(tags),
        code_version=code_version,
    )
    def map_step(context: OpExecutionContext, piece: Dataset) -> dict[str, torch.Tensor]:
        with plain_failures():
            device = best_device()
            result = stream_reduce(combiner, piece, piece.indexes, device=device)
        context.add_output_metadata(stream_metadata(result.report, device))
        return pack_nodes(result.nodes) | report_tensors(result.report, piece.total_blocks)

    return map_step


def _reduce_op(
    name: str,
    combiner: Combiner,
    present: Present | None,
    describe_result: Describe | None,
    code_version: str | None,
) -> OpDefinition:
    @op(name=f"{name}_reduce", ins={"partials": In(list)}, out=Out(dict), code_version=code_version)
    def reduce_step(context: OpExecutionContext, partials: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        started = time.perf_counter()
        with plain_failures():
            total = TotalReport.of(partials)
            pairs = [pair for partial in partials for pair in unpack_nodes(nodes_only(partial)).items()]
            result = combiner.present(merge_nodes(combiner, pairs, n_blocks=total.dataset_blocks))
            result = present(result) if present else result
        context.add_output_metadata(total.metadata(time.perf_counter() - started))
        if describe_result is not None:
            context.add_output_metadata(describe_result(result))
        return result

    return reduce_step
