"""The combiner: how one pass over blocks becomes an answer that may be merged in a tree.

A combiner is a monoid with two doors. `lift` turns a block into a partial, `merge` joins two partials, `present` turns
the last partial into the answer. The zero is the empty dict, for every combiner: a step that saw no block then emits
something valid without knowing widths or dtypes, and `merge` treats it as the identity bit for bit.

Duties of a combiner: `merge` is associative up to rounding and never changes its arguments; `lift` and `merge` give the
same bits for the same input; nothing waits for the device before `guard` or `present`.
Duties of the caller: partials are merged in an order that depends on block indexes only (`tree.py`), never on arrival.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch

from gpu_ops.errors import BadSetting

Block = dict[str, torch.Tensor]
Partial = dict[str, torch.Tensor]


class Combiner(Protocol):
    """What a reduction needs to know of a statistic."""

    def zero(self) -> Partial:
        """The partial of no blocks: the empty dict."""
        ...

    def lift(self, block: Block) -> Partial:
        """The partial of one block, on the block's device."""
        ...

    def merge(self, left: Partial, right: Partial) -> Partial:
        """The partial of both; `left` holds the smaller block indexes."""
        ...

    def present(self, partial: Partial) -> dict[str, torch.Tensor]:
        """The answer. Raises EmptyDataset when there was nothing."""
        ...


@runtime_checkable
class Guarded(Protocol):
    """A combiner that can tell bad data from its partial, before the end."""

    def guard(self, partial: Partial) -> None:
        """Raise a GpuOpsError if the partial shows data that the combiner refuses. Waits for the device."""
        ...


def guard(combiner: Combiner, partial: Partial) -> None:
    """Let the combiner look at a partial: a map step fails where the bad block is, not hours later in the reduce."""
    if partial and isinstance(combiner, Guarded):
        combiner.guard(partial)


class Composed:
    """Several combiners over the same pass; the keys of each part carry its name."""

    def __init__(self, parts: Mapping[str, Combiner]) -> None:
        if not parts:
            raise BadSetting("compose(...)", "empty", "given at least one combiner, as in compose(mean=Moments('x'))")
        for name in parts:
            if not name or "." in name or "/" in name:
                raise BadSetting("a combiner's name", repr(name), "a word without '.' and '/'")
        self.parts = dict(parts)

    def zero(self) -> Partial:
        """The empty partial."""
        return {}

    def lift(self, block: Block) -> Partial:
        """Lift the block once per part; the block is read from the device's memory, not from the store, again."""
        return self._join({name: part.lift(block) for name, part in self.parts.items()})

    def merge(self, left: Partial, right: Partial) -> Partial:
        """Merge part by part."""
        return self._join(
            {name: part.merge(self._of(name, left), self._of(name, right)) for name, part in self.parts.items()}
        )

    def present(self, partial: Partial) -> dict[str, torch.Tensor]:
        """The answers of all parts, as `name.key`."""
        return self._join({name: part.present(self._of(name, partial)) for name, part in self.parts.items()})

    def guard(self, partial: Partial) -> None:
        """Guard each part that can be guarded."""
        for name, part in self.parts.items():
            guard(part, self._of(name, partial))

    @staticmethod
    def _of(name: str, partial: Partial) -> Partial:
        prefix = name + "."
        return {key[len(prefix) :]: value for key, value in partial.items() if key.startswith(prefix)}

    @staticmethod
    def _join(parts: Mapping[str, Partial]) -> Partial:
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}


def compose(**parts: Combiner) -> Composed:
    """Compute several statistics in one pass: `compose(x=Moments("x"), range=MinMax("x"))`."""
    return Composed(parts)


def to_device(tensors: Mapping[str, torch.Tensor], device: torch.device | str) -> dict[str, torch.Tensor]:
    """A block or partial on another device; tensors that are there already are not copied."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def same_bits(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    """Whether two partials agree in keys, dtypes, shapes and every bit (so NaN equals the same NaN, 0.0 not -0.0)."""
    if left.keys() != right.keys():
        return False
    return all(_tensor_bits_equal(left[key], right[key]) for key in left)


def _tensor_bits_equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    left_bytes = left.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return torch.equal(left_bytes, right.detach().cpu().contiguous().reshape(-1).view(torch.uint8))


__all__ = [
    "Block",
    "Combiner",
    "Composed",
    "Guarded",
    "Partial",
    "compose",
    "guard",
    "same_bits",
    "to_device",
]
