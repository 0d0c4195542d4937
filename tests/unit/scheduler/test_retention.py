"""Which ended tasks may be forgotten, and when."""

from __future__ import annotations

from raft_service.scheduler import retention as retention_module
from raft_service.scheduler.planner import Planner
from raft_service.testing.ledger_commands import (
    Book,
    cancel,
    finish,
    forget,
    on,
    place,
    register,
    run_spec,
    step_spec,
    submit,
)

KEEP_MS = 1_000


def family() -> tuple[Book, Planner]:
    """A run with an ended step a and a placed step b."""
    steps = [step_spec(name, parent_task_id="r") for name in ("a", "b")]
    book = Book(register(), submit(run_spec("r"), *steps), place(on("r"), on("a"), on("b")))
    planner = Planner(book.ledger, keep_ms=KEEP_MS)
    planner.settle(book(finish("a", 1)).changes)
    return book, planner


def test_a_step_is_kept_until_its_run_has_ended_for_long_enough() -> None:
    book, planner = family()
    assert planner.to_forget(book.now_ms + 10 * KEEP_MS) == []
    book.now_ms += 10 * KEEP_MS
    planner.settle(book(finish("r", 1)).changes)
    assert planner.to_forget(book.now_ms + KEEP_MS - 1) == []
    assert sorted(planner.to_forget(book.now_ms + KEEP_MS)) == ["a", "b", "r"]


def test_a_new_leader_knows_the_same() -> None:
    book, _ = family()
    planner = Planner(book.ledger, keep_ms=KEEP_MS)
    assert planner.to_forget(book.now_ms + 10 * KEEP_MS) == []
    planner.settle(book(finish("r", 1)).changes)
    planner = Planner(book.ledger, keep_ms=KEEP_MS)
    assert sorted(planner.to_forget(book.now_ms + KEEP_MS)) == ["a", "b", "r"]


def test_they_are_named_until_they_are_gone() -> None:
    book = Book(submit(step_spec("a"), step_spec("b")))
    planner = Planner(book.ledger, keep_ms=KEEP_MS)
    planner.settle(book(cancel("a", "b")).changes)
    due_ms = book.now_ms + KEEP_MS
    assert planner.to_forget(due_ms) == planner.to_forget(due_ms) == ["a", "b"]
    planner.settle(book(forget("a")).changes)
    assert planner.to_forget(due_ms) == ["b"]
    planner.settle(book(forget("b")).changes)
    assert planner.to_forget(due_ms) == []


def test_the_oldest_go_early_when_there_are_too_many() -> None:
    names = [f"t{n}" for n in range(5)]
    book = Book(submit(*(step_spec(name) for name in names)))
    planner = Planner(book.ledger, keep_ms=KEEP_MS, kept_max=3)
    for name in names:
        planner.settle(book(cancel(name)).changes)
    assert planner.to_forget(book.now_ms) == ["t0", "t1"]


def test_few_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(retention_module, "FORGET_MAX", 2)
    book = Book(submit(*(step_spec(f"t{n}") for n in range(5))))
    planner = Planner(book.ledger, keep_ms=KEEP_MS)
    planner.settle(book(cancel(*(f"t{n}" for n in range(5)))).changes)
    assert planner.to_forget(book.now_ms + KEEP_MS) == ["t0", "t1"]
