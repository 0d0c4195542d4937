"""The life of a task: submit, place, finish, lose, cancel, forget."""

from __future__ import annotations

import pytest

from orchestrator_proto import ledger_pb2 as pb
from raft_service.scheduler.admission import PAYLOAD_BYTES_MAX
from raft_service.scheduler.outcomes import (
    CancelOutcome,
    EndedAttempt,
    ForgetOutcome,
    PlacedAttempt,
    PlaceOutcome,
    ReportOutcome,
    SubmitOutcome,
)
from raft_service.scheduler.transitions import ATTEMPTS_MAX
from raft_service.testing.ledger_commands import (
    Book,
    cancel,
    drain,
    finish,
    forget,
    hard,
    lose,
    lose_attempt,
    on,
    place,
    register,
    run_spec,
    step_spec,
    submit,
    token,
)

QUEUED, PLACED = pb.TASK_STATE_QUEUED, pb.TASK_STATE_PLACED
SUCCEEDED, FAILED, CANCELED = pb.TASK_STATE_SUCCEEDED, pb.TASK_STATE_FAILED, pb.TASK_STATE_CANCELED


def test_submit_and_place_in_one_entry() -> None:
    book = Book(register())
    applied = book(submit(run_spec()), place(on("run/r1")))
    assert applied.outcomes == (SubmitOutcome((QUEUED,)), PlaceOutcome((token(2),), ("",)))
    assert applied.changes.tasks == ("run/r1",)
    assert applied.changes.placed == (PlacedAttempt("w1", 1, "run/r1", token(2), 1),)
    assert book.state("run/r1") == PLACED
    assert book.ledger.used("w1") == pb.Resources(run_slots=1)
    assert book.ledger.is_valid("run/r1", token(2))


def test_submit_again_answers_with_the_state_and_keeps_the_first_spec() -> None:
    book = Book(register(), submit(run_spec(priority=1)), place(on("run/r1")))
    assert book.only(submit(run_spec(priority=9))) == SubmitOutcome((PLACED,))
    book(finish("run/r1", 1))
    assert book.only(submit(run_spec())) == SubmitOutcome((SUCCEEDED,))
    assert book.ledger.view("run/r1").spec.priority == 1


@pytest.mark.parametrize(
    "spec",
    [
        step_spec(""),
        pb.TaskSpec(task_id="a"),
        step_spec(resources=pb.Resources(gpus=-1)),
        step_spec(resources=pb.Resources(pools={"p": -1})),
        step_spec(payload=b"x" * (PAYLOAD_BYTES_MAX + 1)),
        step_spec(constraints=[hard("", "x")]),
        step_spec(constraints=[hard("cloud")]),
        step_spec(inputs=[pb.InputLocation(label="aws", bytes=1)]),
        step_spec(infra_losses_max=ATTEMPTS_MAX),
    ],
)
def test_a_spec_that_is_no_good_is_refused_and_not_entered(spec: pb.TaskSpec) -> None:
    book = Book()
    assert book.only(submit(spec, step_spec("good"))) == SubmitOutcome((pb.TASK_STATE_UNSPECIFIED, QUEUED))
    assert [task.task_id for task in book.ledger.tasks()] == ["good"]


@pytest.mark.parametrize(
    ("commands", "placement", "refusal"),
    [
        ([], on("gone"), "the task is not known"),
        ([], on("s", "w9"), "worker w9 is not known"),
        ([], on("s", incarnation=7), "worker w1 has started anew"),
        ([drain()], on("s"), "worker w1 is draining"),
        ([cancel("s")], on("s"), "the task is canceled"),
        ([place(on("s", "w2"), on("s", "w3"))], on("s"), "this entry placed the task already"),
        ([register("w4", step_slots=0)], on("s", "w4"), "worker w4 offers 0 step slots, 1 needed"),
    ],
)
def test_a_stale_placement_is_refused_alone(commands: list[pb.Command], placement: pb.Placement, refusal: str) -> None:
    book = Book(*(register(name) for name in ("w1", "w2", "w3")), submit(step_spec("s"), step_spec("other")))
    applied = book(*commands, place(placement, on("other", "w2")))
    outcome = applied.outcomes[-1]
    assert isinstance(outcome, PlaceOutcome)
    assert outcome.refusals[0].startswith(refusal)
    assert outcome.tokens == (None, token(2))
    assert placement.task_id in applied.changes.refused


