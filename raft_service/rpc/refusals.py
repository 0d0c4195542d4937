"""How a node says in gRPC that it does not lead, or that a quorum is away."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc

from raft_service.config import Member
from raft_service.leader import Leader
from raft_service.leadership import Leadership
from raft_service.rpc.channel import LEADER_KEY


async def require_leader(leadership: Leadership, context: Any) -> Leader:
    """The Leader if this node leads; otherwise ends the call with the leader's address."""
    leader = await leadership.settled()
    if leader is None:
        await refuse_not_leader(leadership.elsewhere(), context)
    return leader


async def refuse_not_leader(elsewhere: Member | None, context: Any) -> NoReturn:
    """Ends the call: another node leads, or none is known."""
    if elsewhere is None:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "No leader is known yet; try another node.")
    else:
        await context.abort(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"{elsewhere.name} at {elsewhere.address} leads; ask there.",
            trailing_metadata=((LEADER_KEY, elsewhere.address),),
        )
    raise AssertionError("abort raises")
