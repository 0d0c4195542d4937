"""The one answer to "may this task start on this worker now?", used by the planner and again by apply.

Two code paths that answer it differently are how a scheduler ends up planning for ever what is refused for ever. So
there is one, it is pure, and a test holds the planner to it: what it plans is never refused while nothing happens in
between.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator_proto import ledger_pb2 as pb

from .amounts import in_words
from .demand import Demand, demand_of
from .worker import Worker


def fits(free: Mapping[str, int], worker: Worker, spec: pb.TaskSpec) -> str:
    """Says whether a worker can take one more attempt of a task.

    Args:
        free: what the worker has left, by name of amount (see amounts.py).
        worker: the worker, for its state, labels and capacity.
        spec: the task.

    Returns:
        "" when it fits, otherwise the reason in words, without the worker's name.
    """
    return demand_fits(free, worker, demand_of(spec))


def demand_fits(free: Mapping[str, int], worker: Worker, demand: Demand) -> str:
    """As fits(), for a demand that was worked out before."""
    if worker.state != pb.WORKER_STATE_ACTIVE:
        return _REASON_OF_STATE.get(worker.state, "is not in service")
    for key, allowed in demand.labels:
        if worker.labels.get(key) not in allowed:
            return f"lacks label {key} in {{{', '.join(allowed)}}}"
    for name, needed in demand.needs:
        if free.get(name, 0) < needed:
            return _shortage(free, worker.capacity, name, needed)
    return ""


_REASON_OF_STATE: Mapping[int, str] = {
    pb.WORKER_STATE_DRAINING: "is draining",
    pb.WORKER_STATE_LOST: "is lost",
}


def _shortage(free: Mapping[str, int], capacity: Mapping[str, int], name: str, needed: int) -> str:
    offered = capacity.get(name, 0)
    if offered < needed:
        return f"offers {offered} {in_words(name)}, {needed} needed"
    return f"has {free.get(name, 0)} of {offered} {in_words(name)} free, {needed} needed"
