"""Which worker gets a task, and what parked tasks are told."""

from __future__ import annotations

import pytest

from orchestrator_proto import ledger_pb2 as pb
from raft_service.scheduler import room as room_module
from raft_service.scheduler.demand import demand_of
from raft_service.scheduler.planner import Planner
from raft_service.scheduler.wishes import COLD_CODE_MS, FAR_BYTES_PER_MS
from raft_service.testing.ledger_commands import (
    Book,
    drain,
    finish,
    hard,
    lose,
    lose_attempt,
    on,
    place,
    register,
    soft,
    step_spec,
    submit,
)

# Input whose transfer takes as long as importing code, and a bit more.
HEAVY_BYTES = (COLD_CODE_MS + 1) * FAR_BYTES_PER_MS


def chosen(book: Book, *specs: pb.TaskSpec, warm: dict[str, list[str]] | None = None) -> list[str]:
    planner = Planner(book.ledger)
    for worker_id, code_keys in (warm or {}).items():
        planner.warm(worker_id, code_keys)
    planner.offer(specs)
    return [placement.worker_id for placement in planner.plan().placements]


def two_clouds() -> Book:
    return Book(register("w-aws", cloud="aws"), register("w-gcp", cloud="gcp"))


def test_work_spreads_over_the_least_loaded() -> None:
    book = Book(register("w1", step_slots=4), register("w2", step_slots=2))
    assert chosen(book, *(step_spec(f"s{n}") for n in range(6))) == ["w1", "w2", "w1", "w1", "w2", "w1"]


def test_what_runs_counts_as_load() -> None:
    book = Book(register("w1"), register("w2"), submit(step_spec("x")), place(on("x", "w1")))
    assert chosen(book, step_spec("s")) == ["w2"]


@pytest.mark.parametrize("label", ["cloud=gcp", "worker=w-gcp"])
def test_near_the_input(label: str) -> None:
    heavy = step_spec(inputs=[pb.InputLocation(label=label, bytes=HEAVY_BYTES)])
    assert chosen(two_clouds(), heavy) == ["w-gcp"]


def test_near_the_larger_input() -> None:
    inputs = [
        pb.InputLocation(label="cloud=aws", bytes=HEAVY_BYTES),
        pb.InputLocation(label="cloud=gcp", bytes=2 * HEAVY_BYTES),
    ]
    assert chosen(two_clouds(), step_spec(inputs=inputs)) == ["w-gcp"]


def test_a_soft_constraint_is_met_where_it_can_be() -> None:
    wish = soft("cloud", "gcp")
    specs = [step_spec(f"s{n}", constraints=[wish]) for n in range(3)]
    assert chosen(two_clouds(), *specs) == ["w-gcp", "w-gcp", "w-aws"]


def test_a_soft_constraint_beats_any_input() -> None:
    near_aws = [pb.InputLocation(label="cloud=aws", bytes=100 * HEAVY_BYTES)]
    spec = step_spec(constraints=[soft("cloud", "gcp")], inputs=near_aws)
    assert chosen(two_clouds(), spec) == ["w-gcp"]


def test_warm_code_goes_before_small_input_but_not_before_large() -> None:
    def spec(size: int) -> pb.TaskSpec:
        return step_spec(code_key="loc@1", inputs=[pb.InputLocation(label="cloud=aws", bytes=size)])

    warm = {"w-aws": ["loc@2"], "w-gcp": ["loc@1"]}
    assert chosen(two_clouds(), spec(1000), warm=warm) == ["w-gcp"]
    assert chosen(two_clouds(), spec(HEAVY_BYTES), warm=warm) == ["w-aws"]


def test_a_restarted_worker_is_cold() -> None:
    book = two_clouds()
    planner = Planner(book.ledger)
    planner.warm("w-gcp", ["loc@1"])
    planner.settle(book(register("w-gcp", cloud="gcp", incarnation=2)).changes)
    planner.offer([step_spec(code_key="loc@1")])
    assert planner.plan().placements == [on("step/r1/a/0", "w-aws")]


