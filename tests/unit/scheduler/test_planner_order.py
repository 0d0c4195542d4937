"""Which task goes first: priority, fair share, arrival; and how the planner follows the ledger."""

from __future__ import annotations

from orchestrator_proto import ledger_pb2 as pb
from raft_service.scheduler import planner as planner_module
from raft_service.scheduler.outcomes import Applied
from raft_service.scheduler.planner import Plan, Planner
from raft_service.testing.ledger_commands import (
    Book,
    cancel,
    drain,
    finish,
    forget_worker,
    lose,
    lose_attempt,
    on,
    place,
    register,
    run_spec,
    step_spec,
    submit,
)


def placed_ids(plan: Plan) -> list[str]:
    return [placement.task_id for placement in plan.placements]


class Leader:
    """A book with its planner, which sees each entry as a leader does."""

    def __init__(self, *commands: pb.Command) -> None:
        self.book = Book(*commands)
        self.planner = Planner(self.book.ledger)

    def apply(self, *commands: pb.Command) -> Applied:
        applied = self.book(*commands)
        self.planner.settle(applied.changes)
        return applied

    def submit(self, *specs: pb.TaskSpec) -> Plan:
        """Submit and place in one entry, as the leader proposes them."""
        self.planner.offer(specs)
        plan = self.planner.plan()
        self.apply(submit(*specs), place(*plan.placements))
        return plan

    def round(self) -> list[str]:
        """Plans once more and applies it; the ids placed."""
        plan = self.planner.plan()
        self.apply(place(*plan.placements))
        return placed_ids(plan)


def test_a_task_on_an_idle_cluster_is_placed_with_its_submit() -> None:
    leader = Leader(register())
    plan = leader.submit(run_spec("r"))
    assert plan == Plan([on("r", "w1")], {})
    assert leader.book.state("r") == pb.TASK_STATE_PLACED
    assert not leader.planner.has_work


def test_arrival_decides_among_equals() -> None:
    leader = Leader(register(step_slots=1), submit(step_spec("b"), step_spec("a")))
    leader.apply(submit(step_spec("0")))
    order = []
    for _ in range(3):
        (task_id,) = leader.round()
        order.append(task_id)
        leader.apply(finish(task_id, leader.book.ledger.applied_index))
    assert order == ["b", "a", "0"]


def test_offered_tasks_queue_behind_those_of_the_ledger() -> None:
    leader = Leader(register(step_slots=1), submit(step_spec("old")))
    assert placed_ids(leader.submit(step_spec("new"))) == ["old"]


def test_offered_tasks_keep_their_place_once_they_are_applied() -> None:
    leader = Leader(register(step_slots=1))
    leader.submit(step_spec("first"), step_spec("second"))
    leader.apply(submit(step_spec("third")))
    leader.apply(finish("first", 2))
    assert leader.round() == ["second"]


def test_higher_priority_goes_first() -> None:
    tasks = [step_spec("low", priority=-1), step_spec("middle"), step_spec("high", priority=5)]
    leader = Leader(register(step_slots=2), submit(*tasks))
    assert leader.round() == ["high", "middle"]


def test_a_retried_task_goes_before_later_ones() -> None:
    leader = Leader(register(step_slots=1), submit(step_spec("a"), step_spec("b")))
    assert leader.round() == ["a"]
    leader.apply(lose_attempt("a", 2))
    assert leader.round() == ["a"]


def test_keys_share_fairly_by_what_they_have_running() -> None:
    busy = [step_spec(f"busy{n}", fair_key="busy") for n in range(6)]
    leader = Leader(register(step_slots=2), submit(*busy))
    assert leader.round() == ["busy0", "busy1"]
    leader.apply(submit(*(step_spec(f"calm{n}", fair_key="calm") for n in range(2))))
    leader.apply(register("w2", step_slots=3))
    # busy has 2 running, calm none: calm catches up, then they alternate.
    assert leader.round() == ["calm0", "calm1", "busy2"]


def test_the_end_of_an_attempt_counts_for_its_share() -> None:
    tasks = [step_spec(f"a{n}", fair_key="a") for n in range(3)] + [step_spec("b0", fair_key="b")]
    leader = Leader(register(step_slots=3), submit(*tasks))
    assert leader.round() == ["a0", "b0", "a1"]
    leader.apply(finish("a0", 2), finish("a1", 2))
    leader.apply(submit(step_spec("b1", fair_key="b")))
    assert leader.round() == ["a2", "b1"]  # a has none running now, b one


