"""The agent of one machine: enters it in the ledger, keeps its lease, takes work and hands it to slots.

Four things run side by side on one event loop: the heartbeats, the stream of assignments, a watch that freezes the
slots before the lease ends, and one keeper for each slot. The agent is light (no Dagster, no torch): what executes user
code are the slots, which die with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator_pkg.config import ConfigError, WorkerSettings
from orchestrator_pkg.worker.attempt import FORK, RUN, STEP, WARM, Attempt, Phase
from orchestrator_pkg.worker.capacity import capacity_of
from orchestrator_pkg.worker.control_plane import (
    UNREACHABLE,
    ControlPlane,
    RequestRefused,
    pause,
    token_key,
    token_message,
)
from orchestrator_pkg.worker.health import Pages
from orchestrator_pkg.worker.heartbeat import Heartbeats
from orchestrator_pkg.worker.lease import Lease, LeaseState
from orchestrator_pkg.worker.metrics import WorkerMetrics
from orchestrator_pkg.worker.reports import Reports
from orchestrator_pkg.worker.shared_deadline import SharedDeadline, boot_time_ns
from orchestrator_pkg.worker.slot import SlotOptions
from orchestrator_pkg.worker.slots import PoolOptions, SlotPool
from orchestrator_pkg.worker.status import status_of
from orchestrator_proto import ledger_pb2, worker_pb2
from raft_service.config import is_local
from raft_service.rpc.client import AsyncClient

logger = logging.getLogger(__name__)

DEFAULT_HANDLER = "orchestrator_pkg.slot_tasks:execute"
# Between tries to register or to open the stream of assignments; the client changes nodes in between.
RETRY_PAUSE_S = 0.1
# How long the reports of attempts that were killed at the end may take.
LAST_REPORTS_S = 5.0

_WIRE_PHASES = {
    Phase.WAITING: worker_pb2.ATTEMPT_PHASE_STARTING,
    Phase.STARTING: worker_pb2.ATTEMPT_PHASE_STARTING,
    Phase.RUNNING: worker_pb2.ATTEMPT_PHASE_RUNNING,
    Phase.REPORTING: worker_pb2.ATTEMPT_PHASE_REPORTING,
}


class WorkerAgent:
    """One worker. `start` it, then `drain` or `stop` it; use it on the loop and thread that started it."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        endpoints: Sequence[str] | None = None,
        handler: str = DEFAULT_HANDLER,
        slot_env: Mapping[str, str] | None = None,
    ) -> None:
        """Args:
        settings: of the worker.
        endpoints: control-plane nodes to try; default: those of the settings.
        handler: function that executes attempts in a slot, "module:function".
        slot_env: environment of the slots on top of ours.

        Raises:
            ConfigError: no control plane is configured.
        """
        self.endpoints = tuple(endpoints if endpoints is not None else settings.endpoints)
        if not self.endpoints:
            raise ConfigError("ORCHESTRATOR_ADDR is not set; give the control plane's nodes as host:port,host:port.")
        self.settings = settings
        self.worker_id = settings.name or f"{socket.gethostname()}-{os.getpid()}"
        self.incarnation = 0
        self.is_draining = False
        self.is_registered = False
        self.lease = Lease()
        self.metrics = WorkerMetrics()
        self.pages = Pages(status=self.status, unready_reason=self.unready_reason, registry=self.metrics.registry)
        self.pool: SlotPool
        self._handler = handler
        self._slot_env = {"ORCHESTRATOR_ADDR": ",".join(self.endpoints), **(slot_env or {})}
        self._capacity = ledger_pb2.Resources()
        self._deadline = SharedDeadline.create()
        self._lease_changed = asyncio.Event()
        self._client: ControlPlane
        self._heartbeats: Heartbeats
        self._loops: list[asyncio.Task[None]] = []
        self._assignments: asyncio.Task[None] | None = None

    # ---------------------------------------------------------------------------------------- life

    async def start(self) -> None:
        """Starts the slots, registers (for as long as that takes) and begins to take work.

        Raises:
            ConfigError: a port is taken.
            RequestRefused: the control plane does not want this worker.
        """
        self._capacity = await asyncio.to_thread(capacity_of, self.settings)
        self.pool = self._new_pool()
        await self.pages.start(
            host="127.0.0.1" if all(map(is_local, self.endpoints)) else "0.0.0.0",
            debug_http_port=self.settings.debug_http_port,
            metrics_port=self.settings.metrics_port,
        )
        self.metrics.attempts.set_function(lambda: len(self.pool.attempts))
        self.metrics.lease_age_seconds.set_function(self._lease_age_s)
        self.pool.start()
        self._heartbeats = Heartbeats(client=self._client, host=self, metrics=self.metrics)
        registered = await self._register()
        self._loops = [
            asyncio.create_task(self._heartbeats.run(lease_ms=registered.lease_ms), name="heartbeats"),
            asyncio.create_task(self._watch_lease(), name="lease"),
        ]
        for loop in self._loops:
            loop.add_done_callback(_say_defect)

    def _new_pool(self) -> SlotPool:
        settings = self.settings
        self._client = AsyncClient(self.endpoints, name=f"worker@{self.worker_id}", tls=settings.tls)
        return SlotPool(
            slot_options=SlotOptions(
                worker_id=self.worker_id,
                cloud_tag=settings.cloud_tag,
                handler=self._handler,
                preload=settings.preload_modules,
                lease_fd=self._deadline.fd,
                memory_max_bytes=settings.slot_memory_max_bytes,
                env=self._slot_env,
            ),
            options=PoolOptions(
                run_slots=settings.run_slots,
                step_slots=settings.step_slots,
                gpus=self._capacity.gpus,
                tasks_max=settings.slot_tasks_max,
                cancel_grace_s=settings.cancel_grace_s,
            ),
            reporter=Reports(self._client),
            metrics=self.metrics,
        )

    async def drain(self, *, deadline_s: float) -> None:
        """Takes nothing new, hands back what has not begun, and waits for the rest; past the deadline it is killed and
        reported lost, so that other workers take over at once."""
        self.is_draining = True
        self._heartbeats.wake()
        self.pool.return_waiting("the worker ends")
        try:
            await asyncio.wait_for(self.pool.until_empty(), deadline_s)
            return
        except TimeoutError:
            logger.warning("%d attempts did not end within %g s and are killed", len(self.pool.attempts), deadline_s)
        self.pool.stop_running(f"worker {self.worker_id} ended before it")
        try:
            await asyncio.wait_for(self.pool.until_empty(), LAST_REPORTS_S)
        except TimeoutError:
            logger.warning("the control plane does not take reports; it will see the worker's lease run out")

    async def stop(self) -> None:
        """Ends everything now. Attempts that run are lost when the lease ends; `drain` first to avoid that."""
        loops = [*self._loops, *([self._assignments] if self._assignments is not None else [])]
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await self.pool.stop()
        await self._client.close()
        await self.pages.stop()
        self._deadline.close()

    # ---------------------------------------------------------------------------------------- registration

    async def _register(self) -> worker_pb2.RegisterWorkerResponse:
        """Enters a new incarnation in the ledger; tries until it is answered. Its lease runs from then on."""
        self.incarnation = max(self.incarnation + 1, time.time_ns())
        request = worker_pb2.RegisterWorkerRequest(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            address=f"{socket.gethostname()}:{self.pages.debug_http_port}" if self.pages.debug_http_port > 0 else "",
            labels={**self.settings.label_map, "cloud": self.settings.cloud_tag, "worker": self.worker_id},
            capacity=self._capacity,
        )
        logger.info("registering %s with the control plane at %s", self.worker_id, ", ".join(self.endpoints))
        while True:
            sent_at_ns = boot_time_ns()
            try:
                response = await self._client.register_worker(request)
                break
            except UNREACHABLE as error:
                logger.warning("cannot register: %s", error)
                await pause(RETRY_PAUSE_S)
        self.is_registered = True
        logger.info("registered as %s with %s, lease %d ms", self.worker_id, response.leader, response.lease_ms)
        self._renew(sent_at_ns=sent_at_ns, lease_ms=response.lease_ms)
        self.pool.go_on(asked=set(), allowed=set())
        self._assignments = asyncio.create_task(self._follow_assignments(), name="assignments")
        self._assignments.add_done_callback(_say_defect)
        return response

    async def unknown(self) -> None:
        """The ledger declared this incarnation lost: its attempts run elsewhere by now, so they die here."""
        logger.error("the control plane does not know this worker any more; everything is discarded")
        self.is_registered = False
        self.lease.lost()
        self._deadline.write(0)
        if self._assignments is not None:
            self._assignments.cancel()
        self.pool.set_taking(is_taking=False)
        self.pool.discard_all("the worker was declared lost")
        await self._register()

    # ---------------------------------------------------------------------------------------- heartbeats, lease

    def heartbeat_request(self, sequence: int) -> worker_pb2.HeartbeatRequest:
        """Everything at hand. Attempts whose report was answered are settled and no longer the leader's business."""
        attempts = [
            worker_pb2.RunningAttempt(
                task_id=attempt.task_id,
                token=token_message(attempt.token),
                phase=worker_pb2.ATTEMPT_PHASE_FROZEN if attempt.is_frozen else _WIRE_PHASES[attempt.phase],
            )
            for attempt in self.pool.attempts.values()
            if attempt.phase in _WIRE_PHASES
        ]
        return worker_pb2.HeartbeatRequest(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            sequence=sequence,
            attempts=attempts,
            is_draining=self.is_draining,
            code_keys=self.pool.code_keys,
            memory_used_bytes=sum(seat.slot.memory_bytes for seat in self.pool.seats if seat.slot is not None),
        )

    def acknowledged(
        self, request: worker_pb2.HeartbeatRequest, response: worker_pb2.HeartbeatResponse, *, sent_at_ns: int
    ) -> None:
        """Renews the lease, follows orders, and lets frozen attempts go on or die."""
        self._renew(sent_at_ns=sent_at_ns, lease_ms=response.lease_ms)
        self._obey(response.orders)
        # An answer so late that its lease is over already allows nothing.
        if self.lease.state(boot_time_ns()) is not LeaseState.OVER:
            self.pool.go_on(
                asked={token_key(attempt.token) for attempt in request.attempts},
                allowed={token_key(token) for token in response.go_on},
            )

    def _renew(self, *, sent_at_ns: int, lease_ms: int) -> None:
        self.lease.acknowledged(sent_at_ns=sent_at_ns, lease_ms=lease_ms)
        if self.lease.deadlines is not None:
            self._deadline.write(self.lease.deadlines.end_ns)
        self._lease_changed.set()

    def _lease_age_s(self) -> float:
        age_ns = self.lease.age_ns(boot_time_ns())
        return -1.0 if age_ns is None else age_ns / 1e9

    async def _watch_lease(self) -> None:
        """Does what the age of the lease demands, when it demands it."""
        while True:
            self._lease_changed.clear()
            now_ns = boot_time_ns()
            state = self.lease.state(now_ns)
            if state is LeaseState.OVER:
                self._freeze()
            elif state is not LeaseState.HELD:
                self.pool.set_taking(is_taking=False)
            change_ns = self.lease.next_change_ns(now_ns)
            try:
                await asyncio.wait_for(
                    self._lease_changed.wait(), None if change_ns is None else (change_ns - now_ns) / 1e9
                )
            except TimeoutError:
                pass  # Not renewed: the lease has come to its next period.

    def _freeze(self) -> None:
        logger.error("the lease is over: %d attempts are frozen until it is renewed", len(self.pool.attempts))
        self.metrics.freezes.inc()
        self.pool.freeze()

    # ---------------------------------------------------------------------------------------- assignments

    async def _follow_assignments(self) -> None:
        """Takes work from the stream and opens it again whenever it breaks."""
        while True:
            try:
                async for batch in self._client.assignments(self.worker_id, self.incarnation):
                    self._obey(batch.orders)
                    for assignment in batch.start:
                        self._accept(assignment)
            except (*UNREACHABLE, RequestRefused) as error:
                logger.info("the stream of assignments ended: %s", error)
            await pause(RETRY_PAUSE_S)

    def _accept(self, assignment: worker_pb2.Assignment) -> None:
        attempt = _attempt_of(assignment)
        if not self.pool.accept(attempt):
            return
        logger.debug("%s arrives as attempt %d", attempt.task_id, attempt.number)
        if self.is_draining:
            self.pool.return_waiting("the worker ends")

    def _obey(self, orders: Sequence[worker_pb2.Order]) -> None:
        for order in orders:
            if order.kind == worker_pb2.ORDER_KIND_CANCEL:
                self.pool.cancel((order.task_id, token_key(order.token)), order.reason)
            elif order.kind == worker_pb2.ORDER_KIND_DISCARD:
                self.pool.discard((order.task_id, token_key(order.token)), order.reason)
            else:
                logger.error("order %d for %s is not known and ignored", order.kind, order.task_id)

    # ---------------------------------------------------------------------------------------- pages

    def unready_reason(self) -> str:
        """Why no work can be taken now; "" when it can."""
        if not self.is_registered:
            return "not registered with the control plane"
        if self.is_draining:
            return "draining"
        if self.lease.state(boot_time_ns()) is not LeaseState.HELD:
            return "the lease was not renewed"
        return "; ".join(self.pool.start_errors.values())

    def status(self) -> dict[str, Any]:
        """The status page's JSON."""
        return status_of(self)

    def ready_line(self) -> dict[str, Any]:
        """What the process prints once when it takes work."""
        return {
            "ready": True,
            "role": "worker",
            "name": self.worker_id,
            "incarnation": self.incarnation,
            "pid": os.getpid(),
            "metrics_port": self.pages.metrics_port,
            "debug_http_port": self.pages.debug_http_port,
        }


def _attempt_of(assignment: worker_pb2.Assignment) -> Attempt:
    spec = assignment.spec
    return Attempt(
        task_id=spec.task_id,
        token=token_key(assignment.token),
        number=assignment.attempt_number,
        kind=RUN if spec.kind == ledger_pb2.TASK_KIND_RUN else STEP,
        mode=FORK if spec.mode == ledger_pb2.SLOT_MODE_FORK else WARM,
        code_key=spec.code_key,
        gpus_needed=spec.resources.gpus,
        payload=spec.payload.decode(errors="replace"),
        received_at_ns=boot_time_ns(),
    )


def _say_defect(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.critical("the worker's %s failed; this is a defect", task.get_name(), exc_info=task.exception())


def main() -> None:
    """The command `orchestrator-worker`."""
    # Here and not above: the command line imports the agent.
    from orchestrator_pkg.worker.command import worker_command

    worker_command()


if __name__ == "__main__":
    main()
