"""A control plane in a folder, for tests of the executor alone: executes steps in the caller's own process.

Steps run through the real slot_tasks with a real Dagster instance; only placement and leases are missing. Results are
files, so they outlive a process that is killed.
"""

from __future__ import annotations

import json
import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator_pkg import slot_tasks
from orchestrator_pkg.step_tasks import ENDED
from orchestrator_pkg.worker.slot_context import FinishReply
from orchestrator_proto import ledger_pb2 as pb
from orchestrator_proto import task_pb2


class StepContext:
    """The slot context of an attempt that is alone in the world."""

    kind = "step"
    worker_id = "in-process"
    cloud_tag = "test"
    attempt_number = 1
    token = (1, 5)
    gpus = ()

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.result: pb.TaskResult | None = None

    def check_lease(self) -> None:
        """It never ends."""

    def finish(self, *, succeeded: bool, payload: dict[str, Any], error: str = "") -> FinishReply:
        self.result = pb.TaskResult(succeeded=succeeded, payload=json.dumps(payload).encode(), error=error)
        return FinishReply(True, "")

    def give_back(self, reason: str) -> None:
        raise AssertionError(f"{self.task_id} was given back: {reason}")


class InProcessPlane:
    """The client's methods that the executor uses, on files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.executed: list[str] = []
        self._told: set[str] = set()

    def _path(self, task_id: str) -> Path:
        return self.folder / urllib.parse.quote(task_id, safe="")

    def _save(self, view: pb.TaskView) -> None:
        path = self._path(view.spec.task_id)
        path.with_suffix(".new").write_bytes(view.SerializeToString())
        os.replace(path.with_suffix(".new"), path)

    def views(self) -> list[pb.TaskView]:
        """All tasks, oldest first."""
        files = sorted((p for p in self.folder.iterdir() if p.suffix != ".new"), key=lambda p: p.stat().st_ctime_ns)
        return [pb.TaskView.FromString(path.read_bytes()) for path in files]

    def submit_tasks(self, specs: Sequence[pb.TaskSpec]) -> list[int]:
        for spec in specs:
            if not self._path(spec.task_id).exists():
                self._save(pb.TaskView(spec=spec, state=pb.TASK_STATE_QUEUED))
        return [pb.TASK_STATE_QUEUED] * len(specs)

    def task_status(self, *, prefix: str, limit: int) -> list[pb.TaskView]:
        return self.views()

    def watch_tasks(self, prefix: str) -> InProcessPlane:
        self._told = set()
        return self

    def next(self, timeout_s: float) -> task_pb2.WatchEvents | None:
        """Executes one queued task, if there is one, and tells what has ended and was not told."""
        for view in self.views():
            if view.state not in ENDED:
                self._execute(view)
                break
        news = [v for v in self.views() if v.state in ENDED and v.spec.task_id not in self._told]
        self._told.update(view.spec.task_id for view in news)
        return task_pb2.WatchEvents(tasks=news) if news else None

    def _execute(self, view: pb.TaskView) -> None:
        context = StepContext(view.spec.task_id)
        slot_tasks.execute(context, json.loads(view.spec.payload))  # type: ignore[arg-type]
        self.executed.append(view.spec.task_id)
        assert context.result is not None
        view.result.CopyFrom(context.result)
        view.state = pb.TASK_STATE_SUCCEEDED if context.result.succeeded else pb.TASK_STATE_FAILED
        self._save(view)

    def close(self) -> None:
        """Nothing to close."""

    def cancel_tasks(self, *, prefix: str, reason: str) -> int:
        return 0

    def forget_tasks(self, *, task_ids: Sequence[str] = (), prefix: str = "") -> int:
        return 0

    def hold_lease(self, name: str, owner: str, ttl_ms: int) -> None:
        """Nobody else wants it."""

    def release_lease(self, name: str, owner: str) -> None:
        """As above."""
