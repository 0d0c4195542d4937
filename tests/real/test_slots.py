"""The pool of slots with real slot processes, without a control plane: reports are noted instead of sent."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator_pkg.worker.attempt import RUN, STEP, Attempt, Phase, SlotKind
from orchestrator_pkg.worker.metrics import WorkerMetrics
from orchestrator_pkg.worker.shared_deadline import SharedDeadline, boot_time_ns
from orchestrator_pkg.worker.slot import SlotOptions
from orchestrator_pkg.worker.slot_messages import Finish, FinishAnswer
from orchestrator_pkg.worker.slots import RETURNS_MAX, PoolOptions, SlotPool

pytestmark = pytest.mark.real

WAIT_S = 20.0
HERE = Path(__file__).parent


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an asynchronous test in a loop of its own."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@dataclass
class Notes:
    """A reporter that keeps what it is told and answers at once."""

    results: dict[str, Finish] = field(default_factory=dict)
    losses: dict[str, tuple[str, bool]] = field(default_factory=dict)
    # Results are answered while it is set.
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def result(self, attempt: Attempt, finish: Finish) -> FinishAnswer:
        await self.may_answer.wait()
        self.results[attempt.task_id] = finish
        return FinishAnswer(accepted=True, reason="")

    async def loss(self, attempt: Attempt, reason: str, *, is_returned: bool) -> None:
        self.losses[attempt.task_id] = (reason, is_returned)


class Bench:
    """A pool, its notes, and shorthand."""

    def __init__(self, pool: SlotPool, notes: Notes, deadline: SharedDeadline) -> None:
        self.pool = pool
        self.notes = notes
        self.deadline = deadline
        self._index = 0

    def give(self, do: str = "echo", *, kind: SlotKind = STEP, mode: str = "warm", **payload: Any) -> Attempt:
        self._index += 1
        attempt = Attempt(
            task_id=payload.pop("task_id", f"{kind}/{self._index}"),
            token=payload.pop("token", (1, self._index)),
            number=1,
            kind=kind,
            mode=mode,
            code_key=payload.pop("code_key", ""),
            gpus_needed=payload.pop("gpus", 0),
            payload=json.dumps({"do": do, **payload}),
            received_at_ns=boot_time_ns(),
        )
        assert self.pool.accept(attempt)
        return attempt

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + WAIT_S
        while not (value := condition()):
            assert time.monotonic() < deadline, f"still not: {what}"
            await asyncio.sleep(0.005)
        return value

    async def ended(self, attempt: Attempt) -> None:
        await self.until(lambda: attempt.phase is Phase.ENDED, f"{attempt.task_id} ended, it is {attempt.phase}")

    async def result(self, attempt: Attempt) -> dict[str, Any]:
        await self.ended(attempt)
        payload: dict[str, Any] = json.loads(self.notes.results[attempt.task_id].payload)
        return payload

    async def loss(self, attempt: Attempt) -> tuple[str, bool]:
        await self.ended(attempt)
        return self.notes.losses[attempt.task_id]

    async def started(self, attempt: Attempt, file: Path) -> int:
        """The pid of the handler that noted its start."""
        await self.until(lambda: file.exists() and "started" in file.read_text(), "the handler noted its start")
        await self.until(lambda: attempt.phase is Phase.RUNNING, "the agent noted the start")
        return int(_words(file)[0])


def _words(file: Path) -> list[str]:
    return file.read_text().split()


@asynccontextmanager
async def bench(
    *,
    run_slots: int = 1,
    step_slots: int = 1,
    gpus: int = 0,
    tasks_max: int = 0,
    cancel_grace_s: float = 10.0,
    preload: tuple[str, ...] = (),
    memory_max_bytes: int = 0,
) -> AsyncIterator[Bench]:
    deadline = SharedDeadline.create()
    deadline.write(boot_time_ns() + 3600 * 10**9)
    notes = Notes()
    notes.may_answer.set()
    pool = SlotPool(
        slot_options=SlotOptions(
            worker_id="w",
            cloud_tag="aws",
            handler="slot_handlers:execute",
            preload=preload,
            lease_fd=deadline.fd,
            memory_max_bytes=memory_max_bytes,
            env={"PYTHONPATH": str(HERE), "SLOT_TEST_MARK": "clean"},
        ),
        options=PoolOptions(
            run_slots=run_slots,
            step_slots=step_slots,
            gpus=gpus,
            tasks_max=tasks_max,
            cancel_grace_s=cancel_grace_s,
        ),
        reporter=notes,
        metrics=WorkerMetrics(),
    )
    pool.start()
    pool.set_taking(is_taking=True)
    try:
        yield Bench(pool, notes, deadline)
    finally:
        pids = [seat.slot.pid for seat in pool.seats if seat.slot is not None]
        await pool.stop()
        deadline.close()
    assert not [pid for pid in pids if psutil.pid_exists(pid)], "stop leaves slots behind"


@in_loop
async def test_a_slot_is_used_again() -> None:
    async with bench() as b:
        first, second = await b.result(b.give()), await b.result(b.give())
        assert first["pid"] == second["pid"] != os.getpid()


@in_loop
async def test_run_slots_start_when_needed_and_stay() -> None:
    async with bench(run_slots=2) as b:
        assert [seat.kind for seat in b.pool.seats] == [STEP]
        first = await b.result(b.give(kind=RUN))
        second = await b.result(b.give(kind=RUN))
        assert first["pid"] == second["pid"]
        assert [seat.kind for seat in b.pool.seats] == [RUN, STEP]


@in_loop
async def test_two_runs_get_two_slots_and_a_third_waits(tmp_path: Path) -> None:
    async with bench(run_slots=2, step_slots=0) as b:
        gate = tmp_path / "gate"
        attempts = [b.give("wait", kind=RUN, until=str(gate)) for _ in range(3)]
        running = attempts[:2]
        await b.until(lambda: all(a.phase is Phase.RUNNING for a in running), "two run")
        assert attempts[2].phase is Phase.WAITING
        gate.touch()
        pids = [(await b.result(attempt))["pid"] for attempt in attempts]
        assert len(set(pids)) == 2


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ("segfault", "was killed by SIGSEGV"),
        ("exit", "ended with exit code 7"),
        ("raise", "ValueError: the deed failed"),
        ("no_finish", "returned without a result"),
    ],
)
@pytest.mark.parametrize("mode", ["warm", "fork"])
@in_loop
async def test_an_end_without_result_is_a_loss(do: str, words: str, mode: str) -> None:
    async with bench() as b:
        reason, is_returned = await b.loss(b.give(do, mode=mode))
        assert not is_returned
        assert words in reason
        assert (await b.result(b.give(echo=5)))["echo"] == 5, "the place works again"


@in_loop
async def test_giving_back_counts_no_loss() -> None:
    async with bench() as b:
        assert await b.loss(b.give("give_back")) == ("another code version", True)


@in_loop
async def test_a_task_that_is_handed_back_for_ever_is_lost_in_the_end() -> None:
    async with bench() as b:
        returned = []
        for _ in range(RETURNS_MAX + 1):
            attempt = b.give("give_back", task_id="step/again")
            returned.append((await b.loss(attempt))[1])
        assert returned == [True] * RETURNS_MAX + [False]


@in_loop
async def test_attempts_placed_by_one_entry_share_a_token_and_both_run(tmp_path: Path) -> None:
    async with bench(step_slots=2) as b:
        first = b.give("wait", file=str(tmp_path / "first"), token=(1, 7))
        second = b.give(token=(1, 7))
        await b.result(second)
        await b.started(first, tmp_path / "first")
        b.pool.discard(first.key, "test")
        await b.ended(first)
        assert first.task_id not in b.notes.results


@in_loop
async def test_cancel_interrupts(tmp_path: Path) -> None:
    async with bench() as b:
        file = tmp_path / "notes"
        attempt = b.give("wait", file=str(file))
        pid = await b.started(attempt, file)
        b.pool.cancel(attempt.key, "test")
        await b.ended(attempt)
        assert "interrupted" in file.read_text()
        assert attempt.task_id not in b.notes.losses, "the ledger has canceled it already"
        assert (await b.result(b.give()))["pid"] == pid, "an interrupted slot stays warm"


@in_loop
async def test_cancel_interrupts_a_forked_child(tmp_path: Path) -> None:
    async with bench() as b:
        file = tmp_path / "notes"
        attempt = b.give("wait", mode="fork", file=str(file))
        await b.started(attempt, file)
        b.pool.cancel(attempt.key, "test")
        await b.ended(attempt)
        assert "interrupted" in file.read_text()


@in_loop
async def test_cancel_kills_what_ignores_it(tmp_path: Path) -> None:
    async with bench(cancel_grace_s=0.2) as b:
        file = tmp_path / "notes"
        attempt = b.give("stubborn", file=str(file))
        pid = await b.started(attempt, file)
        b.pool.cancel(attempt.key, "test")
        await b.ended(attempt)
        assert not psutil.pid_exists(pid)
        assert not b.notes.losses
        assert (await b.result(b.give()))["pid"] != pid


@in_loop
async def test_cancel_of_what_waits_leaves_the_slot_alone(tmp_path: Path) -> None:
    async with bench() as b:
        file, gate = tmp_path / "notes", tmp_path / "gate"
        first = b.give("wait", file=str(file), until=str(gate))
        second = b.give()
        await b.started(first, file)
        b.pool.cancel(second.key, "test")
        await b.ended(second)
        gate.touch()
        await b.result(first)
        assert list(b.notes.results) == [first.task_id]


@in_loop
async def test_discard_kills_at_once_and_says_nothing(tmp_path: Path) -> None:
    async with bench() as b:
        file = tmp_path / "notes"
        attempt = b.give("wait", file=str(file))
        pid = await b.started(attempt, file)
        b.pool.discard(attempt.key, "test")
        await b.ended(attempt)
        assert not psutil.pid_exists(pid)
        assert not b.notes.losses
        assert "interrupted" not in file.read_text()


@in_loop
async def test_an_order_does_not_end_what_reports() -> None:
    async with bench() as b:
        b.notes.may_answer.clear()
        attempt = b.give()
        await b.until(lambda: attempt.phase is Phase.REPORTING, "it reports")
        b.pool.discard(attempt.key, "older than the result")
        b.notes.may_answer.set()
        await b.result(attempt)
        assert not b.notes.losses


@in_loop
async def test_a_known_token_is_ignored() -> None:
    async with bench() as b:
        attempt = b.give()
        assert not b.pool.accept(attempt), "while it runs"
        await b.result(attempt)
        assert not b.pool.accept(attempt), "after it ended"


@in_loop
async def test_surroundings_are_restored() -> None:
    async with bench() as b:
        messed, clean = await b.result(b.give("mess")), await b.result(b.give())
        assert (messed["cwd"], messed["mark"]) == ("/", "left behind")
        assert (clean["cwd"], clean["mark"]) == (os.getcwd(), "clean")
        assert clean["pid"] == messed["pid"]


@in_loop
async def test_a_left_thread_recycles() -> None:
    async with bench() as b:
        assert (await b.result(b.give("thread")))["pid"] != (await b.result(b.give()))["pid"]


@in_loop
async def test_a_left_child_is_killed_and_recycles(tmp_path: Path) -> None:
    async with bench() as b:
        file = tmp_path / "notes"
        first = await b.result(b.give("child", file=str(file)))
        assert first["pid"] != (await b.result(b.give()))["pid"]
        child = int(_words(file)[2])
        await b.until(lambda: not psutil.pid_exists(child), "the child in its own session is gone")


@pytest.mark.parametrize("limit", [{"tasks_max": 1}, {"memory_max_bytes": 1}])
@in_loop
async def test_limits_recycle(limit: dict[str, int]) -> None:
    async with bench(**limit) as b:  # type: ignore[arg-type]
        assert (await b.result(b.give()))["pid"] != (await b.result(b.give()))["pid"]


@in_loop
async def test_fork_mode_gives_each_task_a_child() -> None:
    async with bench() as b:
        results = [await b.result(b.give(mode="fork")) for _ in range(2)]
        slot = next(seat.slot for seat in b.pool.seats if seat.slot is not None)
        assert len({result["pid"] for result in results} | {slot.pid}) == 3
        assert [result["parent_pid"] for result in results] == [slot.pid] * 2


@in_loop
async def test_a_fork_gets_a_parent_that_has_executed_nothing() -> None:
    async with bench() as b:
        used = (await b.result(b.give()))["pid"]
        first, second = [await b.result(b.give(mode="fork")) for _ in range(2)]
        assert first["parent_pid"] == second["parent_pid"] != used


@in_loop
async def test_a_slot_that_has_the_code_is_preferred(tmp_path: Path) -> None:
    async with bench(step_slots=2) as b:
        gate = tmp_path / "gate"
        attempts = [b.give("wait", until=str(gate), code_key=key) for key in ("red", "blue")]
        await b.until(lambda: all(attempt.phase is Phase.RUNNING for attempt in attempts), "both run")
        gate.touch()
        pids = {attempt.code_key: (await b.result(attempt))["pid"] for attempt in attempts}
        assert pids["red"] != pids["blue"]
        assert b.pool.code_keys == ["blue", "red"]
        for key in ("red", "blue", "blue", "red"):
            assert (await b.result(b.give(code_key=key)))["pid"] == pids[key]


@in_loop
async def test_frozen_slots_stop_and_go_on(tmp_path: Path) -> None:
    async with bench() as b:
        file, gate = tmp_path / "notes", tmp_path / "gate"
        attempt = b.give("wait", file=str(file), until=str(gate))
        pid = await b.started(attempt, file)
        b.pool.freeze()
        await b.until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "state T")
        b.pool.go_on(asked={attempt.token}, allowed={attempt.token})
        gate.touch()
        assert (await b.result(attempt))["pid"] == pid


@in_loop
async def test_frozen_slots_that_may_not_go_on_die(tmp_path: Path) -> None:
    async with bench() as b:
        file = tmp_path / "notes"
        attempt = b.give("wait", file=str(file))
        pid = await b.started(attempt, file)
        b.pool.freeze()
        b.pool.go_on(asked={attempt.token}, allowed=set())
        await b.ended(attempt)
        assert not psutil.pid_exists(pid)
        assert not b.notes.losses


@in_loop
async def test_nothing_starts_without_a_lease() -> None:
    async with bench() as b:
        b.pool.set_taking(is_taking=False)
        attempt = b.give()
        await b.until(lambda: all(seat.is_ready for seat in b.pool.seats), "the slot is ready")
        assert attempt.phase is Phase.WAITING
        b.pool.set_taking(is_taking=True)
        await b.result(attempt)


@in_loop
async def test_a_handler_sees_that_the_lease_is_over(tmp_path: Path) -> None:
    async with bench() as b:
        file = tmp_path / "notes"
        attempt = b.give("wait", file=str(file))
        await b.started(attempt, file)
        b.deadline.write(boot_time_ns())
        assert "LeaseLost" in (await b.loss(attempt))[0]


@in_loop
async def test_a_broken_preload_does_not_spin() -> None:
    async with bench(preload=("no_such_module",), step_slots=1) as b:
        reason, is_returned = await b.loss(b.give())
        assert "slot cannot import no_such_module: ModuleNotFoundError" in reason
        assert not is_returned
        assert "no_such_module" in b.pool.start_errors[STEP]
        assert b.pool._backoffs[STEP].pause_s() > 0


@in_loop
async def test_gpus_are_dealt_and_given_back(tmp_path: Path) -> None:
    async with bench(step_slots=2, gpus=2) as b:
        gate = tmp_path / "gate"
        first, second = (b.give("wait", until=str(gate), gpus=1) for _ in range(2))
        await b.until(lambda: {first.phase, second.phase} == {Phase.RUNNING}, "both run")
        gate.touch()
        gpus = [(await b.result(attempt))["gpus"] for attempt in (first, second)]
        assert sorted(gpus) == [[0], [1]]
        assert (await b.result(b.give(gpus=2)))["gpus"] == [0, 1]


@in_loop
async def test_draining_hands_back_what_has_not_begun(tmp_path: Path) -> None:
    async with bench() as b:
        file = tmp_path / "notes"
        running = b.give("wait", file=str(file))
        waiting = b.give()
        await b.started(running, file)
        b.pool.return_waiting("the worker ends")
        assert await b.loss(waiting) == ("the worker ends", True)
        b.pool.stop_running("worker w ended before it")
        assert await b.loss(running) == ("worker w ended before it", False)
        await asyncio.wait_for(b.pool.until_empty(), WAIT_S)


@in_loop
async def test_a_warm_slot_starts_in_milliseconds() -> None:
    """The printed number is the measurement; the bound only catches a slot that is not warm."""
    async with bench() as b:
        await b.result(b.give())
        delays = []
        for _ in range(50):
            attempt = b.give()
            delays.append(((await b.result(attempt))["began_ns"] - attempt.received_at_ns) / 1e6)
        delays.sort()
        print(f"assignment to handler: median {delays[25]:.2f} ms, worst of 50 {delays[-1]:.2f} ms")
        assert delays[25] < 50
