"""Whether this node leads and may be used as the leader, and who has to be told when that changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from raft_service.config import Member
from raft_service.proposals import NotLeader, Overloaded, Proposals, ProposalUnknown, Reads
from raft_service.raft.messages import Role, SoftState

log = logging.getLogger(__name__)


class Lead:
    """Leadership as this node sees it.

    The core's role alone is not enough: a new leader is usable once it has applied an entry of its own term, for only
    then does its machine hold all that earlier leaders committed; and not while its disk is full or it stops.
    """

    def __init__(self, members: Sequence[Member], proposals: Proposals, reads: Reads) -> None:
        self.soft = SoftState()
        self.term = 0
        self.disk_full = ""  # why nothing can be written; empty: all is well
        self.is_stopping = False
        self._members = {member.node_id: member for member in members}
        self._proposals = proposals
        self._reads = reads
        self._usable_term = 0  # the term in which leadership was announced; 0: not leader
        self._callbacks: list[Callable[[bool], None]] = []

    @property
    def is_usable(self) -> bool:
        """True while proposals and reads are served."""
        return self._usable_term != 0

    @property
    def has_role(self) -> bool:
        """True while the core leads, usable or not."""
        return self.soft.role is Role.LEADER

    @property
    def leader(self) -> Member | None:
        """Who leads, as far as this node knows."""
        return self._members.get(self.soft.lead)

    def on_change(self, callback: Callable[[bool], None]) -> None:
        """Registers a callback for each change of `is_usable`."""
        self._callbacks.append(callback)

    def check(self) -> None:
        """Raises NotLeader or Overloaded when nothing is served here."""
        if self.disk_full:
            raise Overloaded(self.disk_full)
        if not self.is_usable:
            raise NotLeader(None if self.has_role else self.leader)

    def update(self, *, applied_term: int) -> None:
        """Tells everybody when leadership became usable or was lost."""
        is_usable = self.has_role and applied_term == self.term and not self.disk_full and not self.is_stopping
        usable_term = self.term if is_usable else 0
        if usable_term == self._usable_term:
            return
        if self._usable_term:
            self.lose()
        if usable_term:
            self._usable_term = usable_term
            log.info("this node leads; term=%d", self.term)
            self._call_back(is_leader=True)

    def lose(self) -> None:
        """Leadership is gone: whoever waits is told."""
        was_usable, self._usable_term = self._usable_term != 0, 0
        away = Overloaded(self.disk_full) if self.disk_full else NotLeader(None if self.has_role else self.leader)
        unknown = ProposalUnknown("Leadership was lost before the proposal was applied; it may take effect or not.")
        self._proposals.fail_all(queued=away, proposed=unknown)
        self._reads.fail_all(away)
        if was_usable:
            log.info("this node leads no more; term=%d", self.term)
            self._call_back(is_leader=False)

    def _call_back(self, *, is_leader: bool) -> None:
        for callback in self._callbacks:
            callback(is_leader)
