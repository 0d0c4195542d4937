"""Leadership: handing it over, and giving it up without a quorum (dissertation 3.10, 6.2)."""

from __future__ import annotations

from raft_service.raft.messages import MessageType, Role
from raft_service.testing.memory_network import MemoryNetwork


def test_transfer_to_an_up_to_date_member_is_immediate() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.pass_time(1)
    network.node(1).transfer_leader(2)
    network.settle()
    assert network.leaders() == [2]
    assert network.node(2).term == 2


def test_transfer_first_brings_the_member_up_to_date() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.isolate(3)
    network.propose(b"x")
    network.heal()
    network.node(1).transfer_leader(3)
    network.pass_time(2)
    assert network.leaders() == [3]
    assert network.applied(3) == [b"x"]


def test_a_follower_passes_the_wish_on() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.node(2).transfer_leader(3)
    network.settle()
    assert network.leaders() == [3]


def test_proposals_wait_while_leadership_moves_and_a_failed_transfer_ends() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.isolate(3)
    network.node(1).transfer_leader(3)
    assert not network.propose(b"x")
    assert network.node(1).status().lead_transferee == 3
    network.pass_time(10)
    assert network.propose(b"x")
    assert network.leader() == 1


def test_learners_and_the_leader_itself_are_no_targets() -> None:
    network = MemoryNetwork(size=3, learners=[3])
    network.elect(1)
    network.node(1).transfer_leader(3)
    network.node(1).transfer_leader(1)
    network.node(1).transfer_leader(9)
    network.settle()
    assert network.leaders() == [1]
    assert network.propose(b"x")


def test_a_second_wish_replaces_the_first() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.isolate(3)
    network.node(1).transfer_leader(3)
    network.settle()
    network.node(1).transfer_leader(2)
    network.settle()
    assert network.leaders() == [2]


def test_a_leader_without_a_quorum_steps_down() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.isolate(1)
    network.pass_time(25)
    assert network.node(1).role is not Role.LEADER


def test_without_the_check_it_leads_on() -> None:
    network = MemoryNetwork(size=3, check_quorum=False)
    network.elect(1)
    network.isolate(1)
    network.pass_time(25)
    assert network.node(1).role is Role.LEADER


def test_one_live_follower_of_two_is_enough() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.crash(3)
    network.pass_time(50)
    assert network.leader() == 1
    assert network.node(1).term == 1


def test_a_leader_that_nobody_answers_is_replaced() -> None:
    """Its heartbeats arrive, answers do not: without the quorum check it would block the cluster for ever."""
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.cut(2, 1)
    network.cut(3, 1)
    network.run_until(lambda: network.leader() in (2, 3), ticks_max=100)


def test_heartbeats_go_out_every_heartbeat_tick() -> None:
    network = MemoryNetwork(size=2, heartbeat_tick=3)
    network.elect(1)
    beats: list[int] = []
    network.drop_if = lambda message: (
        message.type is MessageType.MSG_HEARTBEAT and beats.append(network.now) is not None
    )
    network.pass_time(9)
    assert beats == [3, 6, 9]
