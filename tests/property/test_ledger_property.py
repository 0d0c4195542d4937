"""Random lives of a cluster: whatever happens in whatever order, the books stay right and the planner agrees with them.

The machine below is a leader with its planner. Rules put entries into the log: some carry a fresh plan, some a plan
that has gone stale, some come from anywhere else. After each step every invariant is checked, and at the end the whole
log is replayed.
"""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator_proto import ledger_pb2 as pb
from raft_service.scheduler.amounts import Amounts, add
from raft_service.scheduler.fits import fits
from raft_service.scheduler.ledger import Ledger
from raft_service.scheduler.outcomes import Applied, PlaceOutcome
from raft_service.scheduler.planner import Planner
from raft_service.testing import ledger_commands as write

WORKERS = st.sampled_from(["w1", "w2", "w3", "w4"])
INCARNATIONS = st.integers(1, 4)
RUNS = st.sampled_from(["run/r1", "run/r2", "run/r3"])
STEPS = st.builds("step/r{}/{}/0".format, st.integers(1, 3), st.sampled_from("abcd"))
TASKS = RUNS | STEPS
LEASES = st.sampled_from(["owner/1", "owner/2"])
OWNERS = st.sampled_from(["cli1", "cli2"])
AMOUNTS = st.fixed_dictionaries({"step_slots": st.integers(0, 2), "gpus": st.integers(0, 2)})
# Mostly none: a task under a lease that nobody holds, or a parent that is gone, never lives.
SOME_LEASE = st.sampled_from(["", "", "", "owner/1", "owner/2"])
SOME_RUN = st.sampled_from(["", "", "", "run/r1", "run/r2"])
CONSTRAINTS = st.lists(
    st.builds(
        pb.LabelConstraint,
        key=st.just("cloud"),
        values=st.lists(st.sampled_from(["aws", "gcp"]), min_size=1, max_size=2),
        soft=st.booleans(),
    ),
    max_size=1,
)
COMMON = {
    "priority": st.integers(-1, 1),
    "fair_key": st.sampled_from(["", "a", "b"]),
    "infra_losses_max": st.integers(0, 2),
    "constraints": CONSTRAINTS,
    "owner_lease": SOME_LEASE,
}
RUN_SPECS = st.builds(write.run_spec, RUNS, **COMMON)
STEP_SPECS = st.builds(
    write.step_spec,
    STEPS,
    parent_task_id=SOME_RUN,
    resources=st.builds(lambda amounts: pb.Resources(**amounts), AMOUNTS),
    inputs=st.lists(st.builds(pb.InputLocation, label=st.just("cloud=aws"), bytes=st.just(1 << 40)), max_size=1),
    **COMMON,
)
SPECS = st.lists(RUN_SPECS | STEP_SPECS, min_size=1, max_size=4)