def test_no_worker_is_ever_overbooked() -> None:
    book = Book(register(step_slots=2), submit(*(step_spec(f"s{n}") for n in range(3))))
    outcome = book.only(place(on("s0"), on("s1"), on("s2")))
    assert outcome == PlaceOutcome(
        (token(2), token(2), None), ("", "", "worker w1 has 0 of 2 step slots free, 1 needed")
    )
    book(finish("s0", 2))
    assert book.only(place(on("s2"))) == PlaceOutcome((token(4),), ("",))


def test_place_again_answers_with_the_first_token() -> None:
    book = Book(register(), submit(step_spec("s")), place(on("s")))
    before = book.bytes()
    assert book.only(place(on("s"))) == PlaceOutcome((token(1),), ("",))
    assert book.bytes() == before


def test_a_step_may_have_a_backup_and_the_first_result_wins() -> None:
    book = Book(register("w1"), register("w2"), register("w3"), submit(step_spec("s")), place(on("s", "w1")))
    assert book.only(place(on("s", "w2"), on("s", "w3"))) == PlaceOutcome(
        (token(2), None), ("", "the task is placed already")
    )
    applied = book(finish("s", 2, payload=b"second"))
    assert applied.outcomes == (ReportOutcome(accepted=True),)
    assert [(ended.worker_id, ended.state) for ended in applied.changes.ended] == [("w1", pb.ATTEMPT_STATE_SUPERSEDED)]
    assert [ended.worker_id for ended in applied.changes.finished] == ["w2"]
    late = book.only(finish("s", 1, payload=b"first"))
    assert late == ReportOutcome(accepted=False, reason="attempt 1 is superseded: attempt 2 finished first")
    assert book.ledger.view("s", with_payload=True).result.payload == b"second"
    assert book.ledger.used("w1") == book.ledger.used("w2") == pb.Resources()


def test_a_run_has_no_backup() -> None:
    book = Book(register("w1"), register("w2"), submit(run_spec("r")), place(on("r", "w1")))
    assert book.only(place(on("r", "w2"))) == PlaceOutcome((None,), ("the task is placed already",))


def test_a_backup_goes_on_when_the_first_attempt_is_lost() -> None:
    spec = step_spec("s", infra_losses_max=1)
    book = Book(register("w1"), register("w2"), submit(spec), place(on("s", "w1")))
    book(place(on("s", "w2")))
    book(lose("w1"))
    assert book.state("s") == PLACED
    assert book.ledger.is_valid("s", token(2))
    assert not book.ledger.is_valid("s", token(1))


def test_the_first_result_counts_and_its_repeat_is_accepted() -> None:
    book = Book(register(), submit(step_spec("s")), place(on("s")))
    applied = book(finish("s", 1, payload=b"one"))
    assert applied.outcomes == (ReportOutcome(accepted=True),)
    assert applied.changes.ended == ()
    before = book.bytes()
    assert book.only(finish("s", 1, payload=b"two")) == ReportOutcome(accepted=True)
    assert book.bytes() == before
    view = book.ledger.view("s", with_payload=True)
    assert (view.state, view.result.payload, view.ended_at_ms) == (SUCCEEDED, b"one", book.now_ms - 1)


