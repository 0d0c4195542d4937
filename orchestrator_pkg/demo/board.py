"""What a watcher of the control plane has seen of all tasks: the source of the progress view and of the proof."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from orchestrator_proto import ledger_pb2
from raft_service.rpc.client import Client

STEP_PREFIX = "step/"
WATCH_TIMEOUT_S = 0.25


class TaskBoard:
    """Keeps the last view of every step that was ever seen, also after the ledger has forgotten it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._views: dict[str, ledger_pb2.TaskView] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="task-board", daemon=True)
        self.error: Exception | None = None

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        watch = self._client.watch_tasks(STEP_PREFIX)
        try:
            while not self._stop.is_set():
                events = watch.next(WATCH_TIMEOUT_S)
                if events is None:
                    continue
                with self._changed:
                    self._views |= {view.spec.task_id: view for view in events.tasks}
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001  a thread's edge: the demo looks at .error and fails
            self.error = error
            with self._changed:
                self._changed.notify_all()
        finally:
            watch.close()

    def views(self, run_id: str = "") -> list[ledger_pb2.TaskView]:
        """The last views, of one run's steps or of all."""
        prefix = f"{STEP_PREFIX}{run_id}"
        with self._changed:
            return [view for task_id, view in self._views.items() if task_id.startswith(prefix)]

    def in_state(self, state: int) -> frozenset[str]:
        """Ids of the steps in a state."""
        return frozenset(view.spec.task_id for view in self.views() if view.state == state)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until condition holds, looking after each change; False when it did not in time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                if self.error is not None:
                    raise self.error
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return False
            return True
