"""What holds for every entry: versions, time, order, snapshots."""

from __future__ import annotations

import pytest

from orchestrator_proto import ledger_pb2 as pb
from raft_service.scheduler.ledger import HANDLERS, AppliedTwice, Ledger, UnknownCommand
from raft_service.scheduler.snapshot import UnknownSnapshot
from raft_service.testing.ledger_commands import Book, entry, hold, lose, on, place, register, step_spec, submit


def test_every_command_of_the_contract_has_a_handler() -> None:
    (oneof,) = pb.Command.DESCRIPTOR.oneofs
    assert {field.name for field in oneof.fields} == set(HANDLERS)


@pytest.mark.parametrize("version", [0, 2])
def test_an_unknown_version_stops_the_node(version: int) -> None:
    with pytest.raises(UnknownCommand, match=f"Entry 7 has version {version}"):
        Ledger().apply(7, pb.LedgerEntry(version=version, commands=[register()]))


def test_an_unknown_command_stops_the_node_before_anything_is_applied() -> None:
    ledger = Ledger()
    from_the_future = pb.Command.FromString(b"\xfa\x07\x00")  # field 127, empty
    with pytest.raises(UnknownCommand, match="Command 1 of entry 1"):
        ledger.apply(1, entry([register(), from_the_future]))
    assert ledger.snapshot() == Ledger().snapshot()


def test_an_entry_is_applied_once() -> None:
    ledger = Ledger()
    ledger.apply(5, entry([register()]))
    with pytest.raises(AppliedTwice):
        ledger.apply(5, entry([register()]))
    assert ledger.applied_index == 5


def test_leader_time_never_goes_back() -> None:
    ledger = Ledger()
    ledger.apply(1, entry([submit(step_spec("a"))], at_ms=500))
    ledger.apply(2, entry([submit(step_spec("b"))], at_ms=400))
    assert ledger.leader_time_ms == 500
    assert ledger.view("b").submitted_at_ms == 500


def test_tokens_carry_the_epoch_and_the_index() -> None:
    ledger = Ledger(epoch=3)
    ledger.apply(17, entry([register(), submit(step_spec("s")), place(on("s"))]))
    assert ledger.view("s").attempts[0].token == pb.Token(epoch=3, index=17)
    assert ledger.epoch == 3


def test_the_spec_in_the_books_is_a_copy() -> None:
    ledger = Ledger()
    command = submit(step_spec("s", priority=1))
    ledger.apply(1, entry([command]))
    command.submit_tasks.tasks[0].priority = 2
    assert ledger.view("s").spec.priority == 1


def test_a_restored_ledger_goes_on_like_the_first() -> None:
    book = Book(register("w1"), register("w2"), hold(), submit(step_spec("a", owner_lease="owner/1"), step_spec("b")))
    book(place(on("a", "w1"), on("b", "w2")))
    book(lose("w2"))
    snapshot = pb.LedgerSnapshot.FromString(book.ledger.snapshot().SerializeToString())
    restored = Ledger.restore(snapshot)
    assert restored.snapshot() == book.ledger.snapshot()
    assert restored.used("w1") == pb.Resources(step_slots=1)
    assert restored.counts() == book.ledger.counts()
    after = entry([lose("w1"), submit(step_spec("b"))], at_ms=10)
    assert restored.apply(9, after) == book.ledger.apply(9, after)
    assert restored.snapshot() == book.ledger.snapshot()


def test_a_snapshot_does_not_change_with_the_ledger() -> None:
    book = Book(register(), submit(step_spec("a")), place(on("a")))
    snapshot = book.ledger.snapshot()
    before = snapshot.SerializeToString(deterministic=True)
    book(lose())
    assert snapshot.SerializeToString(deterministic=True) == before
    restored = Ledger.restore(snapshot)
    restored.apply(2, entry([lose()]))
    assert snapshot.SerializeToString(deterministic=True) == before


def test_a_snapshot_of_another_version_is_refused() -> None:
    with pytest.raises(UnknownSnapshot, match="version 2 is not known"):
        Ledger.restore(pb.LedgerSnapshot(version=2))
