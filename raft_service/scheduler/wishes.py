"""What a task would like of its worker, and what it costs to go without.

Hard demands decide *whether* a worker will do (fits.py); wishes decide *which* of those that will. A worker that misses
fewer soft constraints always goes first, for they are the user's own words. After that, everything is an estimate of
the time that the choice costs, in milliseconds, so that terms can be weighed against each other: moving input bytes
over the link between clouds, and importing code that the slots have not loaded. Ties go to the least loaded worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from orchestrator_proto import ledger_pb2 as pb

# Bytes per ms of a link between clouds, about 1 Gbit/s: what input that is elsewhere costs.
FAR_BYTES_PER_MS = 125_000

# What a slot needs to import a code location with torch and Dagster that it has not loaded.
COLD_CODE_MS = 3_000


@dataclass(frozen=True, slots=True)
class Wishes:
    """Soft labels as (key, allowed values), input as (label key, value, bytes), and the code key; hashable."""

    soft: tuple[tuple[str, tuple[str, ...]], ...]
    inputs: tuple[tuple[str, str, int], ...]
    code_key: str


def wishes_of(spec: pb.TaskSpec) -> Wishes:
    """The wishes of a task."""
    soft = tuple(sorted((wish.key, tuple(sorted(wish.values))) for wish in spec.constraints if wish.soft))
    inputs = []
    for place in spec.inputs:
        key, _, value = place.label.partition("=")
        if place.bytes:
            inputs.append((key, value, place.bytes))
    return Wishes(soft, tuple(sorted(inputs)), spec.code_key)


def cost(wishes: Wishes, labels: Mapping[str, str], warm_code: AbstractSet[str]) -> tuple[int, int]:
    """What it costs to run a task on a worker, smaller being better.

    Args:
        wishes: of the task.
        labels: of the worker.
        warm_code: code keys that the worker's slots have loaded.

    Returns:
        Soft constraints that the worker misses, then the estimated time lost in ms, less what near input saves. Only
        comparisons between workers for the same task mean anything.
    """
    missed = sum(labels.get(key) not in allowed for key, allowed in wishes.soft)
    near_bytes = sum(size for key, value, size in wishes.inputs if labels.get(key) == value)
    cold_ms = COLD_CODE_MS if wishes.code_key and wishes.code_key not in warm_code else 0
    return missed, cold_ms - near_bytes // FAR_BYTES_PER_MS
