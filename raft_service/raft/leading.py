"""What only a leader does: proposals, beats, quorum checks, leadership transfer, leaving a joint configuration."""

from __future__ import annotations

from .core import Core
from .errors import ProposalDropped
from .messages import NONE, Entry, EntryType, Message, MessageType, Role
from .progress import Progress
from .sending import broadcast_append, broadcast_heartbeat, send_append, send_timeout_now


def tick_heartbeat(core: Core) -> None:
    """One tick of a leader: check the quorum every election timeout, beat every heartbeat timeout."""
    core.heartbeat_elapsed += 1
    core.election_elapsed += 1
    if core.election_elapsed >= core.config.election_tick:
        core.election_elapsed = 0
        if core.config.check_quorum:
            check_quorum(core)
        # A transfer that took a whole election timeout has failed: take proposals again.
        core.lead_transferee = NONE
    if core.role is Role.LEADER and core.heartbeat_elapsed >= core.config.heartbeat_tick:
        core.heartbeat_elapsed = 0
        broadcast_heartbeat(core)


def check_quorum(core: Core) -> None:
    """Step down if no quorum was heard from since the last check: another leader may be elected behind a partition."""
    if not core.tracker.quorum_active():
        core.trace("stepped down to follower since quorum is not active")
        core.become_follower(core.term, NONE)
    for _, progress in core.tracker.others(core.id):
        progress.recent_active = False


def handle_proposal(core: Core, message: Message) -> None:
    """Append proposals and send them out.

    Raises ProposalDropped when this node is no member any more, hands leadership over, or has too many uncommitted
    bytes.
    """
    if core.own_progress() is None:
        raise ProposalDropped
    if core.lead_transferee != NONE:
        core.trace(f"drops a proposal at term {core.term}: leadership moves to {core.lead_transferee}")
        raise ProposalDropped
    entries = message.entries
    pending_before = core.pending_conf_index
    if any(entry.type is EntryType.CONF_CHANGE for entry in entries):
        first = core.log.last_index() + 1
        entries = [_admit_conf_change(core, entry, first + place) for place, entry in enumerate(entries)]
    if not core.append_entries(entries):
        # What was not appended is not pending either.
        core.pending_conf_index = pending_before
        raise ProposalDropped
    broadcast_append(core)


def _admit_conf_change(core: Core, entry: Entry, index: int) -> Entry:
    """The entry, or an empty one in its place when the membership change must not start now.

    One change at a time: the next may be appended only after the former is applied here.
    """
    if entry.type is not EntryType.CONF_CHANGE:
        return entry
    is_joint = core.tracker.config.voters.is_joint
    leaves_joint = not entry.data
    refusal = ""
    if core.pending_conf_index > core.log.applied:
        refusal = f"possible unapplied conf change at index {core.pending_conf_index} (applied to {core.log.applied})"
    elif is_joint and not leaves_joint:
        refusal = "must transition out of joint config first"
    elif leaves_joint and not is_joint:
        refusal = "not in joint state; refusing empty conf change"
    if refusal and not core.config.disable_conf_change_validation:
        core.trace(f"ignores a membership change at config {core.tracker.config}: {refusal}")
        return Entry()
    core.pending_conf_index = index
    return entry


def handle_transfer(core: Core, message: Message, progress: Progress) -> None:
    """Hand leadership to a voter: bring it up to date, then tell it to campaign. A second wish replaces the first."""
    transferee = message.from_
    if progress.is_learner:
        core.trace(f"ignores a transfer to {transferee}: it is a learner")
        return
    if core.lead_transferee == transferee or transferee == core.id:
        return
    # It has one election timeout to succeed.
    core.election_elapsed = 0
    core.lead_transferee = transferee
    core.trace(f"starts to transfer leadership to {transferee}")
    if progress.match == core.log.last_index():
        send_timeout_now(core, transferee)
    else:
        send_append(core, transferee)


def applied_to(core: Core, index: int, size: int) -> None:
    """Entries up to `index`, of `size` bytes, are applied. A leader then ends an automatic joint configuration."""
    index = max(index, core.log.applied)
    core.log.applied_to(index, size)
    if core.role is not Role.LEADER or not core.tracker.config.auto_leave or index < core.pending_conf_index:
        return
    try:
        handle_proposal(core, Message(MessageType.MSG_PROP, from_=core.id, entries=[Entry(type=EntryType.CONF_CHANGE)]))
    except ProposalDropped:
        # Leadership is being transferred: the next leader leaves, or this one at its next apply.
        core.trace("cannot leave the joint configuration yet")
    else:
        core.trace(f"leaves the joint configuration {core.tracker.config}")
