"""Quantities of resources: what a worker offers, what a task needs, and sums of them.

Inside the scheduler an amount is a plain dictionary from name to a positive integer, absent meaning zero, so that one
loop serves slots, memory and pools alike and a task that needs two things costs two steps. Pools are keyed "pool:NAME",
so that a pool called "gpus" is not mistaken for GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator_proto import ledger_pb2 as pb

Amounts = dict[str, int]

RUN_SLOTS = "run_slots"
STEP_SLOTS = "step_slots"
POOL_PREFIX = "pool:"

# The fields of `Resources` that are plain numbers, with their words for people.
WORDS: Mapping[str, str] = {
    RUN_SLOTS: "run slots",
    STEP_SLOTS: "step slots",
    "gpus": "GPUs",
    "gpu_memory_bytes": "bytes of GPU memory",
    "memory_bytes": "bytes of memory",
}


def amounts_of(resources: pb.Resources) -> Amounts:
    """The non-zero amounts of a message, in a fixed order of names."""
    amounts = {name: value for name in WORDS if (value := getattr(resources, name))}
    for pool in sorted(resources.pools):
        if resources.pools[pool]:
            amounts[POOL_PREFIX + pool] = resources.pools[pool]
    return amounts


def resources_of(amounts: Mapping[str, int]) -> pb.Resources:
    """The message of some amounts; inverse of amounts_of()."""
    resources = pb.Resources()
    for name, value in amounts.items():
        if name.startswith(POOL_PREFIX):
            resources.pools[name.removeprefix(POOL_PREFIX)] = value
        else:
            setattr(resources, name, value)
    return resources


def add(total: Amounts, part: Iterable[tuple[str, int]]) -> None:
    """Adds `part` to `total` in place."""
    for name, value in part:
        total[name] = total.get(name, 0) + value


def subtract(total: Amounts, part: Iterable[tuple[str, int]]) -> None:
    """Takes `part` from `total` in place; what falls to zero disappears. May go below zero."""
    for name, value in part:
        rest = total.get(name, 0) - value
        if rest:
            total[name] = rest
        else:
            total.pop(name, None)


def negative_name(resources: pb.Resources) -> str:
    """Words for the first amount below zero, or "" when there is none."""
    for name, value in amounts_of(resources).items():
        if value < 0:
            return f"{value} {in_words(name)}"
    return ""


def in_words(name: str) -> str:
    """The name of an amount for people, such as "step slots" or "of pool licence"."""
    return WORDS.get(name) or f"of pool {name.removeprefix(POOL_PREFIX)}"
