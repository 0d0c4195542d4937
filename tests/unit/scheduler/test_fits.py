"""fits(): one table of cases, each with the words it answers."""

from __future__ import annotations

import pytest

from orchestrator_proto import ledger_pb2 as pb
from raft_service.scheduler.amounts import amounts_of, resources_of
from raft_service.scheduler.demand import demand_of
from raft_service.scheduler.fits import fits
from raft_service.scheduler.worker import Worker
from raft_service.testing.ledger_commands import hard, register, run_spec, soft, step_spec

GIB = 1 << 30


def worker(state: pb.WorkerState = pb.WORKER_STATE_ACTIVE) -> Worker:
    command = register(
        "w1",
        run_slots=4,
        step_slots=2,
        gpus=1,
        gpu_memory_bytes=16 * GIB,
        memory_bytes=64 * GIB,
        pools={"licence": 3},
    )
    return Worker(registration=command.register_worker, registered_at_ms=0, state=state)


def needing(**amounts: object) -> pb.TaskSpec:
    return step_spec(resources=pb.Resources(**amounts))


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (step_spec(), ""),
        (run_spec(), ""),
        (needing(step_slots=2), ""),
        (needing(step_slots=3), "offers 2 step slots, 3 needed"),
        (run_spec(resources=pb.Resources(run_slots=5)), "offers 4 run slots, 5 needed"),
        (needing(gpus=1, gpu_memory_bytes=16 * GIB), ""),
        (needing(gpus=2), "offers 1 GPUs, 2 needed"),
        (needing(gpu_memory_bytes=16 * GIB + 1), f"offers {16 * GIB} bytes of GPU memory, {16 * GIB + 1} needed"),
        (needing(memory_bytes=65 * GIB), f"offers {64 * GIB} bytes of memory, {65 * GIB} needed"),
        (needing(pools={"licence": 3}), ""),
        (needing(pools={"licence": 4}), "offers 3 of pool licence, 4 needed"),
        (needing(pools={"gpus": 1}), "offers 0 of pool gpus, 1 needed"),
        (step_spec(constraints=[hard("cloud", "gcp", "aws")]), ""),
        (step_spec(constraints=[hard("cloud", "gcp")]), "lacks label cloud in {gcp}"),
        (step_spec(constraints=[hard("zone", "a", "b")]), "lacks label zone in {a, b}"),
        (step_spec(constraints=[soft("cloud", "gcp")]), ""),
    ],
)
def test_reason(spec: pb.TaskSpec, reason: str) -> None:
    idle = worker()
    assert fits(idle.free(), idle, spec) == reason


def test_what_is_used_is_told_apart_from_what_is_not_offered() -> None:
    busy = worker()
    busy.used = {"step_slots": 2}
    assert fits(busy.free(), busy, step_spec()) == "has 0 of 2 step slots free, 1 needed"
    assert fits(busy.free(), busy, run_spec()) == ""


@pytest.mark.parametrize(
    ("state", "reason"), [(pb.WORKER_STATE_DRAINING, "is draining"), (pb.WORKER_STATE_LOST, "is lost")]
)
def test_a_worker_out_of_service_refuses(state: pb.WorkerState, reason: str) -> None:
    out = worker(state)
    assert fits(out.free(), out, step_spec()) == reason


def test_every_attempt_takes_a_slot_of_its_kind() -> None:
    assert demand_of(run_spec()).needs == (("run_slots", 1),)
    assert demand_of(step_spec()).needs == (("step_slots", 1),)
    assert demand_of(needing(gpus=1)).needs == (("gpus", 1), ("step_slots", 1))
    assert demand_of(needing(step_slots=2)).needs == (("step_slots", 2),)


def test_equal_demands_are_equal_however_they_are_written() -> None:
    one = step_spec("a", constraints=[hard("cloud", "aws", "gcp"), hard("zone", "x")])
    other = step_spec("b", constraints=[hard("zone", "x"), hard("cloud", "gcp", "aws"), soft("rack", "1")])
    assert demand_of(one) == demand_of(other)


def test_amounts_survive_the_way_there_and_back() -> None:
    resources = pb.Resources(run_slots=1, step_slots=2, gpus=3, memory_bytes=4, pools={"b": 5, "a": 6, "none": 0})
    back = resources_of(amounts_of(resources))
    assert dict(back.pools) == {"a": 6, "b": 5}
    back.pools["none"] = 0
    assert back == resources
