"""Random numbers by counter: number i of a seed is a function of (seed, i), so any block can be made again.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3; SC 2011), written in int64
tensor arithmetic: the same bits on each call, machine and device. Only operations that are exact are used on the way to
signs and uniform numbers; there is no logarithm or cosine, whose last bit libraries disagree about.

Shape suffixes: N numbers.
"""

from __future__ import annotations

import torch

from gpu_ops.errors import BadSetting

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # golden ratio, square root of 3 less 1: the paper's Weyl constants
_ROUNDS = 10
_MASK = 0xFFFFFFFF
_WORDS = 4  # 32-bit words a counter gives
_SEED_END = 1 << 64


def philox_words(seed: int, first: int, count: int, *, device: torch.device | str = "cpu") -> torch.Tensor:
    """Words first..first+count-1 of the seed's sequence, int64 [N] with values of 0..2^32-1.

    About 100 integer operations for four words. Raises BadSetting for a seed or range outside 64 bits.
    """
    if not 0 <= seed < _SEED_END:
        raise BadSetting("seed", seed, "between 0 and 2^64 - 1")
    if first < 0 or count < 0:
        raise BadSetting("first, count", (first, count), "0 or more")
    first_counter = first // _WORDS
    end_counter = -(-(first + count) // _WORDS)
    counters_N = torch.arange(first_counter, end_counter, dtype=torch.int64, device=device)
    zeros_N = torch.zeros_like(counters_N)
    state = (counters_N & _MASK, counters_N >> 32, zeros_N, zeros_N)
    words = torch.stack(philox_block(state, (seed & _MASK, seed >> 32)), dim=1).reshape(-1)
    skipped = first - first_counter * _WORDS
    return words[skipped : skipped + count]


def philox_block(
    state: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], key: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ten rounds on four counter words (int64 tensors below 2^32) under a two-word key."""
    c0, c1, c2, c3 = state
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def _multiply(word: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of word·factor, by 16-bit halves: the whole product would not fit into a signed int64."""
    low_part = word * (factor & 0xFFFF)  # below 2^48
    high_part = word * (factor >> 16) + (low_part >> 16)  # below 2^49
    return high_part >> 16, ((high_part & 0xFFFF) << 16) | (low_part & 0xFFFF)


def uniform(seed: int, first: int, count: int, *, device: torch.device | str = "cpu") -> torch.Tensor:
    """Numbers first..first+count-1 of the seed, float64 [N] in [0, 1) on a grid of 2^-53."""
    words = philox_words(seed, 2 * first, 2 * count, device=device).reshape(-1, 2)
    return ((words[:, 0] >> 5) * (1 << 26) + (words[:, 1] >> 6)).to(torch.float64) * 2.0**-53


def integers(
    seed: int, first: int, count: int, *, low: int, high: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Whole numbers low..high-1, int64 [N]; a span of at most 2^32, with a bias below span · 2^-32."""
    span = high - low
    if not 1 <= span <= 1 << 31:
        raise BadSetting("high - low", span, "between 1 and 2^31")
    return low + (philox_words(seed, first, count, device=device) * span >> 32)


def signs(seed: int, first: int, count: int, *, device: torch.device | str = "cpu") -> torch.Tensor:
    """Random signs -1 or 1, int8 [N]: the top bit of a word each."""
    return (1 - 2 * (philox_words(seed, first, count, device=device) >> 31)).to(torch.int8)
