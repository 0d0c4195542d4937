"""Tells the control plane how attempts ended, for as long as it takes to get an answer."""

from __future__ import annotations

import logging

from orchestrator_pkg.worker.attempt import Attempt
from orchestrator_pkg.worker.control_plane import UNREACHABLE, ControlPlane, RequestRefused, pause, token_message
from orchestrator_pkg.worker.slot_messages import Finish, FinishAnswer
from orchestrator_proto import ledger_pb2

logger = logging.getLogger(__name__)

# The client itself retries for its deadline; this only keeps a client that fails at once from spinning.
RETRY_PAUSE_S = 0.5


class Reports:
    """Reports over a client. Repeats are harmless: the ledger answers them with the first outcome."""

    def __init__(self, client: ControlPlane) -> None:
        self._client = client

    async def result(self, attempt: Attempt, finish: Finish) -> FinishAnswer:
        """Reports an outcome until it is committed or refused."""
        result = ledger_pb2.TaskResult(succeeded=finish.succeeded, payload=finish.payload.encode(), error=finish.error)
        while True:
            try:
                reply = await self._client.report_result(attempt.task_id, token_message(attempt.token), result)
            except RequestRefused as refused:
                logger.error("the result of %s is refused: %s", attempt.task_id, refused)
                return FinishAnswer(accepted=False, reason=str(refused))
            except UNREACHABLE as error:
                logger.warning("the result of %s waits for the control plane: %s", attempt.task_id, error)
                await pause(RETRY_PAUSE_S)
            else:
                return FinishAnswer(accepted=reply.accepted, reason=reply.reason)

    async def loss(self, attempt: Attempt, reason: str, *, is_returned: bool) -> None:
        """Reports an end without outcome until it is committed or refused."""
        while True:
            try:
                await self._client.report_loss(
                    attempt.task_id, token_message(attempt.token), reason, is_returned=is_returned
                )
            except RequestRefused as refused:
                logger.error("the loss of %s is refused: %s", attempt.task_id, refused)
                return
            except UNREACHABLE as error:
                logger.warning("the loss of %s waits for the control plane: %s", attempt.task_id, error)
                await pause(RETRY_PAUSE_S)
            else:
                return
