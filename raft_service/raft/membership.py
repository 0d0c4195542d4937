"""Taking configurations into force: at start, from a snapshot, or by an applied membership change."""

from __future__ import annotations

from . import confchange
from .core import Core
from .messages import NONE, ConfChange, ConfState, HardState, Role
from .progress import Progress
from .reading import release_pending_reads
from .sending import broadcast_append, maybe_send_append
from .tracker import MemberConfig, ProgressTracker


def start(core: Core) -> None:
    """Bring a new `Core` to its stored state, as a follower. Raises InvariantBroken when the stored parts disagree."""
    hard_state, conf_state = core.log.storage.initial_state()
    restore_config(core, conf_state)
    if hard_state != HardState():
        core.load(hard_state)
    if core.config.applied > 0:
        # What was applied was committed, even if the stored commit index, which need not be synced, is older.
        core.log.commit_to(core.config.applied)
        core.log.applied_to(core.config.applied, 0)
    core.become_follower(core.term, NONE)


def restore_config(core: Core, conf_state: ConfState) -> None:
    """Forget the present configuration and take a stored one."""
    core.tracker = ProgressTracker(
        max_inflight_messages=core.config.max_inflight_msgs, max_inflight_bytes=core.config.max_inflight_bytes
    )
    config, progress = confchange.restore(core.tracker, core.log.last_index(), conf_state)
    switch(core, config, progress)


def apply_conf_change(core: Core, change: ConfChange) -> ConfState:
    """Take a committed membership change into force. Raises ConfChangeRefused."""
    config, progress = confchange.change(core.tracker, core.log.last_index(), change)
    return switch(core, config, progress)


def switch(core: Core, config: MemberConfig, progress: dict[int, Progress]) -> ConfState:
    """Put a configuration into force and act on it as leader."""
    core.tracker.switch(config, progress)
    core.trace(f"switched to configuration {config}")
    conf_state = config.conf_state()
    if core.role is not Role.LEADER:
        return conf_state
    own = core.own_progress()
    if own is None or own.is_learner:
        # Removed or demoted: the others elect a member. Without stepping down it leads, without counting itself.
        if core.config.step_down_on_removal:
            core.become_follower(core.term, NONE)
        return conf_state
    if not conf_state.voters:
        return conf_state
    if core.maybe_commit():
        # A smaller quorum may have all it needs.
        release_pending_reads(core)
        broadcast_append(core)
    else:
        for node_id, _ in core.tracker.others(core.id):
            # New members need not wait for the next heartbeat or proposal.
            maybe_send_append(core, node_id, is_empty_welcome=False)
    if core.lead_transferee != NONE and core.lead_transferee not in config.voters.ids():
        core.lead_transferee = NONE
    return conf_state
