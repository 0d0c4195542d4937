"""What a handler sees of the worker that runs it: who it is, whether it may still act, and how to report."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from orchestrator_pkg.worker.shared_deadline import SharedDeadline
from orchestrator_pkg.worker.slot_messages import (
    PAYLOAD_BYTES_MAX,
    Assign,
    BlockingChannel,
    Finish,
    FinishAnswer,
    GiveBack,
)


class LeaseLost(Exception):
    """The worker's lease is over; the attempt may belong to somebody else and must store nothing."""


class AgentGone(Exception):
    """The agent of this slot does not answer any more; the slot is about to end."""


class AlreadyReported(Exception):
    """The attempt was finished or given back before; a handler reports once."""


class ResultTooLarge(Exception):
    """The result does not fit the ledger; it must travel by reference."""


@dataclass(frozen=True, slots=True)
class FinishReply:
    """The control plane's answer: does this outcome count, and if not, why."""

    accepted: bool
    reason: str


class SlotContext:
    """One attempt, as its handler sees it. Used on the thread that the handler was called on."""

    def __init__(
        self, assign: Assign, *, channel: BlockingChannel, deadline: SharedDeadline, worker_id: str, cloud_tag: str
    ) -> None:
        self.task_id = assign.task_id
        # "run" or "step".
        self.kind = assign.kind
        # The fencing token: (cluster epoch, log index of the placement).
        self.token = (assign.epoch, assign.index)
        # From 1.
        self.attempt_number = assign.attempt_number
        self.worker_id = worker_id
        self.cloud_tag = cloud_tag
        # Indexes of the GPUs that are this attempt's own while it runs; empty when it asked for none.
        self.gpus = assign.gpus
        self._channel = channel
        self._deadline = deadline
        self._reported = ""

    @property
    def has_reported(self) -> bool:
        """True once `finish` or `give_back` was called."""
        return bool(self._reported)

    def check_lease(self) -> None:
        """Call before each thing that is stored for others to see. Raises LeaseLost when the lease is over."""
        if self._deadline.is_over():
            raise LeaseLost(f"The lease of worker {self.worker_id} is over; {self.task_id} may run elsewhere by now.")

    def finish(self, *, succeeded: bool, payload: dict[str, Any], error: str = "") -> FinishReply:
        """Reports the outcome and waits until the control plane has committed or refused it.

        An interrupt that arrives meanwhile is dropped: the answer tells the same, and half an answer would be lost.

        Raises:
            AlreadyReported: a second report.
            ResultTooLarge: the payload is over 1 MiB as JSON.
            AgentGone: the agent has died.
        """
        text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
        size = len(text.encode())
        if size > PAYLOAD_BYTES_MAX:
            raise ResultTooLarge(
                f"The result of {self.task_id} has {size} bytes, and the ledger takes {PAYLOAD_BYTES_MAX}; "
                "store it and send a reference."
            )
        self._report_once("finish")
        with _interrupts_dropped():
            answer = self._ask(Finish(succeeded=succeeded, payload=text, error=error))
        return FinishReply(accepted=answer.accepted, reason=answer.reason)

    def give_back(self, reason: str) -> None:
        """Hands the task back untouched, to be placed again without counting a loss.

        Raises:
            AlreadyReported: a second report.
            AgentGone: the agent has died.
        """
        self._report_once("give_back")
        with _interrupts_dropped():
            try:
                self._channel.send(GiveBack(reason=reason))
            except OSError as error:
                raise AgentGone(f"The agent of worker {self.worker_id} is gone ({error}).") from None

    def _report_once(self, name: str) -> None:
        if self._reported:
            raise AlreadyReported(f"{name} was called on {self.task_id} after {self._reported}; report once.")
        self._reported = name

    def _ask(self, request: Finish) -> FinishAnswer:
        try:
            self._channel.send(request)
            answer = self._channel.receive()
        except OSError as error:
            raise AgentGone(f"The agent of worker {self.worker_id} is gone ({error}).") from None
        if not isinstance(answer, FinishAnswer):
            raise AgentGone(f"The agent of worker {self.worker_id} answered {answer!r} to a result.")
        return answer


@contextmanager
def _interrupts_dropped() -> Iterator[None]:
    """No KeyboardInterrupt inside. Swaps Python's handler: a signal mask would not hold for other threads."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Interrupts are raised on the main thread only.
        return

    def drop(_number: int, _frame: FrameType | None) -> None:
        """The answer to the report tells the handler what the interrupt would have."""

    former = signal.signal(signal.SIGINT, drop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former if former is not None else signal.default_int_handler)
