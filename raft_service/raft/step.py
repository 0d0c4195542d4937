"""What a message or a tick leads to: first the rules about terms, then a table by role and kind.

Terms come first because they decide who may speak (Raft paper, 5.1): a higher term makes any node a follower of that
term, a lower one is stale. Exceptions, each with its reason, stand in `_higher_term` and `_lower_term`.
"""

from __future__ import annotations

from collections.abc import Callable

from . import election, following, leading, reading, replication
from .core import Core, Handler
from .messages import CAMPAIGN_TRANSFER, NONE, Message, MessageType, Role
from .progress import Progress
from .sending import broadcast_heartbeat

M = MessageType

_BALLOT_REQUESTS = frozenset({M.MSG_VOTE, M.MSG_PRE_VOTE})
_FROM_LEADER = frozenset({M.MSG_APP, M.MSG_HEARTBEAT, M.MSG_SNAP})


def tick(core: Core) -> None:
    """One tick of the caller's clock passed."""
    if core.role is Role.LEADER:
        leading.tick_heartbeat(core)
    else:
        election.tick_election(core)


def step(core: Core, message: Message) -> None:
    """Handle one message. Raises ProposalDropped."""
    if message.term > core.term:
        if not _higher_term(core, message):
            return
    elif 0 < message.term < core.term:
        _lower_term(core, message)
        return
    kind = message.type
    if kind is M.MSG_HUP:
        election.handle_hup(core)
    elif kind in _BALLOT_REQUESTS:
        election.handle_vote_request(core, message)
    elif core.role is Role.LEADER and kind in _LEADER_PER_MEMBER:
        progress = core.tracker.progress.get(message.from_)
        if progress is not None:
            _LEADER_PER_MEMBER[kind](core, message, progress)
    else:
        handler = _TABLES[core.role].get(kind)
        if handler is not None:
            handler(core, message)


def _higher_term(core: Core, message: Message) -> bool:
    """Follow a higher term; False when the message must be ignored."""
    kind = message.type
    if kind in _BALLOT_REQUESTS:
        has_lease = core.config.check_quorum and core.lead != NONE and core.election_elapsed < core.config.election_tick
        if has_lease and message.context != CAMPAIGN_TRANSFER:
            # It hears a leader: a node that does not, or was removed, must not depose it (dissertation, 4.2.3).
            core.trace(f"ignores {kind.name} from {message.from_} at term {core.term}: it hears leader {core.lead}")
            return False
    if kind is M.MSG_PRE_VOTE or (kind is M.MSG_PRE_VOTE_RESP and not message.reject):
        # A pre-vote speaks of a term that does not exist yet. Its refusal carries the voter's real term.
        return True
    core.trace(f"follows higher term {message.term} of {kind.name} from {message.from_}")
    core.become_follower(message.term, message.from_ if kind in _FROM_LEADER else NONE)
    return True


def _lower_term(core: Core, message: Message) -> None:
    """Answer the stale messages whose sender would otherwise be stuck, and drop the rest."""
    config = core.config
    if message.type in (M.MSG_HEARTBEAT, M.MSG_APP) and (config.check_quorum or config.pre_vote):
        # The sender leads an older term, and this node, in a higher one, cannot make it step down by campaigning:
        # its requests are ignored while the others hear that leader. This answer's higher term tells the leader.
        core.send(Message(M.MSG_APP_RESP, to=message.from_))
    elif message.type is M.MSG_PRE_VOTE:
        # A pre-candidate with a longer log and a lower term must learn the term, or nobody can win.
        core.send(Message(M.MSG_PRE_VOTE_RESP, to=message.from_, term=core.term, reject=True))
    else:
        core.trace(f"ignores {message.type.name} of lower term {message.term} from {message.from_}")


def _beat(core: Core, _message: Message) -> None:
    broadcast_heartbeat(core)


def _check_quorum(core: Core, _message: Message) -> None:
    leading.check_quorum(core)


_LEADER_PER_MEMBER: dict[MessageType, Callable[[Core, Message, Progress], None]] = {
    M.MSG_APP_RESP: replication.handle_append_response,
    M.MSG_HEARTBEAT_RESP: replication.handle_heartbeat_response,
    M.MSG_SNAP_STATUS: replication.handle_snapshot_status,
    M.MSG_UNREACHABLE: replication.handle_unreachable,
    M.MSG_TRANSFER_LEADER: leading.handle_transfer,
}

_LEADER: dict[MessageType, Handler] = {
    M.MSG_BEAT: _beat,
    M.MSG_CHECK_QUORUM: _check_quorum,
    M.MSG_PROP: leading.handle_proposal,
    M.MSG_READ_INDEX: reading.handle_read_request,
}

_FOLLOWER: dict[MessageType, Handler] = {
    M.MSG_PROP: following.forward_proposal,
    M.MSG_APP: following.handle_append,
    M.MSG_HEARTBEAT: following.handle_heartbeat,
    M.MSG_SNAP: following.handle_snapshot,
    M.MSG_TRANSFER_LEADER: following.forward_transfer,
    M.MSG_FORGET_LEADER: following.forget_leader,
    M.MSG_TIMEOUT_NOW: following.handle_timeout_now,
    M.MSG_READ_INDEX: reading.forward_read_request,
    M.MSG_READ_INDEX_RESP: reading.handle_read_response,
}

_CANDIDATE: dict[MessageType, Handler] = {
    M.MSG_PROP: election.drop_proposal,
    M.MSG_APP: following.handle_append,
    M.MSG_HEARTBEAT: following.handle_heartbeat,
    M.MSG_SNAP: following.handle_snapshot,
    M.MSG_VOTE_RESP: election.handle_vote_response,
    M.MSG_PRE_VOTE_RESP: election.handle_vote_response,
}

_TABLES: dict[Role, dict[MessageType, Handler]] = {
    Role.FOLLOWER: _FOLLOWER,
    Role.CANDIDATE: _CANDIDATE,
    Role.PRE_CANDIDATE: _CANDIDATE,
    Role.LEADER: _LEADER,
}
