"""Runners of the scenario files for the pure parts: quorums and membership changes."""

from __future__ import annotations

from raft_scenario_file import Command

from raft_service.raft import confchange
from raft_service.raft.errors import ConfChangeRefused
from raft_service.raft.quorum import EVERYTHING, JointVoters, majority_committed_index, majority_vote_result
from raft_service.raft.tracker import ProgressTracker
from raft_service.testing.conf_change_text import parse_changes


def run_quorum(command: Command) -> str:
    """`committed` and `vote` on a majority (`cfg`) or a joint pair (`cfg`, `cfgj`; `cfgj=zero` is an empty half)."""
    incoming = list(dict.fromkeys(map(int, command.values("cfg"))))
    is_joint = command.has("cfgj")
    joint_words = [word for word in command.values("cfgj") if word != "zero"]
    outgoing = list(dict.fromkeys(map(int, joint_words)))
    voters = JointVoters(frozenset(incoming), frozenset(outgoing))
    ids = list(dict.fromkeys(incoming + outgoing))
    if command.name == "vote":
        votes = {
            node_id: word == "y" for node_id, word in zip(ids, command.values("votes"), strict=True) if word != "_"
        }
        result = voters.vote_result(votes) if is_joint else majority_vote_result(incoming, votes)
        return result.value
    acked = {node_id: int(word) for node_id, word in zip(ids, command.values("idx"), strict=True) if word != "_"}

    def index_of(node_id: int) -> int:
        return acked.get(node_id, 0)

    index = voters.committed_index(index_of) if is_joint else majority_committed_index(incoming, index_of)
    return _committed_table(ids, acked, incoming, outgoing) + ("∞" if index == EVERYTHING else str(index))


def _committed_table(ids: list[int], acked: dict[int, int], incoming: list[int], outgoing: list[int]) -> str:
    """A bar for each voter: the longer, the more of the others it has passed."""
    if not ids:
        return "<empty majority quorum>"
    count = len(ids)
    order = sorted(ids, key=lambda node_id: (acked.get(node_id, 0), node_id))
    bars: dict[int, int] = {}
    for place, node_id in enumerate(order):
        is_new = place > 0 and acked.get(order[place - 1], 0) < acked.get(node_id, 0)
        bars[node_id] = place if is_new or place == 0 else bars[order[place - 1]]
    lines = [" " * count + "    idx"]
    for node_id in sorted(ids):
        passed = bars[node_id]
        bar = "x" * passed + ">" + " " * (count - passed) if node_id in acked else "?" + " " * count
        lines.append(f"{bar} {acked.get(node_id, 0):5d}    (id={node_id})")
    return "\n".join(lines) + "\n"


class ConfChangeRunner:
    """`simple`, `enter-joint` and `leave-joint`, one after another on the same configuration."""

    def __init__(self) -> None:
        self._tracker = ProgressTracker(max_inflight_messages=10, max_inflight_bytes=0)
        self._last_index = 0

    def handle(self, command: Command) -> str:
        changes = parse_changes(command.input)
        last_index = self._last_index
        # Members of later commands are recognised by their next index.
        self._last_index += 1
        try:
            if command.name == "simple":
                changed = confchange.simple(self._tracker, last_index, changes)
            elif command.name == "enter-joint":
                auto_leave = command.one("autoleave") == "true"
                changed = confchange.enter_joint(self._tracker, last_index, changes, auto_leave=auto_leave)
            elif command.name == "leave-joint":
                changed = confchange.leave_joint(self._tracker, last_index)
            else:
                return f"unknown command {command.name}"
        except ConfChangeRefused as error:
            return str(error)
        self._tracker.switch(*changed)
        lines = [str(self._tracker.config)]
        lines += [f"{node_id}: {progress}" for node_id, progress in self._tracker.progress.items()]
        return "\n".join(lines)
