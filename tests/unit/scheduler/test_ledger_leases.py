"""Named leases: hold, renew, take over, release, expire, and the tasks that they own."""

from __future__ import annotations

from orchestrator_proto import ledger_pb2 as pb
from raft_service.scheduler.outcomes import LeaseOutcome, SubmitOutcome
from raft_service.testing.ledger_commands import (
    Book,
    expire,
    finish,
    hold,
    on,
    place,
    register,
    release,
    step_spec,
    submit,
    token,
)

TTL_MS = 15_000


def owned_book() -> Book:
    """Entry 1 grants owner/1 to cli, which owns the placed task a and the queued task b."""
    tasks = submit(step_spec("a", owner_lease="owner/1"), step_spec("b", owner_lease="owner/1"), step_spec("c"))
    return Book(register(), hold(), tasks, place(on("a")))


def test_a_lease_is_held_by_one_owner_and_keeps_its_token_while_renewed() -> None:
    book = Book()
    assert book.only(hold()) == LeaseOutcome(granted=True, owner="cli", token=token(1))
    assert book.only(hold(owner="other")) == LeaseOutcome(granted=False, owner="cli")
    assert book.only(hold()) == LeaseOutcome(granted=True, owner="cli", token=token(1))
    lease = book.ledger.lease("owner/1")
    assert lease is not None
    assert lease.expires_at_ms == book.now_ms + TTL_MS


def test_a_hold_without_a_name_owner_or_time_is_refused() -> None:
    book = Book()
    for command in (hold(name=""), hold(owner=""), hold(ttl_ms=0)):
        assert book.only(command) == LeaseOutcome(granted=False, owner="")
    assert book.ledger.counts().leases == 0


def test_release_cancels_what_the_lease_owned() -> None:
    book = owned_book()
    assert book.only(release(owner="other")) == LeaseOutcome(granted=True, owner="cli")
    applied = book(release())
    assert applied.outcomes == (LeaseOutcome(granted=True, owner=""),)
    assert applied.changes.tasks == ("a", "b")
    assert [ended.task_id for ended in applied.changes.ended] == ["a"]
    assert (book.state("a"), book.state("b")) == (pb.TASK_STATE_CANCELED, pb.TASK_STATE_CANCELED)
    assert book.state("c") == pb.TASK_STATE_QUEUED
    assert book.only(release()) == LeaseOutcome(granted=True, owner="")


def test_expire_is_void_until_the_time_has_come() -> None:
    book = owned_book()
    assert book.only(expire(index=1)) == LeaseOutcome(granted=False, owner="cli")
    book.now_ms += TTL_MS
    assert book.only(expire(index=1)) == LeaseOutcome(granted=True, owner="")
    assert book.state("b") == pb.TASK_STATE_CANCELED


def test_expire_is_void_for_a_renewed_or_another_hold() -> None:
    book = owned_book()
    book.now_ms += TTL_MS
    book(hold())
    assert book.only(expire(index=1)) == LeaseOutcome(granted=False, owner="cli")
    book(release())
    index = book.ledger.applied_index + 1
    book(hold())
    book.now_ms += TTL_MS
    assert book.only(expire(index=1)) == LeaseOutcome(granted=False, owner="cli")
    assert book.only(expire(index=index)) == LeaseOutcome(granted=True, owner="")


def test_taking_over_a_lease_that_ran_out_cancels_the_former_owners_tasks() -> None:
    book = owned_book()
    book.now_ms += TTL_MS
    assert book.only(hold(owner="other")) == LeaseOutcome(granted=True, owner="other", token=token(2))
    assert book.state("a") == pb.TASK_STATE_CANCELED


def test_an_owner_that_renews_late_but_first_keeps_its_tasks() -> None:
    book = owned_book()
    book.now_ms += 2 * TTL_MS
    assert book.only(hold()) == LeaseOutcome(granted=True, owner="cli", token=token(1))
    assert book.state("a") == pb.TASK_STATE_PLACED


def test_a_submit_under_a_lease_that_nobody_holds_is_canceled() -> None:
    book = Book()
    outcome = book.only(submit(step_spec("a", owner_lease="owner/9")))
    assert outcome == SubmitOutcome((pb.TASK_STATE_CANCELED,))


def test_ended_tasks_of_a_lease_stay_as_they_are() -> None:
    book = owned_book()
    book(finish("a", 1))
    book(release())
    assert book.state("a") == pb.TASK_STATE_SUCCEEDED


def test_expired_leases_by_leader_time() -> None:
    book = Book(hold("owner/b"), hold("owner/a"), hold("owner/c", ttl_ms=2 * TTL_MS))
    at_ms = book.now_ms + TTL_MS
    assert book.ledger.expired_leases(at_ms - 1) == []
    assert [lease.name for lease in book.ledger.expired_leases(at_ms)] == ["owner/a", "owner/b"]
