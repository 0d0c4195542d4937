"""The tasks of one run's steps at the control plane: submitted together, watched by push, patient in an outage.

An outage of the control plane costs no work: steps go on in their slots, and what is to be asked or told waits here.
Only an interrupt ends the waiting.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from orchestrator_pkg.step_specs import step_prefix
from orchestrator_proto import ledger_pb2 as pb
from raft_service.rpc.errors import ControlPlaneUnavailable

# The protocol takes 1,000 tasks a request; the ledger's entry must stay small as well.
SUBMIT_TASKS_MAX = 200
# What a request may hold in payloads; the largest message is 4 MiB with gRPC's default.
SUBMIT_BYTES_MAX = 1 << 20
# Between two tries while the control plane is away.
OUTAGE_PAUSE_S = 0.2
ENDED = frozenset({pb.TASK_STATE_SUCCEEDED, pb.TASK_STATE_FAILED, pb.TASK_STATE_CANCELED})

T = TypeVar("T")
log = logging.getLogger("orchestrator.executor")


class Interrupted(Exception):
    """An interrupt came while the control plane was away."""


class TaskWatch(Protocol):
    """A watch of the client."""

    def next(self, timeout_s: float) -> Any:
        """The next events, or None."""

    def close(self) -> None:
        """Ends it."""


class TaskClient(Protocol):
    """The part of the blocking client that this needs."""

    def submit_tasks(self, specs: Sequence[pb.TaskSpec]) -> Sequence[int]:
        """Queues tasks durably."""

    def task_status(self, *, prefix: str, limit: int) -> Sequence[pb.TaskView]:
        """Reads tasks."""

    def watch_tasks(self, prefix: str) -> TaskWatch:
        """Watches tasks."""

    def cancel_tasks(self, *, prefix: str, reason: str) -> int:
        """Cancels tasks."""

    def forget_tasks(self, *, task_ids: Sequence[str] = (), prefix: str = "") -> int:
        """Drops ended tasks."""


class StepTasks:
    """All step tasks of one run."""

    def __init__(self, client: TaskClient, *, run_id: str, is_interrupted: Callable[[], bool]) -> None:
        """Does nothing at the control plane yet.

        Args:
            client: the control plane.
            run_id: whose steps.
            is_interrupted: asked while the control plane is away.
        """
        self._client = client
        self._prefix = step_prefix(run_id)
        self._is_interrupted = is_interrupted
        self._awaited: set[str] = set()
        self._watch: TaskWatch | None = None

    def submit(self, specs: Sequence[pb.TaskSpec]) -> None:
        """Queues tasks, or attaches to those that are there already.

        Raises:
            Interrupted: an interrupt came in an outage.
        """
        for batch in _batches(specs):
            self._awaited.update(spec.task_id for spec in batch)
            self._patiently(partial(self._client.submit_tasks, batch))

    def drop_canceled(self) -> None:
        """Before a resume: forgets tasks that ended because the former orchestrator's task did, to submit them anew."""
        views = self._patiently(lambda: self._client.task_status(prefix=self._prefix, limit=1_000_000))
        canceled = [view.spec.task_id for view in views if view.state == pb.TASK_STATE_CANCELED]
        if canceled:
            self._patiently(lambda: self._client.forget_tasks(task_ids=canceled))

    def next_ended(self, timeout_s: float) -> list[pb.TaskView]:
        """Tasks that were submitted here and have ended since the last call; each is told once.

        Args:
            timeout_s: how long to wait for the first.
        """
        events = self._patiently(lambda: self._opened_watch().next(timeout_s))
        if events is None:
            return []
        ended = [view for view in events.tasks if view.spec.task_id in self._awaited and view.state in ENDED]
        self._awaited.difference_update(view.spec.task_id for view in ended)
        return ended

    @property
    def awaited(self) -> frozenset[str]:
        """Ids of the tasks that have not ended."""
        return frozenset(self._awaited)

    def cancel_all(self, reason: str) -> None:
        """Cancels what has not ended. In an outage the run task's own cancel, or the lease, does the same later."""
        try:
            self._client.cancel_tasks(prefix=self._prefix, reason=reason)
        except ControlPlaneUnavailable as error:
            log.warning("steps are not canceled yet: %s", error)

    def forget_all(self) -> None:
        """Lets the ledger drop the results. In an outage they go by age."""
        try:
            self._client.forget_tasks(prefix=self._prefix)
        except ControlPlaneUnavailable as error:
            log.warning("results stay in the ledger until they age: %s", error)

    def close(self) -> None:
        """Ends the watch."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _opened_watch(self) -> TaskWatch:
        if self._watch is None:
            self._watch = self._client.watch_tasks(self._prefix)
        return self._watch

    def _patiently(self, ask: Callable[[], T]) -> T:
        while True:
            try:
                return ask()
            except ControlPlaneUnavailable as error:
                log.warning("waiting for the control plane: %s", error)
            if self._is_interrupted():
                raise Interrupted
            time.sleep(OUTAGE_PAUSE_S)


def _batches(specs: Sequence[pb.TaskSpec]) -> list[list[pb.TaskSpec]]:
    """Specs in requests of bounded number and size."""
    batches: list[list[pb.TaskSpec]] = []
    size = 0
    for spec in specs:
        if not batches or len(batches[-1]) == SUBMIT_TASKS_MAX or size + len(spec.payload) > SUBMIT_BYTES_MAX:
            batches.append([])
            size = 0
        batches[-1].append(spec)
        size += len(spec.payload)
    return batches
