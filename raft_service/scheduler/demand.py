"""What a task demands of a worker before anything else counts: amounts and hard labels.

Two tasks with equal demands fit the same workers at any moment. So a demand is also the *shape* by which the planner
parks work that fits nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator_proto import ledger_pb2 as pb

from .amounts import RUN_SLOTS, STEP_SLOTS, amounts_of

_SLOT_OF_KIND = {pb.TASK_KIND_RUN: RUN_SLOTS, pb.TASK_KIND_STEP: STEP_SLOTS}


@dataclass(frozen=True, slots=True)
class Demand:
    """Needs as (name, amount) and hard labels as (key, allowed values); sorted, so that equal demands are equal."""

    needs: tuple[tuple[str, int], ...]
    labels: tuple[tuple[str, tuple[str, ...]], ...]


def demand_of(spec: pb.TaskSpec) -> Demand:
    """The demand of a task.

    An attempt always occupies a slot of its kind, so a run that names no run slots takes one, and a step that names no
    step slots takes one, whatever else they ask for.
    """
    needs = amounts_of(spec.resources)
    slot = _SLOT_OF_KIND.get(spec.kind)
    if slot is not None:
        needs.setdefault(slot, 1)
    labels = {(wish.key, tuple(sorted(wish.values))) for wish in spec.constraints if not wish.soft}
    return Demand(tuple(sorted(needs.items())), tuple(sorted(labels)))
