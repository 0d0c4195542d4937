"""The canonical tree: same bits for any split, order and number of steps; nothing twice, nothing missing."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from gpu_ops import (
    BadSetting,
    Block,
    Moments,
    NaNFound,
    Node,
    Nodes,
    Partial,
    TreeBroken,
    TreeReducer,
    merge_nodes,
    pack_nodes,
    reduce_range,
    same_bits,
    split_range,
    unpack_nodes,
)


class Text:
    """Writes down how it was merged, as bytes in a tensor, so that a test sees the tree's shape."""

    def zero(self) -> Partial:
        return {}

    def lift(self, block: Block) -> Partial:
        return dict(block)

    def merge(self, left: Partial, right: Partial) -> Partial:
        brackets = [torch.tensor([ord(sign)], dtype=torch.uint8) for sign in "(+)"]
        return {"t": torch.cat([brackets[0], left["t"], brackets[1], right["t"], brackets[2]])}

    def present(self, partial: Partial) -> dict[str, torch.Tensor]:
        return partial


def text_block(index: int) -> Block:
    return {"t": torch.tensor(list(str(index).encode()), dtype=torch.uint8)}


def text_of(partial: Partial) -> str:
    return bytes(partial["t"].tolist()).decode()


def nodes_of(indexes: list[int]) -> Nodes:
    return reduce_range(Text(), ((index, text_block(index)) for index in indexes))


@pytest.mark.parametrize(
    ("n_blocks", "shape"),
    [
        (1, "0"),
        (2, "(0+1)"),
        (3, "((0+1)+2)"),
        (6, "(((0+1)+(2+3))+(4+5))"),
        (7, "(((0+1)+(2+3))+((4+5)+6))"),
    ],
)
def test_shape_when_the_number_is_no_power_of_two(n_blocks: int, shape: str) -> None:
    assert text_of(merge_nodes(Text(), nodes_of(list(range(n_blocks))), n_blocks=n_blocks)) == shape


def test_a_range_emits_the_largest_nodes_inside() -> None:
    assert list(nodes_of(list(range(5, 11)))) == [Node(0, 5), Node(1, 3), Node(1, 4), Node(0, 10)]


@settings(max_examples=60, deadline=None)
@given(n_blocks=st.integers(1, 70), n_steps=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_same_tree_for_any_split_order_and_number_of_steps(n_blocks: int, n_steps: int, seed: int) -> None:
    shuffle = random.Random(seed).shuffle
    wanted = merge_nodes(Text(), nodes_of(list(range(n_blocks))))
    arrived: list[tuple[Node, Partial]] = []
    for step in split_range(n_blocks, n_steps):
        order = list(step)
        shuffle(order)
        arrived.extend(nodes_of(order).items())
    shuffle(arrived)
    assert text_of(merge_nodes(Text(), arrived, n_blocks=n_blocks)) == text_of(wanted)


@settings(max_examples=20, deadline=None)
@given(n_blocks=st.integers(1, 40), n_steps=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_same_bits_of_real_statistics(n_blocks: int, n_steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    blocks = [{"x": torch.randn(5, generator=generator, dtype=torch.float64).exp()} for _ in range(n_blocks)]
    combiner = Moments("x")
    whole = merge_nodes(combiner, reduce_range(combiner, enumerate(blocks)))
    parts = [
        item
        for step in reversed(split_range(n_blocks, n_steps))
        for item in reduce_range(combiner, ((index, blocks[index]) for index in reversed(step))).items()
    ]
    assert same_bits(whole, merge_nodes(combiner, parts))


def test_merging_in_order_of_arrival_would_not_do() -> None:
    generator = torch.Generator().manual_seed(3)
    values = [torch.randn(1, generator=generator, dtype=torch.float64).exp() for _ in range(64)]
    combiner = Moments("x")
    partials = [combiner.lift({"x": value}) for value in values]
    results = set()
    for seed in range(10):
        random.Random(seed).shuffle(partials)
        total = combiner.zero()
        for partial in partials:
            total = combiner.merge(total, partial)
        results.add(float(total["m2"]))
    assert len(results) > 1


def test_a_block_that_comes_twice_is_refused() -> None:
    with pytest.raises(TreeBroken, match=r"Blocks 3\.\.3 overlap blocks 0\.\.3"):
        nodes_of([0, 1, 2, 3, 3])
    with pytest.raises(TreeBroken, match="give each block to one step only"):
        merge_nodes(Text(), [*nodes_of([0, 1, 2]).items(), *nodes_of([2, 3]).items()])
    reducer = TreeReducer(Text())
    reducer.add_block(5, text_block(5))
    with pytest.raises(TreeBroken, match=r"Blocks 4\.\.7 overlap blocks 5\.\.5"):
        reducer.add(Node(2, 1), text_block(4))


def test_missing_blocks_are_named() -> None:
    nodes = nodes_of([0, 1, 2, 6, 7])
    with pytest.raises(TreeBroken, match=r"Blocks 3\.\.5 are missing; run the step that owns them again"):
        merge_nodes(Text(), nodes)
    with pytest.raises(TreeBroken, match=r"Blocks 3\.\.3 are missing"):
        merge_nodes(Text(), nodes_of([0, 1, 2]), n_blocks=4)
    with pytest.raises(TreeBroken, match=r"Blocks 0\.\.0 are missing"):
        merge_nodes(Text(), nodes_of([1]), n_blocks=2)
    with pytest.raises(TreeBroken, match="more than the dataset's 2"):
        merge_nodes(Text(), nodes_of([0, 1, 2, 3]), n_blocks=2)


def test_few_partials_are_held_in_order() -> None:
    reducer = TreeReducer(Text())
    for index in range(1000):
        reducer.add_block(index, {"t": torch.zeros(0, dtype=torch.uint8)})
        assert len(reducer.nodes()) <= 10


def test_nothing_gives_the_zero() -> None:
    assert reduce_range(Text(), []) == {}
    assert merge_nodes(Text(), {}, n_blocks=0) == {}


def test_packing_keeps_every_node() -> None:
    combiner = Moments("x")
    blocks = [{"x": torch.ones(2)}, {"x": torch.ones(3)}, {"x": torch.empty(0)}]
    nodes = reduce_range(combiner, enumerate(blocks))
    unpacked = unpack_nodes(pack_nodes(nodes))
    assert unpacked.keys() == nodes.keys()
    assert all(same_bits(unpacked[node], nodes[node]) for node in nodes)
    assert unpacked[Node(0, 2)] == {}
    with pytest.raises(TreeBroken, match="is no tensor of a packed tree"):
        unpack_nodes({"weights": torch.ones(1)})


def test_bad_data_fail_in_the_step_that_read_them() -> None:
    with pytest.raises(NaNFound):
        reduce_range(Moments("x"), [(0, {"x": torch.tensor([float("nan")])})])


def test_split_range() -> None:
    assert split_range(7, 3) == [range(2), range(2, 4), range(4, 7)]
    assert sum(len(step) for step in split_range(2, 5)) == 2
    with pytest.raises(BadSetting):
        split_range(3, 0)
    with pytest.raises(BadSetting):
        TreeReducer(Text()).add(Node(63, 0), {})
