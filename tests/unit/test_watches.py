"""A watch tells every change once, in parts, and can be resumed after any part without skipping one."""

from __future__ import annotations

from orchestrator_proto import ledger_pb2 as pb
from orchestrator_proto import task_pb2
from raft_service import watches
from raft_service.machine import LedgerMachine
from raft_service.watches import TaskWatch, Watches


class Books:
    """A ledger without a cluster: entries are applied as they come."""

    def __init__(self) -> None:
        self.machine = LedgerMachine()
        self.index = 0

    def apply(self, *commands: pb.Command) -> int:
        self.index += 1
        entry = pb.LedgerEntry(version=1, leader_time_ms=1000 + self.index, commands=commands)
        self.machine.apply(self.index, entry.SerializeToString())
        return self.index

    def submit(self, *task_ids: str) -> int:
        tasks = [pb.TaskSpec(task_id=task_id, kind=pb.TASK_KIND_STEP, payload=b"x" * 100) for task_id in task_ids]
        return self.apply(pb.Command(submit_tasks=pb.SubmitTasksCommand(tasks=tasks)))

    def cancel(self, task_id: str) -> int:
        return self.apply(pb.Command(cancel_tasks=pb.CancelTasksCommand(task_ids=[task_id])))


def opened(books: Books, prefix: str, from_index: int = 0) -> tuple[Watches, TaskWatch, list[None]]:
    hub = Watches(books.machine.ledger)
    books.machine.subscribe(hub.applied)
    calls: list[None] = []
    watch = hub.open(prefix, from_index, on_change=lambda: calls.append(None))
    assert watch is not None
    return hub, watch, calls


def ids(events: task_pb2.WatchEvents | None) -> list[str]:
    assert events is not None
    return [view.spec.task_id for view in events.tasks]


def test_it_begins_with_the_present_state_even_an_empty_one() -> None:
    books = Books()
    books.submit("step/r/a/0", "step/other/a/0")
    _, watch, _ = opened(books, "step/r/")
    first = watch.take(bytes_max=1 << 20)
    assert ids(first) == ["step/r/a/0"]
    assert first is not None
    assert first.index == 1
    assert first.tasks[0].spec.payload == b""
    assert watch.take(bytes_max=1 << 20) is None
    _, empty, _ = opened(books, "step/none/")
    assert ids(empty.take(bytes_max=1 << 20)) == []


def test_changes_wake_only_the_watches_of_their_prefix() -> None:
    books = Books()
    _, watch, calls = opened(books, "step/r/")
    watch.take(bytes_max=1 << 20)
    books.submit("step/q/a/0")
    assert calls == []
    books.submit("step/r/a/0")
    assert len(calls) == 1
    assert ids(watch.take(bytes_max=1 << 20)) == ["step/r/a/0"]


def test_a_slow_reader_gets_several_changes_of_a_task_as_one() -> None:
    books = Books()
    _, watch, _ = opened(books, "step/r/")
    books.submit("step/r/a/0")
    books.cancel("step/r/a/0")
    events = watch.take(bytes_max=1 << 20)
    assert events is not None
    assert [view.state for view in events.tasks] == [pb.TASK_STATE_CANCELED]
    assert events.index == 2


def test_resuming_after_any_part_skips_nothing() -> None:
    books = Books()
    books.submit("step/r/a/0", "step/r/b/0")  # two tasks of one index: a cut between them must tell both again
    books.submit("step/r/c/0")
    books.cancel("step/r/a/0")
    _, watch, _ = opened(books, "step/r/")
    told: set[str] = set()
    while (part := watch.take(bytes_max=1)) is not None:
        told.update(ids(part))
        _, resumed, _ = opened(books, "step/r/", part.index)
        rest = ids(resumed.take(bytes_max=1 << 20))
        assert told | set(rest) == {"step/r/a/0", "step/r/b/0", "step/r/c/0"}
    assert told == {"step/r/a/0", "step/r/b/0", "step/r/c/0"}


def test_a_reader_too_far_behind_is_ended() -> None:
    books = Books()
    _, watch, _ = opened(books, "step/r/")
    limit, watches.CHANGED_MAX = watches.CHANGED_MAX, 2
    try:
        books.submit("step/r/a/0", "step/r/b/0")
        assert not watch.is_overflown
        books.submit("step/r/c/0")
        assert watch.is_overflown
    finally:
        watches.CHANGED_MAX = limit


def test_closing_leaves_nothing_behind() -> None:
    books = Books()
    hub, watch, calls = opened(books, "step/r/")
    hub.close(watch)
    hub.close(watch)
    books.submit("step/r/a/0")
    assert (len(hub), calls) == (0, [])
