"""What the agent needs of the control plane's client, and how it fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Protocol

import grpc

from orchestrator_pkg.worker.attempt import TokenKey
from orchestrator_proto import ledger_pb2, task_pb2, worker_pb2
from raft_service.rpc.client import ControlPlaneUnavailable, RequestRefused

__all__ = ["UNREACHABLE", "ControlPlane", "RequestRefused", "pause", "token_key", "token_message"]

# The control plane did not answer, or not with a yes or no: ask again, another node or later.
UNREACHABLE = (ControlPlaneUnavailable, grpc.RpcError, OSError, asyncio.TimeoutError)


class ControlPlane(Protocol):
    """The part of raft_service.rpc.client.AsyncClient that a worker uses."""

    async def register_worker(self, request: worker_pb2.RegisterWorkerRequest) -> worker_pb2.RegisterWorkerResponse:
        """Enters the worker in the ledger."""

    async def heartbeat(self, request: worker_pb2.HeartbeatRequest, timeout_s: float) -> worker_pb2.HeartbeatResponse:
        """Renews the lease, on a connection of its own."""

    def assignments(self, worker_id: str, incarnation: int) -> AsyncIterator[worker_pb2.AssignmentBatch]:
        """Pushes work until the stream breaks."""

    async def report_result(
        self, task_id: str, token: ledger_pb2.Token, result: ledger_pb2.TaskResult
    ) -> task_pb2.ReportReply:
        """Commits an outcome."""

    async def report_loss(
        self, task_id: str, token: ledger_pb2.Token, reason: str, is_returned: bool = False
    ) -> task_pb2.ReportReply:
        """Commits an end without outcome."""

    async def close(self) -> None:
        """Closes all connections."""


def token_key(token: ledger_pb2.Token) -> TokenKey:
    """A token as a dictionary key."""
    return token.epoch, token.index


def token_message(key: TokenKey) -> ledger_pb2.Token:
    """The reverse of `token_key`."""
    return ledger_pb2.Token(epoch=key[0], index=key[1])


async def pause(longest_s: float) -> None:
    """A random pause between half of `longest_s` and all of it, so that workers do not ask in step."""
    await asyncio.sleep(longest_s * random.uniform(0.5, 1.0))