@pytest.mark.parametrize("is_returned", [True, False])
def test_a_retry_goes_to_another_worker_if_there_is_one(*, is_returned: bool) -> None:
    near = [pb.InputLocation(label="worker=w1", bytes=HEAVY_BYTES)]
    book = Book(register("w1"), register("w2"), submit(step_spec("s", inputs=near)), place(on("s", "w1")))
    book(lose_attempt("s", 1, is_returned=is_returned))
    assert chosen(book) == ["w2"]
    book(drain("w2"))
    assert chosen(book) == ["w1"]


def test_a_hard_constraint_parks_what_it_must() -> None:
    book = two_clouds()
    planner = Planner(book.ledger)
    spec = step_spec("s", constraints=[hard("cloud", "azure")])
    planner.offer([spec])
    plan = planner.plan()
    reason = "no worker in service can take it (2 workers: lacks label cloud in {azure})"
    assert (plan.placements, plan.unplaced) == ([], {"s": reason})
    planner.settle(book(submit(spec)).changes)
    assert planner.waiting_reason("s") == reason
    planner.settle(book(register("w-azure", cloud="azure")).changes)
    assert planner.has_work
    assert planner.plan().placements == [on("s", "w-azure")]


def test_reasons_say_what_stands_in_the_way() -> None:
    book = Book(submit(step_spec("s"), step_spec("busy1"), step_spec("busy2")))
    planner = Planner(book.ledger)
    assert planner.waiting_reason("s") == "no worker is registered"
    placements = place(on("busy1", "w1"), on("busy2", "w2"))
    both = [register(name, step_slots=1) for name in ("w1", "w2")]
    planner.settle(book(*both, register("w3"), lose("w3"), drain("w3"), placements).changes)
    assert planner.waiting_reason("s") == (
        "waits for room (2 workers: has 0 of 1 step slots free, 1 needed; 1 worker: is lost)"
    )
    assert planner.waiting_reason("busy1") == ""
    planner.settle(book(finish("busy1", 2)).changes)
    assert planner.waiting_reason("s") == "waits for its turn"


@pytest.mark.parametrize(
    "wake",
    [
        register("w2"),
        drain("w1", undo=True),
        register("w1", incarnation=2),
    ],
)
def test_the_change_that_makes_it_fit_wakes_parked_work(wake: pb.Command) -> None:
    book = Book(register("w1"), drain("w1"), submit(step_spec("s")))
    planner = Planner(book.ledger)
    assert not planner.has_work
    planner.settle(book(wake).changes)
    assert planner.has_work
    assert len(planner.plan().placements) == 1


def test_parked_tasks_of_one_shape_are_not_looked_at_one_by_one(monkeypatch) -> None:
    calls = []
    real = room_module.demand_fits
    book = Book(register("w1", step_slots=1), submit(*(step_spec(f"s{n:04}") for n in range(2000))))
    planner = Planner(book.ledger)
    monkeypatch.setattr(room_module, "demand_fits", lambda *args: calls.append(1) or real(*args))
    plan = planner.plan()
    planner.settle(book(place(*plan.placements)).changes)
    planner.settle(book(finish("s0000", 2)).changes)
    assert [placement.task_id for placement in planner.plan().placements] == ["s0001"]
    assert len(calls) < 20


def test_shapes_that_nobody_waits_for_are_dropped(monkeypatch) -> None:
    monkeypatch.setattr(room_module, "IDLE_SHAPES_MAX", 4)
    room = room_module.Room(Book(register("w1", memory_bytes=1000)).ledger)
    specs = [step_spec(f"s{n}", resources=pb.Resources(memory_bytes=n)) for n in range(1, 50)]
    for spec in specs:
        assert room.shape(demand_of(spec)).candidates == {"w1"}
    assert len(room.shapes()) <= 4