class ClusterLife(RuleBasedStateMachine):
    """A leader, its log, and what must never change once it was true."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.planner = Planner(self.ledger)
        self.log: list[pb.LedgerEntry] = []
        self.in_flight: deque[pb.LedgerEntry] = deque()
        self.now_ms = 1_000
        self.known: set[str] = set()
        self.ends: dict[str, bytes] = {}
        self.newest_token: dict[str, int] = {}
        # Index of the hold that a task came under.
        self.hold_of: dict[str, int] = {}

    # ---------------------------------------------------------------------------------------------- the log

    def append(self, entry: pb.LedgerEntry) -> Applied:
        self.log.append(entry)
        time_before_ms = self.ledger.leader_time_ms
        applied = self.ledger.apply(len(self.log), entry)
        assert self.ledger.leader_time_ms == max(time_before_ms, entry.leader_time_ms)
        self.planner.settle(applied.changes)
        for placed in applied.changes.placed:
            assert placed.token.index > self.newest_token.get(placed.task_id, 0), "a token only grows"
            self.newest_token[placed.task_id] = placed.token.index
        for task_id in set(applied.changes.tasks) - self.known:
            lease = self.ledger.lease(self.ledger.view(task_id).spec.owner_lease)
            self.hold_of[task_id] = lease.token.index if lease is not None else 0
        self.known |= set(applied.changes.tasks)
        for task_id in applied.changes.forgotten:
            assert self.ends.pop(task_id, None), f"{task_id} was forgotten before its end was seen"
            self.known.remove(task_id)
            self.newest_token.pop(task_id, None)
        return applied

    def twice(self, command: pb.Command) -> None:
        """Applies a command and repeats it in the next entry: the repeat changes nothing."""
        first = self.append(write.entry([command], at_ms=self.now_ms))
        self.check_ends()
        before = self.state_bytes()
        repeated = self.append(write.entry([command], at_ms=self.now_ms))
        assert self.state_bytes() == before
        assert not repeated.changes.placed
        kind = command.WhichOneof("command")
        if kind in ("register_worker", "drain_worker", "finish_task", "hold_lease", "release_lease"):
            assert repeated.outcomes == first.outcomes

    def state_bytes(self) -> bytes:
        snapshot = self.ledger.snapshot()
        snapshot.ClearField("applied_index")
        snapshot.ClearField("leader_time_ms")  # moves with every entry, also a void one; append() checks it
        return snapshot.SerializeToString(deterministic=True)

    # ---------------------------------------------------------------------------------------------- workers, leases

    @initialize()
    def begin(self) -> None:
        workers = [write.register("w1", gpus=2, step_slots=4), write.register("w2", cloud="gcp", step_slots=1)]
        leases = [write.hold("owner/1", "cli1"), write.hold("owner/2", "cli2")]
        runs = write.submit(write.run_spec("run/r1"), write.run_spec("run/r2", owner_lease="owner/1"))
        self.append(write.entry([*workers, *leases, runs], at_ms=self.now_ms))

    @rule(worker=WORKERS, incarnation=INCARNATIONS, cloud=st.sampled_from(["aws", "gcp"]), amounts=AMOUNTS)
    def register(self, worker: str, incarnation: int, cloud: str, amounts: dict[str, int]) -> None:
        self.twice(write.register(worker, incarnation=incarnation, cloud=cloud, **amounts))

    @rule(worker=WORKERS, undo=st.booleans())
    def drain(self, *, worker: str, undo: bool) -> None:
        self.twice(write.drain(worker, undo=undo))

    @rule(back_ms=st.integers(0, 3_000))
    def next_leader_has_a_slow_clock(self, back_ms: int) -> None:
        self.now_ms -= back_ms

    @rule(worker=WORKERS, incarnation=INCARNATIONS)
    def lose(self, worker: str, incarnation: int) -> None:
        before, live = self.state_bytes(), dict(self.ledger.live_workers())
        self.twice(write.lose(worker, incarnation=incarnation))
        assert (self.state_bytes() == before) == (live.get(worker) != incarnation)

    @rule(worker=WORKERS)
    def forget_worker(self, worker: str) -> None:
        self.twice(write.forget_worker(worker))

    @rule(name=LEASES, owner=OWNERS)
    def hold(self, name: str, owner: str) -> None:
        self.twice(write.hold(name, owner))

    @rule(name=LEASES, owner=OWNERS)
    def release(self, name: str, owner: str) -> None:
        self.twice(write.release(name, owner))

    @rule(wait_ms=st.sampled_from([0, 1, 5_000, 20_000]))
    def expire_what_ran_out(self, wait_ms: int) -> None:
        self.now_ms += wait_ms
        for lease in self.ledger.expired_leases(self.now_ms):
            self.twice(write.expire(lease.name, lease.owner, index=lease.token.index))

    # ---------------------------------------------------------------------------------------------- tasks

    @rule(specs=SPECS)
    def submit(self, specs: list[pb.TaskSpec]) -> None:
        self.twice(write.submit(*specs))

    @rule(data=st.data(), workers=st.lists(WORKERS, min_size=1, max_size=2))
    def place_anything(self, data: st.DataObject, workers: list[str]) -> None:
        """On any worker, running or not: first attempts, backups, nonsense."""
        tasks = sorted(task.task_id for task in self.ledger.tasks())
        task_id = data.draw(st.sampled_from(tasks or ["none"]))
        incarnations = dict(self.ledger.live_workers())
        placements = [write.on(task_id, worker, incarnation=incarnations.get(worker, 1)) for worker in workers]
        command = write.place(*placements)
        outcome = self.append(write.entry([command], at_ms=self.now_ms)).outcomes[0]
        assert isinstance(outcome, PlaceOutcome)
        if None not in outcome.tokens:
            self.twice(command)

    @rule(data=st.data(), succeeded=st.booleans())
    def finish(self, *, data: st.DataObject, succeeded: bool) -> None:
        task_id, index = self.draw_attempt(data)
        self.twice(write.finish(task_id, index, succeeded=succeeded))

    @rule(data=st.data(), is_returned=st.booleans())
    def lose_attempt(self, *, data: st.DataObject, is_returned: bool) -> None:
        task_id, index = self.draw_attempt(data)
        self.twice(write.lose_attempt(task_id, index, is_returned=is_returned))

    def draw_attempt(self, data: st.DataObject) -> tuple[str, int]:
        """Task and token index of any attempt, valid or not; of none when there is none."""
        tasks = sorted(self.ledger.tasks(), key=lambda task: task.arrival)
        attempts = [(task.task_id, attempt.token.index) for task in tasks for attempt in task.attempts]
        return data.draw(st.sampled_from(attempts or [("none", 1)]))

    @rule(tasks=st.lists(STEPS, min_size=1, max_size=2) | RUNS.map(lambda run: [run]))
    def cancel(self, tasks: list[str]) -> None:
        self.twice(write.cancel(*tasks))

    @rule(tasks=st.lists(TASKS, max_size=3))
    def forget(self, tasks: list[str]) -> None:
        self.twice(write.forget(*tasks))

    # ---------------------------------------------------------------------------------------------- the leader

    @rule(specs=st.just([]) | SPECS)
    def plan_for_later(self, specs: list[pb.TaskSpec]) -> None:
        """An entry that is proposed, but applied after others."""
        self.planner.offer(specs)
        plan = self.planner.plan()
        self.in_flight.append(write.entry([write.submit(*specs), write.place(*plan.placements)], at_ms=self.now_ms))

    @precondition(lambda self: self.in_flight)
    @rule()
    def deliver(self) -> None:
        self.append(self.in_flight.popleft())

    @precondition(lambda self: not self.in_flight)
    @rule(specs=st.just([]) | SPECS)
    def submit_and_place(self, specs: list[pb.TaskSpec]) -> None:
        """With nothing in between, apply accepts all of a plan, except for tasks that never enter the queue."""
        self.planner.offer(specs)
        plan = self.planner.plan()
        applied = self.append(write.entry([write.submit(*specs), write.place(*plan.placements)], at_ms=self.now_ms))
        outcome = applied.outcomes[1]
        assert isinstance(outcome, PlaceOutcome)
        for placement, refusal in zip(plan.placements, outcome.refusals, strict=True):
            assert refusal in ("", "the task is canceled"), f"{placement.task_id}: {refusal}"
        assert not applied.changes.refused or specs, "only a submit that came too late is refused"

    @precondition(lambda self: not self.in_flight)
    @rule(first=SPECS, second=SPECS)
    def pipeline(self, first: list[pb.TaskSpec], second: list[pb.TaskSpec]) -> None:
        """Two plans in flight do not count on the same room."""
        self.plan_for_later(first)
        self.plan_for_later(second)
        for _ in range(2):
            outcome = self.append(self.in_flight.popleft()).outcomes[1]
            assert isinstance(outcome, PlaceOutcome)
            assert set(outcome.refusals) <= {"", "the task is canceled"}

    @precondition(lambda self: not self.in_flight)
    @rule(data=st.data())
    def cancel_what_is_being_placed(self, data: st.DataObject) -> None:
        """What the refused placement had reserved is free again."""
        self.plan_for_later([])
        placements = self.in_flight[0].commands[1].place_tasks.placements
        if placements:
            placement = data.draw(st.sampled_from(list(placements)))
            self.twice(write.cancel(placement.task_id))
        self.deliver()
        self.plan_like_a_new_leader()

    @precondition(lambda self: not self.in_flight)
    @rule()
    def plan_like_a_new_leader(self) -> None:
        """The planner that lived through it all plans like one that read the ledger just now, and forgets nobody."""
        expected = Planner(self.ledger).plan().placements
        plan = self.planner.plan()
        assert plan.placements == expected
        self.append(write.entry([write.place(*plan.placements)], at_ms=self.now_ms))
        for task in self.ledger.tasks():
            if task.state == pb.TASK_STATE_QUEUED:
                for worker in self.ledger.workers():
                    assert fits(worker.free(), worker, task.spec), f"{task.task_id} fits {worker.worker_id} and waits"
                assert self.planner.waiting_reason(task.task_id)

    # ---------------------------------------------------------------------------------------------- invariants

    @invariant()
    def check_used(self) -> None:
        for worker in self.ledger.workers():
            total: Amounts = {}
            for task, _ in self.ledger.valid_attempts(worker.worker_id):
                add(total, task.demand.needs)
            assert worker.used == total
            assert all(amount <= worker.capacity.get(name, 0) for name, amount in total.items())

    @invariant()
    def check_states(self) -> None:
        for task in self.ledger.tasks():
            valid = task.valid_attempts()
            assert bool(valid) == (task.state == pb.TASK_STATE_PLACED)
            assert bool(task.result) == (task.state in (pb.TASK_STATE_SUCCEEDED, pb.TASK_STATE_FAILED))
            if task.result is not None and task.result.error:
                assert task.infra_losses > task.infra_losses_max
            assert task.infra_losses <= task.infra_losses_max or task.state != pb.TASK_STATE_QUEUED
            assert sum(attempt.state == pb.ATTEMPT_STATE_FINISHED for attempt in task.attempts) <= 1
            for attempt in valid:
                worker = self.ledger.worker(attempt.worker_id)
                assert worker is not None
                assert worker.incarnation == attempt.worker_incarnation
                assert worker.state != pb.WORKER_STATE_LOST
            parent_id, lease_name = task.spec.parent_task_id, task.spec.owner_lease
            if not task.is_ended and parent_id:
                parent = self.ledger.task(parent_id)
                assert parent is not None
                assert not parent.is_ended
            if not task.is_ended and lease_name:
                lease = self.ledger.lease(lease_name)
                assert lease is not None
                assert lease.token.index == self.hold_of[task.task_id]

    @invariant()
    def check_ends(self) -> None:
        """No task is lost, and an end is final."""
        assert {task.task_id for task in self.ledger.tasks()} == self.known
        for task in self.ledger.tasks():
            if task.is_ended:
                end = task.to_record().SerializeToString(deterministic=True)
                assert self.ends.setdefault(task.task_id, end) == end
            else:
                assert task.task_id not in self.ends

    @invariant()
    def check_counts(self) -> None:
        counts = self.ledger.counts()
        assert sum(counts.tasks.values()) == len(self.known)
        queued = sum(task.state == pb.TASK_STATE_QUEUED for task in self.ledger.tasks())
        assert counts.tasks["queued"] == queued

    def teardown(self) -> None:
        """A replay gives the same bytes, and so does one that goes on from a snapshot taken half-way."""
        whole, half = Ledger(), Ledger()
        for index, entry in enumerate(self.log, start=1):
            whole.apply(index, entry)
            half.apply(index, entry)
            if index == len(self.log) // 2:
                half = Ledger.restore(pb.LedgerSnapshot.FromString(half.snapshot().SerializeToString()))
        final = self.ledger.snapshot().SerializeToString(deterministic=True)
        assert whole.snapshot().SerializeToString(deterministic=True) == final
        assert half.snapshot().SerializeToString(deterministic=True) == final


ClusterLife.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, database=None, print_blob=True
)
TestClusterLife = ClusterLife.TestCase
