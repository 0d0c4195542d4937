"""What is refused before it enters the books, as one sentence each.

The servers ask first, so that a caller is told; apply asks again, so that no replica depends on that.
"""

from __future__ import annotations

from orchestrator_proto import ledger_pb2 as pb

from .amounts import negative_name
from .transitions import ATTEMPTS_MAX

# Longest payload of a spec or a result: what is larger belongs into the object store, or the log stalls behind it.
PAYLOAD_BYTES_MAX = 1 << 20

# Wishes and input locations of one task; placement walks them for each worker.
CONSTRAINTS_MAX = 64
INPUTS_MAX = 1_000


def check_spec(spec: pb.TaskSpec) -> str:
    """Why a task cannot be accepted, in one sentence with the cure, or "" when it can."""
    if not spec.task_id:
        return "A task has no id; give each task an id of its own."
    problem = _identity_problem(spec) or _placement_problem(spec)
    return f"Task {spec.task_id}: {problem}" if problem else ""


def _identity_problem(spec: pb.TaskSpec) -> str:
    if spec.kind not in (pb.TASK_KIND_RUN, pb.TASK_KIND_STEP):
        return f"kind {spec.kind} is not known; use RUN or STEP."
    if len(spec.payload) > PAYLOAD_BYTES_MAX:
        return f"its payload has {len(spec.payload)} bytes, at most {PAYLOAD_BYTES_MAX} are taken; pass a reference."
    if spec.infra_losses_max >= ATTEMPTS_MAX:
        return f"infra_losses_max={spec.infra_losses_max} is too large; choose less than {ATTEMPTS_MAX}."
    return ""


def _placement_problem(spec: pb.TaskSpec) -> str:
    negative = negative_name(spec.resources)
    if negative:
        return f"it asks for {negative}; ask for zero or more."
    if len(spec.constraints) > CONSTRAINTS_MAX:
        return f"it has {len(spec.constraints)} constraints, at most {CONSTRAINTS_MAX} are taken."
    if len(spec.inputs) > INPUTS_MAX:
        return f"it names {len(spec.inputs)} input locations, at most {INPUTS_MAX} are taken; add them up by label."
    if any(not wish.key or not wish.values for wish in spec.constraints):
        return "a constraint lacks its key or values; name the label and at least one value."
    if any("=" not in place.label or place.bytes < 0 for place in spec.inputs):
        return "an input location is malformed; write label as key=value with zero or more bytes."
    return ""


def check_registration(registration: pb.RegisterWorkerCommand) -> str:
    """Why a worker cannot be entered, in one sentence with the cure, or "" when it can."""
    if not registration.worker_id:
        return "A worker has no name; set WORKER_NAME."
    name = registration.worker_id
    if not registration.incarnation:
        return f"Worker {name} registers with incarnation zero; use the clock at the start of its process."
    negative = negative_name(registration.capacity)
    if negative:
        return f"Worker {name} offers {negative}; offer zero or more."
    return ""
