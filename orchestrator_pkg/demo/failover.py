"""Kills the leader of a local cluster at the worst moment and measures how long there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator_pkg.demo.board import TaskBoard
from orchestrator_pkg.demo.deployment import LocalDeployment
from orchestrator_proto import admin_pb2, ledger_pb2
from raft_service.rpc.client import Client, ControlPlaneUnavailable

# The moment to kill: so many steps run, so many wait for a slot.
RUNNING_MIN = 1
QUEUED_MIN = 4
# How long the survivors may take before the demo gives up: fifty election timeouts.
NEW_LEADER_TIMEOUT_S = 30.0
WAIT_SLICE_S = 0.5


@dataclass(slots=True)
class Failover:
    """What was seen; times in milliseconds, killed_at_ms since the epoch."""

    leader_before: str = ""
    leader_after: str = ""
    leaderless_ms: float = 0.0
    next_commit_ms: float = 0.0
    killed_at_ms: float = 0.0
    queued_at_kill: frozenset[str] = field(default_factory=frozenset)
    running_at_kill: frozenset[str] = field(default_factory=frozenset)

    def placed_after(self, board: TaskBoard) -> int:
        """How many of the steps that were queued at the kill were first placed after it.

        A placement carries the time at which its leader proposed it, and all nodes share this machine's clock: one
        later than the kill is the new leader's work.
        """
        first = {view.spec.task_id: view.attempts[0].placed_at_ms for view in board.views() if view.attempts}
        return sum(1 for task_id in self.queued_at_kill if first.get(task_id, 0) >= self.killed_at_ms)


def current_leader(client: Client) -> tuple[str, int]:
    """Name and term of the leader with the highest term; an empty name when none answers."""
    leaders = [
        (answer.term, answer.name)
        for _, answer in client.statuses()
        if not isinstance(answer, str) and answer.role == admin_pb2.NODE_ROLE_LEADER
    ]
    return (max(leaders)[1], max(leaders)[0]) if leaders else ("", 0)


class LeaderKiller:
    """Waits on the board for the moment, kills the leader, once, and times the take-over."""

    def __init__(
        self, deployment: LocalDeployment, client: Client, board: TaskBoard, say: Callable[[str], None]
    ) -> None:
        self.seen: Failover | None = None
        self.error: Exception | None = None
        self._deployment = deployment
        self._client = client
        self._board = board
        self._say = say
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leader-killer", daemon=True)

    def start(self) -> None:
        """Begins to wait for the moment."""
        self._thread.start()

    def join(self) -> None:
        """Gives up waiting for the moment, but lets a take-over that is being timed end."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self._board.wait_for(self._is_the_moment, WAIT_SLICE_S):
                    self.seen = self._kill()
                    return
        except Exception as error:  # noqa: BLE001  a thread's edge: the demo looks at .error and fails
            self.error = error

    def _is_the_moment(self) -> bool:
        return (
            len(self._board.in_state(ledger_pb2.TASK_STATE_QUEUED)) >= QUEUED_MIN
            and len(self._board.in_state(ledger_pb2.TASK_STATE_PLACED)) >= RUNNING_MIN
        )

    def _kill(self) -> Failover:
        leader, term = current_leader(self._client)
        process = self._deployment.nodes[leader].process
        assert process is not None
        seen = Failover(
            leader_before=leader,
            queued_at_kill=self._board.in_state(ledger_pb2.TASK_STATE_QUEUED),
            running_at_kill=self._board.in_state(ledger_pb2.TASK_STATE_PLACED),
        )
        process.kill()
        started, seen.killed_at_ms = time.monotonic(), time.time() * 1000
        running, queued = len(seen.running_at_kill), len(seen.queued_at_kill)
        self._say(f"Killed {leader}, the leader, with {running} steps running and {queued} queued.")
        self._await_new_leader(seen, term, started)
        return seen

    def _await_new_leader(self, seen: Failover, term: int, started: float) -> None:
        while True:
            name, new_term = current_leader(self._client)
            if name and new_term > term:
                break
            if time.monotonic() - started > NEW_LEADER_TIMEOUT_S:
                raise ControlPlaneUnavailable(f"No new leader within {NEW_LEADER_TIMEOUT_S:.0f} s.")
            time.sleep(0.002)
        seen.leader_after = name
        seen.leaderless_ms = (time.monotonic() - started) * 1000
        self._client.hold_lease("demo/probe", "demo", 60_000)
        seen.next_commit_ms = (time.monotonic() - started) * 1000
        self._say(f"{name} leads after {seen.leaderless_ms:.0f} ms.")