def test_a_failure_is_a_result() -> None:
    book = Book(register(), submit(step_spec("s")), place(on("s")), finish("s", 1, succeeded=False, error="boom"))
    assert book.state("s") == FAILED
    assert book.ledger.view("s").result.error == "boom"


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (finish("gone", 1), "task gone is not known"),
        (finish("s", 9), "task s has no attempt with token (1, 9)"),
        (lose_attempt("s", 9), "task s has no attempt with token (1, 9)"),
        (finish("s", 1), "attempt 1 is lost: worker w1 was lost: silent for 15 s"),
    ],
)
def test_a_report_without_a_valid_token_changes_nothing(report: pb.Command, reason: str) -> None:
    book = Book(register("w1"), register("w2"), submit(step_spec("s")), place(on("s", "w1")))
    book(lose("w1"))
    book(place(on("s", "w2")))
    before = book.bytes()
    assert book.only(report) == ReportOutcome(accepted=False, reason=reason)
    assert book.bytes() == before


def test_a_lost_attempt_queues_its_task_again_until_the_losses_are_too_many() -> None:
    book = Book(register(), submit(step_spec("s")))
    for loss in range(1, 4):
        index = book.ledger.applied_index + 1
        book(place(on("s")))
        applied = book(lose_attempt("s", index, reason="signal 9"))
        assert applied.outcomes == (ReportOutcome(accepted=True),)
        assert (book.state("s"), book.ledger.view("s").infra_losses) == (QUEUED, loss)
        assert book.ledger.used("w1") == pb.Resources()
    book(place(on("s")))
    book(lose_attempt("s", book.ledger.applied_index, reason="signal 9"))
    view = book.ledger.view("s")
    assert view.state == FAILED
    assert view.result.error == (
        "Task s lost 4 attempts with their workers or slots, more than the 3 that it may lose, the last time because "
        "signal 9."
    )
    assert [attempt.number for attempt in view.attempts] == [1, 2, 3, 4]


def test_a_loss_reported_twice_counts_once() -> None:
    book = Book(register(), submit(step_spec("s")), place(on("s")), lose_attempt("s", 1))
    before = book.bytes()
    assert book.only(lose_attempt("s", 1)) == ReportOutcome(accepted=True)
    assert book.bytes() == before


def test_a_returned_task_counts_no_loss_but_not_for_ever() -> None:
    book = Book(register(), submit(step_spec("s")))
    for number in range(1, ATTEMPTS_MAX + 1):
        assert book.state("s") == QUEUED
        book(place(on("s")))
        book(lose_attempt("s", book.ledger.applied_index, reason="wrong code", is_returned=True))
        assert book.ledger.view("s").attempts[-1].number == number
    view = book.ledger.view("s")
    assert (view.state, view.infra_losses) == (FAILED, 0)
    assert view.result.error.endswith("was tried 100 times without a result, the last time because wrong code.")


def test_cancel_ends_children_and_skips_the_rest() -> None:
    book = Book(
        register(),
        submit(run_spec("r"), step_spec("s1", parent_task_id="r"), step_spec("s2", parent_task_id="r")),
        submit(step_spec("t", parent_task_id="s1")),
        place(on("r"), on("s1")),
    )
    applied = book(cancel("r", "unknown", "r"))
    assert applied.outcomes == (CancelOutcome(("r", "s1", "t", "s2")),)
    assert applied.changes.ended == (
        EndedAttempt("w1", 1, "r", token(1), pb.ATTEMPT_STATE_CANCELED, "asked for"),
        EndedAttempt("w1", 1, "s1", token(1), pb.ATTEMPT_STATE_CANCELED, "its parent task r is canceled"),
    )
    assert book.ledger.used("w1") == pb.Resources()
    assert book.only(cancel("r")) == CancelOutcome(())
    assert book.only(finish("s1", 1)).accepted is False  # type: ignore[union-attr]


@pytest.mark.parametrize("succeeded", [True, False])
def test_the_end_of_a_parent_cancels_what_it_left_undone(*, succeeded: bool) -> None:
    book = Book(register(), submit(run_spec("r"), step_spec("s1", parent_task_id="r")), place(on("r"), on("s1")))
    book(submit(step_spec("s2", parent_task_id="r")), finish("s1", 1))
    applied = book(finish("r", 1, succeeded=succeeded))
    assert (book.state("s1"), book.state("s2")) == (SUCCEEDED, CANCELED)
    assert applied.changes.tasks == ("r", "s2")


