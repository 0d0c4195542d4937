"""Membership changes as pure functions: a configuration and its progress in, the changed pair out, nothing mutated.

Two ways (Ongaro's dissertation, chapter 4). A *simple* change alters at most one voter, so the old and the new
majorities overlap. Any other change goes through a *joint* configuration, in which both the outgoing and the incoming
majority must agree: `enter_joint`, later `leave_joint`. A voter that becomes a learner during a joint change still
votes in the outgoing half, so it waits in `learners_next` until the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .errors import ConfChangeRefused, InvariantBroken
from .messages import NONE, ConfChange, ConfChangeSingle, ConfChangeType, ConfState
from .progress import Progress
from .quorum import JointVoters
from .tracker import MemberConfig, ProgressTracker

Changed = tuple[MemberConfig, dict[int, Progress]]


@dataclass(slots=True)
class _Draft:
    """A configuration while it is being changed."""

    incoming: set[int]
    outgoing: set[int]
    learners: set[int]
    learners_next: set[int]
    auto_leave: bool
    progress: dict[int, Progress]
    tracker: ProgressTracker = field(repr=False)
    next_index: int

    def finish(self) -> Changed:
        """The checked result."""
        config = MemberConfig(
            voters=JointVoters(frozenset(self.incoming), frozenset(self.outgoing)),
            learners=frozenset(self.learners),
            learners_next=frozenset(self.learners_next),
            auto_leave=self.auto_leave,
        )
        check_invariants(config, self.progress)
        return config, self.progress

    def apply(self, changes: Iterable[ConfChangeSingle]) -> None:
        """Apply changes one after another to the incoming half."""
        for change in changes:
            # The application may zero an id out to veto one change of several.
            if change.node_id != NONE:
                _ACTIONS[change.type](self, change.node_id)
        if not self.incoming:
            raise ConfChangeRefused("removed all voters")

    def make_voter(self, node_id: int) -> None:
        progress = self.progress.get(node_id)
        if progress is None:
            self._add(node_id, is_learner=False)
            return
        progress.is_learner = False
        self.learners.discard(node_id)
        self.learners_next.discard(node_id)
        self.incoming.add(node_id)

    def make_learner(self, node_id: int) -> None:
        progress = self.progress.get(node_id)
        if progress is None:
            self._add(node_id, is_learner=True)
            return
        if progress.is_learner:
            return
        self.remove(node_id)
        self.progress[node_id] = progress
        if node_id in self.outgoing:
            self.learners_next.add(node_id)
        else:
            progress.is_learner = True
            self.learners.add(node_id)

    def remove(self, node_id: int) -> None:
        if node_id not in self.progress:
            return
        self.incoming.discard(node_id)
        self.learners.discard(node_id)
        self.learners_next.discard(node_id)
        if node_id not in self.outgoing:
            del self.progress[node_id]

    def update(self, node_id: int) -> None:
        """A new address of a member changes nothing that the core knows."""

    def _add(self, node_id: int, *, is_learner: bool) -> None:
        (self.learners if is_learner else self.incoming).add(node_id)
        progress = Progress(next_index=self.next_index, inflights=self.tracker.new_inflights(), is_learner=is_learner)
        # Counted as heard from, or a quorum check right after the change would depose the leader.
        progress.recent_active = True
        self.progress[node_id] = progress


_ACTIONS = {
    ConfChangeType.ADD_NODE: _Draft.make_voter,
    ConfChangeType.REMOVE_NODE: _Draft.remove,
    ConfChangeType.UPDATE_NODE: _Draft.update,
    ConfChangeType.ADD_LEARNER_NODE: _Draft.make_learner,
}


def _draft(tracker: ProgressTracker, last_index: int) -> _Draft:
    config = tracker.config
    check_invariants(config, tracker.progress)
    return _Draft(
        incoming=set(config.voters.incoming),
        outgoing=set(config.voters.outgoing),
        learners=set(config.learners),
        learners_next=set(config.learners_next),
        auto_leave=config.auto_leave,
        progress={node_id: progress.copy() for node_id, progress in tracker.progress.items()},
        tracker=tracker,
        # A new member is probed at the end of the log; an empty one rejects that and gets a snapshot.
        next_index=max(last_index, 1),
    )


def simple(tracker: ProgressTracker, last_index: int, changes: Iterable[ConfChangeSingle]) -> Changed:
    """Change at most one voter in one step. Raises ConfChangeRefused."""
    if tracker.config.voters.is_joint:
        raise ConfChangeRefused("can't apply simple config change in joint config")
    draft = _draft(tracker, last_index)
    draft.apply(changes)
    if len(tracker.config.voters.incoming ^ draft.incoming) > 1:
        raise ConfChangeRefused("more than one voter changed without entering joint config")
    return draft.finish()


def enter_joint(
    tracker: ProgressTracker, last_index: int, changes: Iterable[ConfChangeSingle], *, auto_leave: bool
) -> Changed:
    """Start a joint change: the present voters become the outgoing half. Raises ConfChangeRefused."""
    if tracker.config.voters.is_joint:
        raise ConfChangeRefused("config is already joint")
    if not tracker.config.voters.incoming:
        raise ConfChangeRefused("can't make a zero-voter config joint")
    draft = _draft(tracker, last_index)
    draft.outgoing = set(draft.incoming)
    draft.apply(changes)
    draft.auto_leave = auto_leave
    return draft.finish()


def leave_joint(tracker: ProgressTracker, last_index: int) -> Changed:
    """End a joint change: the outgoing half goes, demoted voters become learners. Raises ConfChangeRefused."""
    if not tracker.config.voters.is_joint:
        raise ConfChangeRefused("can't leave a non-joint config")
    draft = _draft(tracker, last_index)
    for node_id in draft.learners_next:
        draft.progress[node_id].is_learner = True
    draft.learners |= draft.learners_next
    draft.learners_next = set()
    for node_id in draft.outgoing - draft.incoming - draft.learners:
        del draft.progress[node_id]
    draft.outgoing = set()
    draft.auto_leave = False
    return draft.finish()


def change(tracker: ProgressTracker, last_index: int, conf_change: ConfChange) -> Changed:
    """Apply a committed change the way it asks for. Raises ConfChangeRefused."""
    if conf_change.leaves_joint:
        return leave_joint(tracker, last_index)
    if conf_change.enters_joint:
        return enter_joint(tracker, last_index, conf_change.changes, auto_leave=conf_change.auto_leave)
    return simple(tracker, last_index, conf_change.changes)


def restore(tracker: ProgressTracker, last_index: int, conf_state: ConfState) -> Changed:
    """The configuration that a snapshot describes, built on an empty tracker. Raises InvariantBroken."""
    draft = _draft(tracker, last_index)
    draft.incoming = set(conf_state.voters)
    draft.outgoing = set(conf_state.voters_outgoing)
    draft.learners = set(conf_state.learners)
    draft.learners_next = set(conf_state.learners_next)
    draft.auto_leave = conf_state.auto_leave
    for node_id in sorted(draft.incoming | draft.outgoing | draft.learners):
        progress = Progress(
            next_index=draft.next_index,
            inflights=tracker.new_inflights(),
            is_learner=node_id in draft.learners,
        )
        progress.recent_active = True
        draft.progress[node_id] = progress
    return draft.finish()


def check_invariants(config: MemberConfig, progress: dict[int, Progress]) -> None:
    """Raises InvariantBroken with the first rule of MemberConfig that does not hold."""
    voters = config.voters
    for node_id in voters.ids() | config.learners | config.learners_next:
        if node_id not in progress:
            raise InvariantBroken(f"no progress for {node_id}")
    for node_id in config.learners_next:
        if node_id not in voters.outgoing:
            raise InvariantBroken(f"{node_id} is in learners_next, but not among the outgoing voters")
        if progress[node_id].is_learner:
            raise InvariantBroken(f"{node_id} is in learners_next, but is already marked as learner")
    for node_id in config.learners:
        if node_id in voters.outgoing or node_id in voters.incoming:
            raise InvariantBroken(f"{node_id} is a learner and a voter")
        if not progress[node_id].is_learner:
            raise InvariantBroken(f"{node_id} is a learner, but is not marked as one")
    if not voters.is_joint and (config.learners_next or config.auto_leave):
        raise InvariantBroken("learners_next and auto_leave have a meaning only in a joint configuration")
