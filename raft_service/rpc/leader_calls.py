"""Unary calls that only the leader serves: found by redirect, tried again on the next node after every failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio

from raft_service.config import TlsFiles
from raft_service.rpc.channel import LEADER_KEY, open_channel
from raft_service.rpc.errors import RequestRefused, in_words, nobody_answered
from raft_service.rpc.route import Route

# How long one node may take before the next is asked: many round trips between clouds, far below a worker's lease.
TRY_S = 1.0

# Codes that say that the request itself is wrong.
REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.ALREADY_EXISTS,
    }
)

# Codes of a node that is well but does not serve this now: it does not lead, or takes no more.
ANSWERS = frozenset({grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED})

T = TypeVar("T")
# Sends on a channel with a time limit in s.
Send = Callable[[grpc.aio.Channel, float], Awaitable[T]]


class LeaderCalls:
    """A connection of its own to whoever leads. Connects on first use; belongs to one event loop."""

    def __init__(self, endpoints: Sequence[str], *, tls: TlsFiles | None) -> None:
        """Does no network.

        Raises:
            ControlPlaneUnavailable: no endpoint is given.
        """
        self._tls = tls
        self._route = Route(endpoints)
        self._channel: grpc.aio.Channel | None = None

    async def unary(self, send: Send[T], *, deadline_s: float) -> T:
        """Sends until the leader answers.

        Raises:
            ControlPlaneUnavailable: none answered within deadline_s.
            RequestRefused: the leader refused the request.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while (left_s := deadline - loop.time()) > 0:
            try:
                answer = await send(self.channel(), min(left_s, TRY_S))
            except grpc.aio.AioRpcError as error:
                pause_s = await self.failed(error)
                await asyncio.sleep(min(pause_s, max(0.0, deadline - loop.time())))
            else:
                self._route.succeeded()
                return answer
        raise nobody_answered(self._route.endpoints, within_s=deadline_s, last=self._route.problem)

    def channel(self) -> grpc.aio.Channel:
        """The channel to the node that is tried now."""
        if self._channel is None:
            self._channel = open_channel(self._route.address, self._tls)
        return self._channel

    def succeeded(self) -> None:
        """Notes that the leader answered, for streams opened on channel()."""
        self._route.succeeded()

    async def failed(self, error: grpc.aio.AioRpcError) -> float:
        """Moves to the leader or the next node; returns the pause before the next try, in s.

        Raises:
            RequestRefused: the node refused the request itself.
        """
        if error.code() in REFUSALS:
            raise RequestRefused(error.details() or in_words(error)) from None
        is_redirected = error.code() in ANSWERS
        pause_s = self._route.failed(in_words(error), is_redirected=is_redirected, leader=_leader_of(error))
        await self.close()
        return pause_s

    async def close(self) -> None:
        """Ends the connection; the next call opens one again."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


def _leader_of(error: grpc.aio.AioRpcError) -> str:
    metadata: Any = error.trailing_metadata() or ()
    return next((str(value) for key, value in metadata if key == LEADER_KEY), "")
