"""ReadIndex: a read sees everything committed before it was asked for (dissertation 6.4)."""

from __future__ import annotations

import pytest

from raft_service.raft.messages import Message, MessageType, ReadState
from raft_service.testing.memory_network import MemoryNetwork


def test_a_leader_confirms_with_a_quorum() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.propose(b"x")
    commit = network.node(1).status().commit
    network.node(1).read_index(b"r1")
    assert network.members[1].reads == []
    network.settle()
    assert network.members[1].reads == [ReadState(commit, b"r1")]


def test_a_follower_asks_the_leader() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.node(3).read_index(b"r1")
    network.settle()
    assert network.members[3].reads == [ReadState(network.node(1).status().commit, b"r1")]


def test_a_deposed_leader_confirms_nothing() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.partition([1], [2, 3])
    network.node(1).read_index(b"r1")
    network.run_until(lambda: network.leader() in (2, 3))
    network.propose(b"x", via=network.leader())
    network.heal()
    network.pass_time(20)
    assert network.members[1].reads == []


def test_a_new_leader_waits_for_its_first_commit() -> None:
    """Before it, the leader's commit index may be older than what former leaders answered to clients."""
    network = MemoryNetwork(size=3)
    network.elect(2)
    network.pass_time(1)
    network.node(2).transfer_leader(1)
    network.drop_if = lambda message: message.type is MessageType.MSG_APP and message.term == 2
    network.settle()
    assert network.leader() == 1
    network.node(1).read_index(b"r1")
    network.settle()
    assert network.members[1].reads == []
    network.drop_if = None
    network.pass_time(2)
    (read,) = network.members[1].reads
    assert read.index >= 2


def test_a_single_member_answers_at_once() -> None:
    network = MemoryNetwork(size=1)
    network.elect(1)
    network.node(1).read_index(b"r1")
    assert network.node(1).ready().read_states == [ReadState(2, b"r1")]


def test_a_later_confirmation_covers_the_earlier_reads() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    answers: list[Message] = []

    def loses_first_answers(message: Message) -> bool:
        is_first = message.type is MessageType.MSG_HEARTBEAT_RESP and message.context == b"r1"
        answers.append(message)
        return is_first

    network.drop_if = loses_first_answers
    network.node(1).read_index(b"r1")
    network.node(1).read_index(b"r2")
    network.settle()
    assert [read.request_ctx for read in network.members[1].reads] == [b"r1", b"r2"]


def test_a_lost_round_is_repeated_by_the_next_heartbeat() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.drop_if = lambda message: message.type is MessageType.MSG_HEARTBEAT
    network.node(1).read_index(b"r1")
    network.settle()
    assert network.members[1].reads == []
    network.drop_if = None
    network.pass_time(1)
    assert [read.request_ctx for read in network.members[1].reads] == [b"r1"]


def test_a_learner_does_not_confirm_reads() -> None:
    network = MemoryNetwork(size=3, learners=[3])
    network.elect(1)
    network.isolate(2)
    network.node(1).read_index(b"r1")
    network.settle()
    assert network.members[1].reads == []


def test_a_read_needs_an_identity() -> None:
    with pytest.raises(ValueError, match="identity"):
        MemoryNetwork(size=1).node(1).read_index(b"")
