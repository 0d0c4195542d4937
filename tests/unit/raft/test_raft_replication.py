"""Replication: batching, flow control, finding where logs meet, and what may be committed (Raft paper 5.3, 5.4.2)."""

from __future__ import annotations

import pytest

from raft_service.raft.config import UNLIMITED, Config
from raft_service.raft.errors import ProposalDropped
from raft_service.raft.log_storage import MemoryLogStorage
from raft_service.raft.messages import Entry, EntryType, HardState, Message, MessageType, Role
from raft_service.raft.progress import ProgressState
from raft_service.raft.raw_node import RawNode
from raft_service.testing.memory_network import MemoryNetwork

# The logs of the paper's figure 7, by terms; the first is the leader of term 8.
LEADER = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
FIGURE_7 = {
    "a: one entry behind": (1, 1, 1, 4, 4, 5, 5, 6, 6),
    "b: far behind": (1, 1, 1, 4),
    "c: one uncommitted entry of the same term": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
    "d: uncommitted entries of a later term": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
    "e: lacks entries and has others": (1, 1, 1, 4, 4, 4, 4),
    "f: led twice without committing": (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
}


def network_with_logs(logs: dict[int, tuple[int, ...]], **settings: int | bool) -> MemoryNetwork:
    """A cluster whose members hold these terms after the initial snapshot (index 1), nothing committed."""
    network = MemoryNetwork(size=len(logs), **settings)
    for node_id, terms in logs.items():
        member = network.members[node_id]
        member.storage.append([Entry(term, place + 2, data=b"%d" % term) for place, term in enumerate(terms)])
        member.synced = HardState(term=max(terms, default=1), commit=1)
        network.crash(node_id)
        network.restart(node_id)
    return network


def log_terms(network: MemoryNetwork, node_id: int) -> list[int]:
    return [entry.term for entry in network.node(node_id)._core.log.entries(2, UNLIMITED)]


@pytest.mark.parametrize("case", FIGURE_7)
@pytest.mark.parametrize("max_size_per_msg", [1, UNLIMITED])
def test_figure_7_a_leader_makes_any_log_like_its_own(case: str, max_size_per_msg: int) -> None:
    network = network_with_logs(
        {1: LEADER, 2: FIGURE_7[case], 3: ()}, pre_vote=False, max_size_per_msg=max_size_per_msg
    )
    network.node(1)._core.term = 7
    network.elect(1)
    assert log_terms(network, 1) == [*LEADER, 8]
    assert log_terms(network, 2) == [*LEADER, 8]
    assert log_terms(network, 3) == [*LEADER, 8]
    network.pass_time(2)
    assert network.applied(2) == network.applied(1)


def test_hints_skip_whole_terms() -> None:
    """Follower f of figure 7 differs in eight entries of two terms; a probe per entry would take nine rounds."""
    network = network_with_logs({1: LEADER, 2: FIGURE_7["f: led twice without committing"], 3: LEADER}, pre_vote=False)
    network.node(1)._core.term = 7
    rejections: list[Message] = []
    network.drop_if = lambda message: message.reject and message.from_ == 2 and rejections.append(message) is not None
    network.elect(1)
    assert len(rejections) == 1
    assert (rejections[0].reject_hint, rejections[0].log_term) == (11, 3)


def test_figure_8_an_old_entry_is_not_committed_by_counting() -> None:
    """An entry of term 2 on a majority may still be replaced; only an entry of the leader's own term commits it."""
    network = network_with_logs({1: (2,), 2: (2,), 3: (), 4: (), 5: ()}, pre_vote=False)
    network.node(1)._core.term = 3
    network.drop_if = lambda message: bool(message.entries) and message.entries[-1].term == 4
    network.elect(1)
    assert network.node(1).term == 4
    # The old entry alone reaches two others: a majority acknowledges it.
    core = network.node(1)._core
    for node_id in (2, 3):
        old = core.log.slice(2, 3, UNLIMITED)
        network.node(node_id).step(
            Message(MessageType.MSG_APP, to=node_id, from_=1, term=4, index=1, log_term=1, entries=old)
        )
    network.settle()
    assert core.tracker.committed() == 2
    assert network.node(1).status().commit == 1
    network.drop_if = None
    network.pass_time(2)
    assert network.node(1).status().commit == 3
    assert network.applied(1) == [b"2"]


def test_several_datas_of_one_proposal_share_an_append() -> None:
    network = MemoryNetwork(size=2)
    network.elect(1)
    network.node(1).propose(b"a", b"b", b"c")
    appends = [message for message in network.node(1).ready().messages if message.type is MessageType.MSG_APP]
    assert [[entry.data for entry in message.entries] for message in appends] == [[b"a", b"b", b"c"]]


def test_followers_pass_proposals_on() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    assert network.propose(b"x", via=3)
    network.pass_time(1)
    assert all(network.applied(i) == [b"x"] for i in network.members)


def test_without_a_leader_proposals_are_dropped() -> None:
    network = MemoryNetwork(size=3)
    with pytest.raises(ProposalDropped):
        network.node(1).propose(b"x")
    network.node(1).campaign()
    with pytest.raises(ProposalDropped):
        network.node(1).propose(b"x")
    with pytest.raises(ValueError, match="at least one"):
        network.node(1).propose()


def test_forwarding_can_be_off() -> None:
    network = MemoryNetwork(size=3, disable_proposal_forwarding=True)
    network.elect(1)
    assert not network.propose(b"x", via=2)
    assert network.propose(b"x", via=1)


def test_too_many_uncommitted_bytes_are_refused_until_they_commit() -> None:
    network = MemoryNetwork(size=3, max_uncommitted_bytes=10)
    network.elect(1)
    network.isolate(1)
    # The first is admitted whatever its size, or it could never be proposed.
    assert network.propose(b"x" * 20)
    assert not network.propose(b"y")
    network.heal()
    network.pass_time(2)
    assert network.propose(b"y")


def test_the_window_bounds_what_is_on_its_way() -> None:
    network = MemoryNetwork(size=2, max_inflight_msgs=2)
    network.elect(1)
    network.drop_if = lambda message: message.to == 2
    for _ in range(5):
        network.propose(b"x")
    follower = network.node(1).status().progress[2]
    assert (len(follower.inflights), follower.next - follower.match) == (2, 3)
    assert follower.is_paused()
    network.drop_if = None
    network.pass_time(3)
    assert network.applied(2) == [b"x"] * 5


def test_the_window_bounds_bytes_too() -> None:
    network = MemoryNetwork(size=2, max_inflight_bytes=1000, max_size_per_msg=1000)
    network.elect(1)
    network.drop_if = lambda message: message.to == 2
    for _ in range(5):
        network.propose(b"x" * 400)
    assert network.node(1).status().progress[2].inflights.bytes == 1200


def test_large_backlogs_go_in_messages_of_limited_size() -> None:
    network = MemoryNetwork(size=3, max_size_per_msg=100)
    network.elect(1)
    network.isolate(3)
    for number in range(20):
        network.propose(b"%30d" % number)
    sizes: list[int] = []
    network.heal()
    network.drop_if = lambda message: message.to == 3 and sizes.append(len(message.entries)) is not None
    network.pass_time(2)
    assert network.applied(3) == network.applied(1)
    assert max(sizes) == 2


def test_unreachable_falls_back_to_probing() -> None:
    network = MemoryNetwork(size=2)
    network.elect(1)
    network.node(1).report_unreachable(2)
    assert network.node(1).status().progress[2].state is ProgressState.PROBE
    network.pass_time(1)
    assert network.node(1).status().progress[2].state is ProgressState.REPLICATE


def test_a_leader_acknowledges_itself_only_after_its_disk_did() -> None:
    network = MemoryNetwork(size=2)
    network.elect(1)
    node = network.node(1)
    node.propose(b"x")
    ready = node.ready()
    assert ready.must_sync
    assert [message.type for message in ready.messages] == [MessageType.MSG_APP]
    assert node._core.tracker.progress[1].match == ready.entries[-1].index - 1
    node.advance()
    assert node._core.tracker.progress[1].match == ready.entries[-1].index


def test_a_new_commit_index_is_sent_at_once_in_an_empty_append() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    sent: list[Message] = []
    network.drop_if = lambda message: message.type is MessageType.MSG_APP and sent.append(message) is not None
    network.propose(b"x")
    assert [(message.to, len(message.entries), message.commit) for message in sent] == [
        (2, 1, 2),
        (3, 1, 2),
        (2, 0, 3),
        (3, 0, 3),
    ]
    assert network.applied(2) == network.applied(3) == [b"x"]


def test_a_late_append_of_an_old_leader_is_answered_with_the_new_term() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.crash(1)
    network.run_until_leader()
    follower = network.node(5 - network.leader())
    follower.step(Message(MessageType.MSG_APP, to=follower.id, from_=1, term=1, index=1, log_term=1))
    (answer,) = follower.ready().messages
    assert (answer.type, answer.to, answer.term) == (MessageType.MSG_APP_RESP, 1, 2)


def test_ready_holds_entries_that_are_new_and_committed_at_once() -> None:
    """A follower may learn an entry and its commit in one append; it writes first, then applies."""
    storage = MemoryLogStorage()
    node = RawNode(Config(id=2, randrange=lambda _: 0), storage)
    node.step(
        Message(MessageType.MSG_APP, to=2, from_=1, term=1, entries=[Entry(1, 1, EntryType.NORMAL, b"x")], commit=1)
    )
    ready = node.ready()
    assert ready.entries == ready.committed_entries != []
    assert node.role is Role.FOLLOWER
