"""ReadIndex at the leader and at followers: reads that need no log entry (see read_only.py for why they are safe)."""

from __future__ import annotations

from .core import Core
from .messages import NONE, Message, MessageType, ReadState
from .quorum import VoteResult
from .sending import broadcast_heartbeat


def handle_read_request(core: Core, message: Message) -> None:
    """Leader: answer at once where it is the whole quorum, else ask the quorum whether it still leads."""
    if core.tracker.is_singleton():
        _answer(core, message, core.log.committed)
    elif not core.has_committed_in_term():
        # Until its first commit the leader may not know all that former leaders committed.
        core.pending_reads.append(message)
    else:
        _confirm(core, message)


def _confirm(core: Core, message: Message) -> None:
    core.read_only.add(index=core.log.committed, request=message)
    core.read_only.receive_ack(core.id, message.context)
    broadcast_heartbeat(core, message.context)


def release_pending_reads(core: Core) -> None:
    """Leader: the commit index has moved in this term; reads that came before may be confirmed now."""
    if core.pending_reads and core.has_committed_in_term():
        messages, core.pending_reads = core.pending_reads, []
        for message in messages:
            _confirm(core, message)


def handle_read_ack(core: Core, message: Message) -> None:
    """Leader: a heartbeat that carried a read was answered."""
    acks = core.read_only.receive_ack(message.from_, message.context)
    if core.tracker.config.voters.vote_result(acks) is VoteResult.WON:
        for read in core.read_only.advance(message.context):
            _answer(core, read.request, read.index)


def _answer(core: Core, request: Message, index: int) -> None:
    if request.from_ in (NONE, core.id):
        core.read_states.append(ReadState(index, request.context))
    else:
        core.send(Message(MessageType.MSG_READ_INDEX_RESP, to=request.from_, index=index, context=request.context))


def forward_read_request(core: Core, message: Message) -> None:
    """Follower: pass the read on to the leader. Without one it is dropped; the caller tries again with a new id."""
    if core.lead == NONE:
        core.trace(f"has no leader at term {core.term}; drops a read")
        return
    core.send(Message(MessageType.MSG_READ_INDEX, to=core.lead, from_=message.from_, context=message.context))


def handle_read_response(core: Core, message: Message) -> None:
    """Follower: the leader has confirmed a read."""
    core.read_states.append(ReadState(message.index, message.context))