def test_runs_and_steps_do_not_share_with_each_other() -> None:
    leader = Leader(register(run_slots=8, step_slots=1))
    leader.submit(*(run_spec(f"r{n}", fair_key="a") for n in range(3)))
    leader.apply(submit(step_spec("s-a", fair_key="a"), step_spec("s-b", fair_key="b")))
    assert leader.round() == ["s-a"]


def test_priority_beats_fair_share_and_fair_share_beats_arrival() -> None:
    tasks = [
        step_spec("a1", fair_key="a"),
        step_spec("a2", fair_key="a"),
        step_spec("b1", fair_key="b"),
        step_spec("a3", fair_key="a", priority=1),
    ]
    leader = Leader(register(step_slots=3), submit(*tasks))
    assert leader.round() == ["a3", "b1", "a1"]


def test_what_is_planned_is_reserved_until_it_is_settled() -> None:
    leader = Leader(register(step_slots=1), submit(step_spec("a"), step_spec("b")))
    first = leader.planner.plan()
    assert placed_ids(first) == ["a"]
    assert leader.planner.plan().placements == []
    assert leader.planner.waiting_reason("a") == "is being placed on w1"
    leader.apply(cancel("a"))  # in the log before the placement, which is refused then
    leader.apply(place(*first.placements))
    assert leader.round() == ["b"]


def test_a_refused_placement_is_planned_again() -> None:
    leader = Leader(register("w1"), submit(step_spec("a")))
    plan = leader.planner.plan()
    leader.apply(lose("w1"), register("w2"))
    leader.apply(place(*plan.placements))
    assert leader.book.state("a") == pb.TASK_STATE_QUEUED
    assert leader.planner.plan().placements == [on("a", "w2")]


def test_a_placement_in_flight_goes_with_a_submit_in_flight() -> None:
    leader = Leader(register(step_slots=1))
    leader.planner.offer([step_spec("a"), step_spec("b")])
    first = leader.planner.plan()
    leader.apply(register("w2", step_slots=1))
    second = leader.planner.plan()  # b is not in the ledger yet, its submit is
    leader.apply(submit(step_spec("a"), step_spec("b")), place(*first.placements))
    leader.apply(place(*second.placements))
    assert (placed_ids(first), placed_ids(second)) == (["a"], ["b"])
    assert leader.book.state("b") == pb.TASK_STATE_PLACED


def test_an_abandoned_entry_leaves_no_trace() -> None:
    leader = Leader(register(step_slots=1), submit(step_spec("old")))
    specs = [step_spec("new")]
    leader.planner.offer(specs)
    plan = leader.planner.plan()
    leader.planner.abandon(specs, plan.placements)
    assert leader.planner.waiting_reason("new") == ""
    assert leader.round() == ["old"]


def test_offers_that_are_known_or_no_good_are_passed_over() -> None:
    leader = Leader(register(), submit(step_spec("done")), place(on("done")), finish("done", 1))
    plan = leader.submit(step_spec("done"), step_spec(""), pb.TaskSpec(task_id="x"))
    assert plan == Plan([], {})
    leader.planner.offer([step_spec("a")])
    assert placed_ids(leader.planner.plan()) == ["a"]
    leader.planner.offer([step_spec("a")])
    assert leader.planner.plan().placements == []


def test_a_canceled_task_is_not_placed() -> None:
    leader = Leader(submit(step_spec("a"), step_spec("b")))
    leader.apply(cancel("a"))
    leader.apply(register())
    assert leader.round() == ["b"]


def test_a_drained_worker_gets_nothing_and_a_forgotten_one_is_gone() -> None:
    leader = Leader(register("w1"), register("w2"), register("w3"))
    leader.apply(drain("w1"))
    leader.apply(lose("w2"))
    leader.apply(forget_worker("w2"))
    plan = leader.submit(*(step_spec(f"s{n}") for n in range(3)))
    assert [placement.worker_id for placement in plan.placements] == ["w3", "w3"]


def test_a_large_queue_is_planned_in_parts(monkeypatch) -> None:
    monkeypatch.setattr(planner_module, "PLACEMENTS_MAX", 3)
    leader = Leader(register(step_slots=5))
    plan = leader.submit(*(step_spec(f"s{n}") for n in range(7)))
    assert (len(plan.placements), plan.has_more, leader.planner.has_work) == (3, True, True)
    assert leader.round() == ["s3", "s4"]
    assert not leader.planner.has_work


def test_a_new_planner_agrees_with_the_old_one() -> None:
    leader = Leader(register(step_slots=2))
    leader.submit(*(step_spec(f"a{n}", fair_key="a") for n in range(3)))
    leader.submit(*(step_spec(f"b{n}", fair_key="b") for n in range(2)))
    leader.apply(register("w2", step_slots=2))
    assert Planner(leader.book.ledger).plan() == leader.planner.plan()
