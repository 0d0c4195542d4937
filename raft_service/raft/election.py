"""Elections: campaigns with and without pre-vote, voting, becoming candidate and leader.

    follower --timeout--> pre-candidate --quorum would vote--> candidate --quorum votes--> leader
        ^                      | refused                          | refused                   | higher term,
        +----------------------+----------------------------------+---------------------------+ no quorum heard

The candidate's own vote is a message to itself that counts only after the vote is on disk, like everyone's.
"""

from __future__ import annotations

from .core import Core
from .errors import InvariantBroken, ProposalDropped
from .messages import (
    CAMPAIGN_TRANSFER,
    NONE,
    CampaignKind,
    Entry,
    EntryType,
    Message,
    MessageType,
    Role,
)
from .quorum import VoteResult
from .sending import broadcast_append

_RESPONSE = {
    MessageType.MSG_VOTE: MessageType.MSG_VOTE_RESP,
    MessageType.MSG_PRE_VOTE: MessageType.MSG_PRE_VOTE_RESP,
}
# Bytes of log read at once in the search for unapplied membership changes.
_SCAN_BYTES_MAX = 1 << 20


def tick_election(core: Core) -> None:
    """One tick of a node that does not lead: campaign when no leader was heard for the randomised timeout."""
    core.election_elapsed += 1
    if core.is_promotable() and core.is_past_election_timeout():
        core.election_elapsed = 0
        handle_hup(core)


def handle_hup(core: Core) -> None:
    """Start an election, with a pre-vote round first where that is configured."""
    hup(core, CampaignKind.PRE_ELECTION if core.config.pre_vote else CampaignKind.ELECTION)


def hup(core: Core, kind: CampaignKind) -> None:
    """Start an election unless this node leads, cannot, or has membership changes to apply first."""
    if core.role is Role.LEADER:
        core.trace("ignores a campaign: it leads already")
    elif not core.is_promotable():
        core.trace("cannot campaign: it is no voter, or waits for a snapshot")
    elif _has_unapplied_conf_change(core):
        core.trace(f"cannot campaign at term {core.term}: a committed membership change is not applied yet")
    else:
        core.trace(f"is starting a new election at term {core.term}")
        _campaign(core, kind)


def _has_unapplied_conf_change(core: Core) -> bool:
    log = core.log
    low = log.applied + 1
    while low <= log.committed:
        page = log.slice(low, log.committed + 1, _SCAN_BYTES_MAX)
        if any(entry.type is EntryType.CONF_CHANGE for entry in page):
            return True
        low += len(page)
    return False


def _campaign(core: Core, kind: CampaignKind) -> None:
    if kind is CampaignKind.PRE_ELECTION:
        _become_pre_candidate(core)
        # Asked for the term it would have, while its own stays as it is.
        request, term = MessageType.MSG_PRE_VOTE, core.term + 1
    else:
        _become_candidate(core)
        request, term = MessageType.MSG_VOTE, core.term
    context = CAMPAIGN_TRANSFER if kind is CampaignKind.TRANSFER else b""
    last_index, last_term = core.log.last_index(), core.log.last_term()
    for voter in sorted(core.tracker.config.voters.ids()):
        if voter == core.id:
            core.send(Message(_RESPONSE[request], to=voter, term=term))
            continue
        core.send(Message(request, to=voter, term=term, index=last_index, log_term=last_term, context=context))


def _become_pre_candidate(core: Core) -> None:
    if core.role is Role.LEADER:
        raise InvariantBroken("a leader cannot become pre-candidate")
    # Term and vote stay: a pre-vote that fails must leave no mark.
    core.tracker.reset_votes()
    core.lead = NONE
    core.role = Role.PRE_CANDIDATE
    core.trace(f"became pre-candidate at term {core.term}")


def _become_candidate(core: Core) -> None:
    if core.role is Role.LEADER:
        raise InvariantBroken("a leader cannot become candidate")
    core.reset(core.term + 1)
    core.vote = core.id
    core.role = Role.CANDIDATE
    core.trace(f"became candidate at term {core.term}")


def become_leader(core: Core) -> None:
    """Lead, and append an empty entry: only an entry of its own term lets a leader commit what came before."""
    if core.role is Role.FOLLOWER:
        raise InvariantBroken("a follower cannot become leader")
    core.reset(core.term)
    core.lead = core.id
    core.role = Role.LEADER
    progress = core.own_progress()
    if progress is None:
        raise InvariantBroken(f"{core.id} won an election without being a member")
    progress.become_replicate()
    progress.recent_active = True
    # There may be a membership change anywhere in the uncommitted tail; looking for it is not worth the trouble.
    core.pending_conf_index = core.log.last_index()
    core.append_entries([Entry()])
    core.trace(f"became leader at term {core.term}")


def handle_vote_request(core: Core, message: Message) -> None:
    """Grant or refuse a vote or pre-vote. A learner votes too: it may be a voter and not know it yet."""
    is_pre_vote = message.type is MessageType.MSG_PRE_VOTE
    can_vote = (
        core.vote == message.from_
        or (core.vote == NONE and core.lead == NONE)
        or (is_pre_vote and message.term > core.term)
    )
    granted = can_vote and core.log.is_up_to_date(index=message.index, term=message.log_term)
    if core.config.trace is not None:
        core.trace(f"{'grants' if granted else 'refuses'} {message.type.name} to {message.from_} at term {core.term}")
    if not granted:
        core.send(_refusal(core, message))
        return
    # The answer carries the request's term: for a pre-vote that is not this node's own.
    core.send(Message(_RESPONSE[message.type], to=message.from_, term=message.term))
    if not is_pre_vote:
        core.election_elapsed = 0
        core.vote = message.from_


def _refusal(core: Core, message: Message) -> Message:
    refusal = Message(_RESPONSE[message.type], to=message.from_, term=core.term, reject=True)
    if core.config.commit_in_votes:
        refusal.commit = core.log.committed
        refusal.log_term = core.log.term_or_zero(core.log.committed)
    return refusal


def _learn_commit(core: Core, message: Message) -> bool:
    """Take a refusal's commit index if this log has that entry; True when a membership change must be applied first.

    A candidate that does not know that a change is committed may ask the wrong majority for ever.
    """
    if not message.commit or not core.log.maybe_commit(index=message.commit, term=message.log_term):
        return False
    return _has_unapplied_conf_change(core)


def handle_vote_response(core: Core, message: Message) -> None:
    """Count a vote of the ballot under way; answers of the other kind of ballot are old."""
    is_pre_vote = core.role is Role.PRE_CANDIDATE
    if message.type is not (MessageType.MSG_PRE_VOTE_RESP if is_pre_vote else MessageType.MSG_VOTE_RESP):
        return
    if message.reject and _learn_commit(core, message):
        core.become_follower(core.term, NONE)
        return
    core.tracker.record_vote(message.from_, granted=not message.reject)
    result = core.tracker.vote_result()
    if result is VoteResult.WON:
        if is_pre_vote:
            _campaign(core, CampaignKind.ELECTION)
        else:
            become_leader(core)
            broadcast_append(core)
    elif result is VoteResult.LOST:
        # The answer's term may be a pre-vote's future one: stay in the present term.
        core.become_follower(core.term, NONE)


def drop_proposal(core: Core, _message: Message) -> None:
    """Nobody leads while this node campaigns. Raises ProposalDropped."""
    core.trace(f"drops a proposal at term {core.term}: no leader")
    raise ProposalDropped
