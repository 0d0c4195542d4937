"""Safety of a Raft cluster, checked from outside while it runs (Raft paper, figure 3).

    election safety         at most one leader in a term
    log matching            two logs that agree at an index agree on everything before it
    leader completeness     a leader has every entry that was ever committed
    state machine safety    what one member applied at an index, no member ever applies otherwise

`watch` hooks into a network; call `check` after every event. Raises AssertionError with the members involved.
"""

from __future__ import annotations

from raft_service.raft.messages import Entry
from raft_service.raft.raw_node import RawNode

from .memory_network import Member, MemoryNetwork


class SafetyChecker:
    """Remembers leaders and committed entries over the whole run, crashes included."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network
        self._leader_of: dict[int, int] = {}
        self._committed: dict[int, tuple[int, bytes]] = {}
        # Term of the member that was the first to apply an index: it was committed in that term or before.
        self._term_of_commit: dict[int, int] = {}
        self._commit_seen: dict[int, tuple[RawNode, int]] = {}
        network.on_applied = self._applied

    @property
    def committed_count(self) -> int:
        """How many different entries were seen committed."""
        return len(self._committed)

    def _applied(self, node_id: int, entry: Entry) -> None:
        self._term_of_commit.setdefault(entry.index, self._network.node(node_id).term)
        known = self._committed.setdefault(entry.index, (entry.term, entry.data))
        assert known == (entry.term, entry.data), (
            f"{node_id} applied {(entry.term, entry.data)!r} at {entry.index}, but {known!r} was applied there before"
        )

    def check(self) -> None:
        """All rules, for the cluster as it stands."""
        for member in self._network.up():
            if member.raw.is_leader:
                self._check_leader(member)
            self._check_commit(member)
        self._check_log_matching()
        self._check_states()

    def _check_leader(self, member: Member) -> None:
        term, node_id = member.raw.term, member.raw.id
        known = self._leader_of.setdefault(term, node_id)
        assert known == node_id, f"{known} and {node_id} both lead term {term}"
        log = member.raw._core.log
        for index, (entry_term, _) in self._committed.items():
            # A leader of an old term, behind a partition, need not have what was committed since.
            if index >= log.first_index() and term >= self._term_of_commit[index]:
                assert index <= log.last_index(), f"leader {node_id} of term {term} lacks committed entry {index}"
                assert log.term(index) == entry_term, f"leader {node_id} of term {term} has another entry at {index}"

    def _check_commit(self, member: Member) -> None:
        node_id, commit = member.raw.id, member.raw.status().commit
        raw, seen = self._commit_seen.get(node_id, (member.raw, 0))
        # After a restart the commit index may be an older one: it is not synced by itself.
        assert raw is not member.raw or commit >= seen, f"commit index of {node_id} went back from {seen} to {commit}"
        self._commit_seen[node_id] = (member.raw, commit)

    def _check_log_matching(self) -> None:
        members = self._network.up()
        for place, first in enumerate(members):
            for second in members[place + 1 :]:
                self._check_pair(first, second)

    def _check_pair(self, first: Member, second: Member) -> None:
        one, two = first.raw._core.log, second.raw._core.log
        has_met = False
        for index in range(min(one.last_index(), two.last_index()), max(one.first_index(), two.first_index()) - 1, -1):
            is_same = one.term(index) == two.term(index)
            assert is_same or not has_met, f"{first.raw.id} and {second.raw.id} agree after {index}, but not at it"
            has_met = has_met or is_same

    def _check_states(self) -> None:
        longest = max((member.values for member in self._network.up()), key=len, default=[])
        for member in self._network.up():
            assert member.values == longest[: len(member.values)], f"{member.raw.id} applied other values"
