"""The life of a worker: register, drain, lose, come back, forget."""

from __future__ import annotations

import pytest

from orchestrator_proto import ledger_pb2 as pb
from raft_service.scheduler.outcomes import WorkerOutcome
from raft_service.testing.ledger_commands import (
    Book,
    cancel,
    drain,
    finish,
    forget_worker,
    lose,
    on,
    place,
    register,
    run_spec,
    step_spec,
    submit,
    token,
)

ACTIVE, DRAINING, LOST = pb.WORKER_STATE_ACTIVE, pb.WORKER_STATE_DRAINING, pb.WORKER_STATE_LOST


def busy_book() -> Book:
    """Worker w1 has the run r and its step s, placed by entry 1."""
    tasks = submit(run_spec("r"), step_spec("s", parent_task_id="r"))
    return Book(register(), tasks, place(on("r"), on("s")))


def test_register_again_changes_nothing() -> None:
    book = busy_book()
    book(drain())
    before = book.bytes()
    assert book.only(register(step_slots=99)) == WorkerOutcome(known=True, state=DRAINING)
    assert book.bytes() == before


def test_a_later_start_loses_the_attempts_of_the_former() -> None:
    book = busy_book()
    applied = book(register(incarnation=2, step_slots=5))
    assert applied.outcomes == (WorkerOutcome(known=True, state=ACTIVE),)
    assert [(e.task_id, e.incarnation, e.state) for e in applied.changes.ended] == [
        ("r", 1, pb.ATTEMPT_STATE_LOST),
        ("s", 1, pb.ATTEMPT_STATE_LOST),
    ]
    worker = book.ledger.worker("w1")
    assert worker is not None
    assert (worker.incarnation, worker.capacity["step_slots"], worker.used, worker.attempts_lost) == (2, 5, {}, 2)
    assert book.state("r") == book.state("s") == pb.TASK_STATE_QUEUED
    assert book.ledger.view("s").infra_losses == 1


def test_an_earlier_start_is_turned_away() -> None:
    book = Book(register(incarnation=5))
    outcome = book.only(register(incarnation=4))
    assert outcome == WorkerOutcome(known=False, state=ACTIVE, reason="a later start of worker w1 is registered")


@pytest.mark.parametrize("bad", [register(""), register(incarnation=0), register(gpus=-1)])
def test_a_registration_that_is_no_good_is_refused(bad: pb.Command) -> None:
    book = Book()
    outcome = book.only(bad)
    assert isinstance(outcome, WorkerOutcome)
    assert not outcome.known
    assert outcome.reason
    assert book.ledger.workers() == []


def test_a_lost_worker_loses_its_attempts_once() -> None:
    book = busy_book()
    applied = book(lose())
    assert {e.token.index for e in applied.changes.ended} == {1}
    assert applied.changes.workers == ("w1",)
    worker = book.ledger.worker("w1")
    assert worker is not None
    assert (worker.state, worker.lost_at_ms, worker.used) == (LOST, book.now_ms, {})
    before = book.bytes()
    assert book.only(lose()) == WorkerOutcome(known=False, state=LOST)
    assert book.bytes() == before
    assert book.ledger.live_workers() == []


def test_a_loss_of_another_incarnation_is_void() -> None:
    book = busy_book()
    book(register(incarnation=2))
    outcome = book.only(lose(incarnation=1))
    assert outcome == WorkerOutcome(
        known=False, state=ACTIVE, reason="worker w1 is registered with another incarnation"
    )
    assert book.ledger.live_workers() == [("w1", 2)]


def test_a_lost_worker_comes_back_without_its_attempts() -> None:
    book = busy_book()
    book(lose())
    assert book.only(register()) == WorkerOutcome(known=True, state=ACTIVE)
    assert not book.ledger.is_valid("s", token(1))
    worker = book.ledger.worker("w1")
    assert worker is not None
    assert (worker.lost_at_ms, worker.attempts_lost) == (0, 2)


def test_drain_and_back() -> None:
    book = busy_book()
    assert book.only(drain()) == WorkerOutcome(known=True, state=DRAINING)
    assert book(drain()).changes.workers == ()
    assert book.ledger.is_valid("s", token(1))  # what it has goes on
    assert book.only(drain(undo=True)) == WorkerOutcome(known=True, state=ACTIVE)
    book(lose())
    assert book.only(drain(undo=True)) == WorkerOutcome(known=False, state=LOST, reason="worker w1 is lost")


def test_only_a_lost_worker_is_forgotten() -> None:
    book = busy_book()
    outcome = book.only(forget_worker())
    assert outcome == WorkerOutcome(
        known=True, state=ACTIVE, reason="worker w1 is in service; only a lost worker is forgotten"
    )
    book(lose())
    assert book(forget_worker()).changes.workers == ("w1",)
    assert book.ledger.worker("w1") is None
    assert book.only(forget_worker()) == WorkerOutcome(known=False, state=pb.WORKER_STATE_UNSPECIFIED)
    assert book.ledger.view("s").attempts[0].worker_id == "w1"  # history stays


@pytest.mark.parametrize("command", [drain("w9"), lose("w9")])
def test_an_unknown_worker(command: pb.Command) -> None:
    outcome = Book().only(command)
    assert outcome == WorkerOutcome(known=False, state=pb.WORKER_STATE_UNSPECIFIED, reason="worker w9 is not known")


def test_valid_attempts_of_a_worker_in_order_of_arrival() -> None:
    book = Book(register(step_slots=3), submit(*(step_spec(name) for name in "zya")), place(*(on(n) for n in "ayz")))
    assert [(task.task_id, attempt.number) for task, attempt in book.ledger.valid_attempts("w1")] == [
        ("z", 1),
        ("y", 1),
        ("a", 1),
    ]
    book(finish("y", 1), cancel("z"))
    assert [task.task_id for task, _ in book.ledger.valid_attempts("w1")] == ["a"]
    assert book.ledger.valid_attempts("w9") == []
