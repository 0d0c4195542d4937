"""A follower's side: appends, heartbeats and snapshots from the leader, and requests that it passes on to it."""

from __future__ import annotations

from .core import Core
from .election import hup
from .errors import ProposalDropped
from .membership import restore_config
from .messages import NONE, CampaignKind, Message, MessageType, Role, Snapshot


def hear_leader(core: Core, message: Message) -> None:
    """A message of this term's leader: whoever still campaigns in this term follows it."""
    if core.role is Role.FOLLOWER:
        core.election_elapsed = 0
        core.lead = message.from_
    else:
        core.become_follower(message.term, message.from_)


def handle_append(core: Core, message: Message) -> None:
    """Store the leader's entries, or tell where the logs may meet."""
    hear_leader(core, message)
    log = core.log
    if message.index < log.committed:
        core.send(Message(MessageType.MSG_APP_RESP, to=message.from_, index=log.committed))
        return
    last_new = log.maybe_append(
        prev_index=message.index, prev_term=message.log_term, entries=message.entries, commit=message.commit
    )
    if last_new is not None:
        core.send(Message(MessageType.MSG_APP_RESP, to=message.from_, index=last_new))
        return
    if core.config.trace is not None:
        core.trace(f"rejected an append after {message.index} (term {message.log_term}) from {message.from_}")
    # Entries of a higher term than the leader's cannot match, so the hint skips them all at once.
    hint, hint_term = log.find_conflict_by_term(min(message.index, log.last_index()), message.log_term)
    core.send(
        Message(
            MessageType.MSG_APP_RESP,
            to=message.from_,
            index=message.index,
            reject=True,
            reject_hint=hint,
            log_term=hint_term,
        )
    )


def handle_heartbeat(core: Core, message: Message) -> None:
    """The leader is alive; take its commit index."""
    hear_leader(core, message)
    core.log.commit_to(message.commit)
    core.send(Message(MessageType.MSG_HEARTBEAT_RESP, to=message.from_, context=message.context))


def handle_snapshot(core: Core, message: Message) -> None:
    """Replace the log by the leader's snapshot, unless this log has all of it."""
    hear_leader(core, message)
    restored = message.snapshot is not None and restore(core, message.snapshot)
    index = core.log.last_index() if restored else core.log.committed
    core.send(Message(MessageType.MSG_APP_RESP, to=message.from_, index=index))


def restore(core: Core, snapshot: Snapshot) -> bool:
    """Restore log and configuration from a snapshot; False when it is old or not needed.

    The snapshot may be older than this node's membership (the leader keeps one snapshot for all, and the entry that
    added this node follows in the log), so, other than in etcd/raft, it is taken even if this node is not in it:
    refusing it would leave a new member without any way to catch up.
    """
    metadata = snapshot.metadata
    log = core.log
    if metadata.index <= log.committed:
        core.trace(f"ignored snapshot {metadata.index}: committed up to {log.committed}")
        return False
    if log.matches(metadata.index, metadata.term):
        core.trace(f"has snapshot {metadata.index} in its log; committed up to it")
        log.commit_to(metadata.index)
        return False
    log.restore(snapshot)
    restore_config(core, metadata.conf_state)
    core.trace(f"restored snapshot {metadata.index} of term {metadata.term}")
    return True


def forward_proposal(core: Core, message: Message) -> None:
    """Pass a proposal on to the leader. Raises ProposalDropped when there is none or forwarding is off."""
    if core.lead == NONE or core.config.disable_proposal_forwarding:
        core.trace(f"drops a proposal at term {core.term}: " + ("no leader" if core.lead == NONE else "not the leader"))
        raise ProposalDropped
    core.send(Message(MessageType.MSG_PROP, to=core.lead, from_=message.from_, entries=message.entries))


def forward_transfer(core: Core, message: Message) -> None:
    """Pass a leadership transfer on to the leader; dropped when there is none."""
    if core.lead == NONE:
        core.trace(f"drops a leadership transfer at term {core.term}: no leader")
        return
    core.send(Message(MessageType.MSG_TRANSFER_LEADER, to=core.lead, from_=message.from_))


def handle_timeout_now(core: Core, message: Message) -> None:
    """The leader hands over: campaign at once, without a pre-vote, for this is no recovery from a partition."""
    core.trace(f"was told by {message.from_} to campaign at term {core.term}")
    hup(core, CampaignKind.TRANSFER)


def forget_leader(core: Core, _message: Message) -> None:
    """Vote for others at once, before the election timeout, when the caller knows that the leader is dead."""
    if core.lead != NONE:
        core.trace(f"forgets leader {core.lead} at term {core.term}")
        core.lead = NONE
