"""The laws of a combiner, checked on real blocks: write a combiner, run this in its test.

identity       merging with the zero changes no bit
repetition     lifting or merging the same twice gives the same bits
ownership      a partial does not change when the block's memory is used again
purity         merge and present leave their arguments as they were
associativity  (a·b)·c presents the same as a·(b·c), to the tolerance
splitting      two blocks lifted apart and merged present the same as their rows lifted as one block, to the tolerance
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from gpu_ops.combiner import Block, Combiner, Partial, same_bits
from gpu_ops.errors import BadSetting, LawBroken

# Relative to the largest magnitude of the answer or of the data (an answer may cancel to zero): float64 has 1e-16, and
# a few thousand rows may lose four digits of it.
TOLERANCE = 1e-11


@dataclass(frozen=True, slots=True)
class _Allowed:
    """How far two answers may differ."""

    relative: float
    absolute: float


def check_laws(combiner: Combiner, blocks: Sequence[Block], *, tolerance: float = TOLERANCE) -> None:
    """Check every law on every neighbouring three of the blocks. Integer results must agree exactly.

    Raises LawBroken naming the law and the key, BadSetting for fewer than 3 blocks.
    """
    if len(blocks) < 3:
        raise BadSetting("the number of blocks", len(blocks), "at least 3, to test associativity")
    partials = [combiner.lift(block) for block in blocks]
    allowed = _Allowed(relative=tolerance, absolute=tolerance * _magnitude(blocks))
    for block, partial in zip(blocks, partials, strict=True):
        _check_identity(combiner, partial)
        _require_same("repetition", "lift", partial, combiner.lift(block))
        _check_ownership(combiner, block, partial)
    for first, second, third in zip(partials, partials[1:], partials[2:], strict=False):
        _check_triple(combiner, first, second, third, allowed)
    for block, other, partial, next_partial in zip(blocks, blocks[1:], partials, partials[1:], strict=False):
        joined = {name: torch.cat([block[name], other[name]]) for name in block}
        apart = combiner.present(combiner.merge(partial, next_partial))
        _require_close("splitting", apart, combiner.present(combiner.lift(joined)), allowed)


def _check_identity(combiner: Combiner, partial: Partial) -> None:
    if combiner.zero() != {}:
        raise LawBroken("identity", "zero() is not the empty dict")
    _require_same("identity", "merge(zero, x)", partial, combiner.merge(combiner.zero(), partial))
    _require_same("identity", "merge(x, zero)", partial, combiner.merge(partial, combiner.zero()))


def _check_ownership(combiner: Combiner, block: Block, partial: Partial) -> None:
    borrowed = {name: tensor.clone() for name, tensor in block.items()}
    lifted = combiner.lift(borrowed)
    for tensor in borrowed.values():
        tensor.zero_()
    _require_same("ownership", "using the block's memory again", partial, lifted)


def _check_triple(combiner: Combiner, first: Partial, second: Partial, third: Partial, allowed: _Allowed) -> None:
    before = [_copy(partial) for partial in (first, second, third)]
    left = combiner.merge(combiner.merge(first, second), third)
    for copy, partial in zip(before, (first, second, third), strict=True):
        _require_same("purity", "merge", copy, partial)
    _require_same("repetition", "merge", combiner.merge(first, second), combiner.merge(first, second))
    right = combiner.merge(first, combiner.merge(second, third))
    kept = _copy(left)
    _require_close("associativity", combiner.present(left), combiner.present(right), allowed)
    _require_same("purity", "present", kept, left)


def _copy(partial: Partial) -> Partial:
    return {key: tensor.clone() for key, tensor in partial.items()}


def _require_same(law: str, what: str, wanted: Partial, have: Partial) -> None:
    if not same_bits(wanted, have):
        raise LawBroken(law, f"{what} gave other bits in {_first_key(wanted, have, _differs_in_bits)!r}")


def _require_close(
    law: str, left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor], allowed: _Allowed
) -> None:
    def is_far(one: torch.Tensor, other: torch.Tensor) -> bool:
        return not _is_close(one, other, allowed)

    key = _first_key(left, right, is_far)
    if key is not None:
        raise LawBroken(law, f"{key!r} is {left.get(key)} one way and {right.get(key)} the other")


def _first_key(
    left: Mapping[str, torch.Tensor],
    right: Mapping[str, torch.Tensor],
    differs: Callable[[torch.Tensor, torch.Tensor], bool],
) -> str | None:
    for key in sorted(left.keys() | right.keys()):
        if key not in left or key not in right or differs(left[key], right[key]):
            return key
    return None


def _differs_in_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return not same_bits({"": one}, {"": other})


def _is_close(one: torch.Tensor, other: torch.Tensor, allowed: _Allowed) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if not one.dtype.is_floating_point:
        return torch.equal(one, other)
    absolute = max(allowed.absolute, allowed.relative * _magnitude([{"": other}]))
    return torch.allclose(one, other, rtol=allowed.relative, atol=absolute, equal_nan=True)


def _magnitude(blocks: Sequence[Block]) -> float:
    """Largest finite absolute value of the floating columns; 0 without any."""
    floats = [tensor for block in blocks for tensor in block.values() if tensor.is_floating_point() and tensor.numel()]
    return max((float(tensor.nan_to_num(posinf=0.0, neginf=0.0).abs().amax()) for tensor in floats), default=0.0)
