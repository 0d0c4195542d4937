"""The leader's side of replication: what the followers' answers change, and what goes out because of them."""

from __future__ import annotations

from .core import Core
from .messages import NONE, Message
from .progress import Progress, ProgressState
from .reading import handle_read_ack, release_pending_reads
from .sending import broadcast_append, maybe_send_append, send_append, send_timeout_now


def handle_append_response(core: Core, message: Message, progress: Progress) -> None:
    """A follower, or this node's own disk, answered an append."""
    progress.recent_active = True
    if message.reject:
        _handle_rejection(core, message, progress)
        return
    is_probe_answer = progress.match == message.index and progress.state is ProgressState.PROBE
    if not progress.maybe_update(message.index) and not is_probe_answer:
        return
    _leave_probing(core, message, progress)
    if core.maybe_commit():
        release_pending_reads(core)
        broadcast_append(core)
    elif message.from_ != core.id and progress.can_bump_commit(core.log.committed):
        # It may not know the commit index; this arrives earlier than the next heartbeat.
        send_append(core, message.from_)
    if message.from_ != core.id:
        # The window may have room for several appends now.
        while maybe_send_append(core, message.from_, is_empty_welcome=False):
            pass
    if message.from_ == core.lead_transferee != NONE and progress.match == core.log.last_index():
        core.trace(f"sent MsgTimeoutNow to {message.from_}: it has the whole log now")
        send_timeout_now(core, message.from_)


def _handle_rejection(core: Core, message: Message, progress: Progress) -> None:
    """Find the place from which to try again.

    The follower has sent its last (index, term) with a term not above the rejected one. The leader looks for its own
    last entry at or before that index with a term not above that term: between the two, nothing can match. So each
    round skips a whole term of the follower's log or of the leader's, not one entry.
    """
    hint = message.reject_hint
    if message.log_term > 0:
        hint, _ = core.log.find_conflict_by_term(hint, message.log_term)
    if progress.maybe_decrease(rejected=message.index, hint=hint):
        core.trace(f"decreased progress of {message.from_} to [{progress}]")
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        send_append(core, message.from_)


def _leave_probing(core: Core, message: Message, progress: Progress) -> None:
    if progress.state is ProgressState.PROBE:
        progress.become_replicate()
    elif progress.state is ProgressState.REPLICATE:
        progress.inflights.free_up_to(message.index)
    elif progress.match + 1 >= core.log.first_index():
        # Whatever snapshot it applied, the log reaches it now. Probing takes the snapshot's index into account.
        core.trace(f"resumed appends to {message.from_} after a snapshot [{progress}]")
        progress.become_probe()
        progress.become_replicate()


def handle_heartbeat_response(core: Core, message: Message, progress: Progress) -> None:
    """A follower is alive: lift its pause, and send what it misses."""
    progress.recent_active = True
    progress.is_flow_paused = False
    # A follower in PROBE gets an empty append even if it has everything, to get back to REPLICATE by its answer.
    if progress.match < core.log.last_index() or progress.state is ProgressState.PROBE:
        send_append(core, message.from_)
    if message.context:
        handle_read_ack(core, message)


def handle_snapshot_status(core: Core, message: Message, progress: Progress) -> None:
    """The transport tells how sending a snapshot ended."""
    if progress.state is not ProgressState.SNAPSHOT:
        return
    if message.reject:
        # The snapshot was never applied, so probe from the last match, not from the snapshot's index.
        progress.pending_snapshot = 0
    progress.become_probe()
    core.trace(f"snapshot to {message.from_} {'failed' if message.reject else 'succeeded'} [{progress}]")
    # Wait for the follower's answer after a success, for a heartbeat's after a failure.
    progress.is_flow_paused = True


def handle_unreachable(core: Core, message: Message, progress: Progress) -> None:
    """The transport lost a connection: appends on their way are probably lost."""
    if progress.state is ProgressState.REPLICATE:
        progress.become_probe()
    core.trace(f"failed to send to {message.from_}: unreachable [{progress}]")
