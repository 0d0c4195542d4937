"""What the leader sends: appends, heartbeats, snapshots, the order to campaign."""

from __future__ import annotations

from .core import Core
from .errors import LogCompacted, LogUnavailable, SnapshotUnavailable
from .messages import Entry, Message, MessageType, payload_bytes
from .progress import Progress, ProgressState


def send_append(core: Core, to: int) -> None:
    """Send an append, empty if there is nothing new, unless the follower is paused."""
    maybe_send_append(core, to, is_empty_welcome=True)


def maybe_send_append(core: Core, to: int, *, is_empty_welcome: bool) -> bool:
    """Send an append, or a snapshot where the log is compacted; returns whether something was sent.

    `is_empty_welcome` tells whether an append without entries is worth sending, for its commit index or as a probe.
    """
    progress = core.tracker.progress[to]
    if progress.is_paused():
        return False
    prev_index = progress.next - 1
    log = core.log
    try:
        prev_term = log.term(prev_index)
    except (LogCompacted, LogUnavailable):
        # What the follower needs is gone from the log.
        return _maybe_send_snapshot(core, to, progress)
    entries: list[Entry] = []
    # With a full window an empty append still goes out: had all appends in it been lost, nobody would ever answer.
    if progress.state is not ProgressState.REPLICATE or not progress.inflights.is_full():
        try:
            entries = log.entries(progress.next, core.config.max_size_per_msg)
        except LogCompacted:
            # As above: compacted right up to its next entry.
            return _maybe_send_snapshot(core, to, progress)
    if not entries and not is_empty_welcome:
        return False
    core.send(
        Message(
            MessageType.MSG_APP,
            to=to,
            index=prev_index,
            log_term=prev_term,
            entries=entries,
            commit=log.committed,
        )
    )
    progress.sent_entries(count=len(entries), size=payload_bytes(entries))
    progress.sent_commit = log.committed
    return True


def _maybe_send_snapshot(core: Core, to: int, progress: Progress) -> bool:
    if not progress.recent_active:
        core.trace(f"sends no snapshot to {to}: it was not heard from recently")
        return False
    try:
        snapshot = core.log.snapshot()
    except SnapshotUnavailable:
        # One is being made; the next heartbeat's answer leads here again.
        core.trace(f"has no snapshot for {to} yet")
        return False
    index = snapshot.metadata.index
    progress.become_snapshot(index)
    core.trace(f"sent snapshot {index} of term {snapshot.metadata.term} to {to} [{progress}]")
    core.send(Message(MessageType.MSG_SNAP, to=to, snapshot=snapshot))
    return True


def broadcast_append(core: Core) -> None:
    """Send an append to every other member."""
    for node_id, _ in core.tracker.others(core.id):
        send_append(core, node_id)


def broadcast_heartbeat(core: Core, context: bytes | None = None) -> None:
    """Send a heartbeat to every other member, with the youngest waiting read's identity unless one is given."""
    if context is None:
        context = core.read_only.last_context()
    for node_id, progress in core.tracker.others(core.id):
        # Never beyond what the follower is known to have: its tail may differ from the leader's.
        commit = min(progress.match, core.log.committed)
        core.send(Message(MessageType.MSG_HEARTBEAT, to=node_id, commit=commit, context=context))
        progress.sent_commit = commit


def send_timeout_now(core: Core, to: int) -> None:
    """Tell a follower to campaign at once."""
    core.send(Message(MessageType.MSG_TIMEOUT_NOW, to=to))
