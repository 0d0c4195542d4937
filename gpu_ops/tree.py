"""The canonical tree: why the bits of a reduction do not depend on who computed what.

Floating-point addition is not associative, so merging partials in order of arrival gives another answer each time, and
so does merging K sub-totals when K changes. The cure is a tree that exists before any work is split. Node (level,
index) stands for the blocks [index·2^level, (index+1)·2^level), and its value is always

    merge(value of its left child, value of its right child),

or the one child that has blocks, where the dataset's end leaves the other empty. A worker with blocks [5, 11)
computes the largest nodes that lie wholly inside: (0,5) (1,3) (1,4) (0,10). Whoever holds two siblings may merge
them. Each value is defined by block indexes alone, so any split into ranges, any order, any number of steps, any retry
ends in the same bits. A range emits at most 2·log2(n) nodes.

Invariant: nodes held at the same time never overlap. A block that comes twice is an error here, not a wrong sum.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch

from gpu_ops.combiner import Block, Combiner, Partial, guard
from gpu_ops.errors import BadSetting, TreeBroken

LEVEL_MAX = 62  # block indexes fit into 64 bits


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """A subtree: the blocks [index·2^level, (index+1)·2^level)."""

    level: int
    index: int

    @property
    def first(self) -> int:
        """The first block."""
        return self.index << self.level

    @property
    def end(self) -> int:
        """One past the last block."""
        return (self.index + 1) << self.level

    @property
    def parent(self) -> Node:
        """The node one level up."""
        return Node(self.level + 1, self.index >> 1)

    @property
    def sibling(self) -> Node:
        """The other child of the parent."""
        return Node(self.level, self.index ^ 1)


Nodes = dict[Node, Partial]


class TreeReducer:
    """Takes partials of blocks or nodes in any order and merges siblings as soon as both are there.

    In order of blocks it holds at most log2(n) + 1 partials at a time.
    """

    def __init__(self, combiner: Combiner) -> None:
        self.combiner = combiner
        self._nodes: Nodes = {}
        self._by_first: dict[int, Node] = {}
        self._firsts: list[int] = []  # sorted, so that the neighbours of a new node are found by bisection

    def add_block(self, index: int, block: Block) -> None:
        """Lift a block and add it. Raises TreeBroken if it was counted already."""
        self.add(Node(0, index), self.combiner.lift(block))

    def add(self, node: Node, partial: Partial) -> None:
        """Add the partial of a node. Raises TreeBroken if any of its blocks was counted already."""
        if not 0 <= node.level <= LEVEL_MAX or node.index < 0:
            raise BadSetting("node", node, f"a level of 0..{LEVEL_MAX} and an index of 0 or more")
        self._refuse_overlap(node)
        while node.sibling in self._nodes:
            other = self._take(node.sibling)
            is_left = node.index % 2 == 0
            partial = self.combiner.merge(partial, other) if is_left else self.combiner.merge(other, partial)
            node = node.parent
        self._nodes[node] = partial
        self._by_first[node.first] = node
        insort(self._firsts, node.first)

    def nodes(self) -> Nodes:
        """The maximal nodes so far, in order of blocks."""
        return {self._by_first[first]: self._nodes[self._by_first[first]] for first in self._firsts}

    def _take(self, node: Node) -> Partial:
        del self._firsts[bisect_left(self._firsts, node.first)]
        del self._by_first[node.first]
        return self._nodes.pop(node)

    def _refuse_overlap(self, node: Node) -> None:
        place = bisect_left(self._firsts, node.first)
        for first in self._firsts[max(place - 1, 0) : place + 1]:
            other = self._by_first[first]
            if node.first < other.end and other.first < node.end:
                raise TreeBroken(
                    f"Blocks {node.first}..{node.end - 1} overlap blocks {other.first}..{other.end - 1}, "
                    "which were counted already; give each block to one step only."
                )


def reduce_range(
    combiner: Combiner, blocks: Iterable[tuple[int, Block]], *, on_block: Callable[[int], None] | None = None
) -> Nodes:
    """Lift blocks and merge them to the maximal nodes that they cover, in any order of arrival.

    `on_block` is called with the number of blocks done. Raises TreeBroken for a block that comes twice, and what the
    combiner's guard raises, so that bad data fail in the step that read them.
    """
    reducer = TreeReducer(combiner)
    for done, (index, block) in enumerate(blocks, start=1):
        reducer.add_block(index, block)
        if on_block is not None:
            on_block(done)
    nodes = reducer.nodes()
    for partial in nodes.values():
        guard(combiner, partial)
    return nodes


def merge_nodes(
    combiner: Combiner, nodes: Mapping[Node, Partial] | Iterable[tuple[Node, Partial]], *, n_blocks: int | None = None
) -> Partial:
    """Merge the nodes of all ranges up to the root.

    With `n_blocks` the nodes must cover the blocks 0..n_blocks-1; otherwise they must leave no gap between them. Raises
    TreeBroken with the blocks that are missing or counted twice. No nodes give the zero.
    """
    reducer = TreeReducer(combiner)
    for node, partial in nodes.items() if isinstance(nodes, Mapping) else nodes:
        reducer.add(node, partial)
    held = reducer.nodes()
    _refuse_gaps(list(held), n_blocks)
    return _collapse(combiner, held)


def _refuse_gaps(nodes: list[Node], n_blocks: int | None) -> None:
    expected = 0 if n_blocks is not None or not nodes else nodes[0].first
    for node in nodes:
        if node.first != expected:
            raise TreeBroken(f"Blocks {expected}..{node.first - 1} are missing; run the step that owns them again.")
        expected = node.end
    if n_blocks is not None and expected < n_blocks:
        raise TreeBroken(f"Blocks {expected}..{n_blocks - 1} are missing; run the step that owns them again.")
    if n_blocks is not None and expected > n_blocks:
        raise TreeBroken(f"Blocks {n_blocks}..{expected - 1} are more than the dataset's {n_blocks}; use its manifest.")


def _collapse(combiner: Combiner, nodes: Nodes) -> Partial:
    """Climb level by level; a node whose sibling holds no block rises alone, unchanged."""
    held = dict(nodes)
    while len(held) > 1:
        lowest = min(node.level for node in held)
        risen: Nodes = {}
        for node in sorted(held):
            if node.level != lowest:
                risen[node] = held[node]
            elif node.index % 2 == 0 or node.sibling not in held:
                partial = held[node]
                if node.index % 2 == 0 and node.sibling in held:
                    partial = combiner.merge(partial, held[node.sibling])
                risen[node.parent] = partial
        held = risen
    return next(iter(held.values())) if held else combiner.zero()


def split_range(n_blocks: int, n_steps: int) -> list[range]:
    """Contiguous ranges of blocks for the steps, as even as can be; with more steps than blocks some are empty."""
    if n_blocks < 0 or n_steps < 1:
        raise BadSetting("n_blocks, n_steps", (n_blocks, n_steps), "0 or more blocks and at least 1 step")
    cuts = [n_blocks * step // n_steps for step in range(n_steps + 1)]
    return [range(first, end) for first, end in pairwise(cuts)]


def pack_nodes(nodes: Mapping[Node, Partial]) -> dict[str, torch.Tensor]:
    """Nodes as one flat dict of contiguous CPU tensors, `level-index/key`, to be stored like a block.

    An empty partial (blocks without rows) is kept as an empty tensor without a key, so that its blocks still count.
    """
    packed: dict[str, torch.Tensor] = {}
    for node, partial in nodes.items():
        place = f"{node.level}-{node.index}/"
        if not partial:
            packed[place] = torch.empty(0, dtype=torch.uint8)
        for key, tensor in partial.items():
            packed[place + key] = tensor.detach().cpu().contiguous()
    return packed


def unpack_nodes(tensors: Mapping[str, torch.Tensor]) -> Nodes:
    """The reverse of `pack_nodes`. Raises TreeBroken for a name of another form."""
    nodes: Nodes = {}
    for name, tensor in tensors.items():
        place, slash, key = name.partition("/")
        level, dash, index = place.partition("-")
        if not (slash and dash and level.isdecimal() and index.isdecimal()):
            raise TreeBroken(f"{name!r} is no tensor of a packed tree; read an object that pack_nodes wrote.")
        partial = nodes.setdefault(Node(int(level), int(index)), {})
        if key:
            partial[key] = tensor
    return nodes