def test_a_run_that_fails_for_its_losses_cancels_its_steps() -> None:
    spec = run_spec("r", infra_losses_max=1)
    book = Book(register(), submit(spec, step_spec("s", parent_task_id="r")), place(on("r"), on("s")))
    book(lose_attempt("r", 1))
    assert (book.state("r"), book.state("s")) == (QUEUED, PLACED)  # its steps go on meanwhile
    book(place(on("r")))
    book(lose_attempt("r", 3))
    assert (book.state("r"), book.state("s")) == (FAILED, CANCELED)


@pytest.mark.parametrize("parent", ["r", "never-seen", "s"])
def test_a_submit_after_the_parents_end_is_canceled_and_recorded(parent: str) -> None:
    book = Book(register(), submit(run_spec("r")), place(on("r")), finish("r", 1))
    outcome = book.only(submit(step_spec("s", parent_task_id=parent)))
    assert outcome == SubmitOutcome((CANCELED,))
    view = book.ledger.view("s")
    assert (view.state, view.ended_at_ms) == (CANCELED, book.now_ms)
    assert book.only(submit(step_spec("s"))) == SubmitOutcome((CANCELED,))


def test_only_ended_tasks_are_forgotten() -> None:
    book = Book(register(), submit(step_spec("a"), step_spec("b"), step_spec("c")), place(on("b"), on("c")))
    book(finish("c", 1))
    applied = book(forget("a", "b", "c", "unknown"))
    assert applied.outcomes == (ForgetOutcome(1),)
    assert applied.changes.forgotten == ("c",)
    assert applied.changes.tasks == ()
    assert [task.task_id for task in book.ledger.tasks_with_prefix("")] == ["a", "b"]


def test_views_hold_payloads_only_when_asked() -> None:
    book = Book(register(), submit(step_spec("s", payload=b"in")), place(on("s")), finish("s", 1, payload=b"out"))
    bare, full = book.ledger.view("s"), book.ledger.view("s", with_payload=True)
    assert (bare.spec.payload, bare.result.payload) == (b"", b"")
    assert (full.spec.payload, full.result.payload) == (b"in", b"out")
    assert book.ledger.view("unknown") == pb.TaskView(spec=pb.TaskSpec(task_id="unknown"))


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("step/r1/", ["step/r1/a/0", "step/r1/b/0"]),
        ("step/r1/a", ["step/r1/a/0"]),
        ("step/r1", ["step/r1/a/0", "step/r1/b/0", "step/r10/a/0"]),
        ("step/", ["step/r1/a/0", "step/r1/b/0", "step/r10/a/0"]),
        ("st", ["step/r1/a/0", "step/r1/b/0", "step/r10/a/0"]),
        ("run/r1", ["run/r1"]),
        ("run/r1/", []),
        ("x", []),
    ],
)
def test_tasks_by_prefix(prefix: str, found: list[str]) -> None:
    steps = [step_spec(name) for name in ("step/r1/b/0", "step/r1/a/0", "step/r10/a/0")]
    book = Book(submit(run_spec("run/r1"), *steps))
    assert [task.task_id for task in book.ledger.tasks_with_prefix(prefix)] == found


def test_counts_follow_every_move() -> None:
    book = Book(register("w1"), register("w2"), submit(*(step_spec(name) for name in "abcd")), place(on("a"), on("b")))
    book(finish("a", 1), cancel("c"), lose("w2"))
    counts = book.ledger.counts()
    assert counts.tasks == {"queued": 1, "placed": 1, "succeeded": 1, "failed": 0, "canceled": 1}
    assert counts.workers == {"active": 1, "draining": 0, "lost": 1}
