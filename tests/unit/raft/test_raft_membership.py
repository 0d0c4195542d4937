"""Membership changes in a running cluster: one by one, through joint consensus, and of the leader itself."""

from __future__ import annotations

import pytest

from raft_service.raft.config import Config
from raft_service.raft.errors import LocalMessageRefused, PeerUnknown
from raft_service.raft.log_storage import MemoryLogStorage
from raft_service.raft.messages import Entry, EntryType, HardState, Message, MessageType, Role, initial_snapshot
from raft_service.raft.raw_node import RawNode
from raft_service.testing.conf_change_text import conf_change, encode_conf_change
from raft_service.testing.memory_network import MemoryNetwork


def config_of(network: MemoryNetwork, node_id: int) -> str:
    return str(network.node(node_id).status().config)


def test_a_learner_catches_up_then_votes() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.propose(b"x")
    network.add_empty(4)
    network.change_members(conf_change("l4"))
    network.pass_time(2)
    assert network.applied(4) == [b"x"]
    assert config_of(network, 4) == "voters=(1 2 3) learners=(4)"
    network.change_members(conf_change("v4"))
    network.pass_time(2)
    assert config_of(network, 4) == "voters=(1 2 3 4)"
    network.crash(2)
    assert network.propose(b"y")
    assert network.applied(1) == [b"x", b"y"]


def test_a_removed_follower_stays_quiet() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.change_members(conf_change("r3"))
    network.pass_time(100)
    assert config_of(network, 3) == "voters=(1 2)"
    assert network.node(3).role is Role.FOLLOWER
    assert network.leader() == 1
    assert network.node(1).term == 1


def test_a_removed_leader_steps_down_and_another_follows() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.change_members(conf_change("r1"))
    assert network.node(1).role is Role.FOLLOWER
    network.run_until(lambda: network.leader() in (2, 3), ticks_max=60)
    assert network.propose(b"x")
    assert network.applied(2) == [b"x"]


def test_a_removed_leader_may_lead_on_but_takes_no_proposals() -> None:
    network = MemoryNetwork(size=3, step_down_on_removal=False)
    network.elect(1)
    network.change_members(conf_change("r1"))
    assert network.node(1).role is Role.LEADER
    assert not network.propose(b"x", via=1)


def test_all_voters_replaced_at_once_leave_the_joint_configuration_by_themselves() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.propose(b"x")
    for node_id in (4, 5, 6):
        network.add_empty(node_id)
    network.change_members(conf_change("v4 v5 v6 r1 r2 r3"))
    network.run_until(lambda: network.leader() in (4, 5, 6))
    network.pass_time(2)
    assert {config_of(network, node_id) for node_id in (4, 5, 6)} == {"voters=(4 5 6)"}
    for node_id in (1, 2, 3):
        network.crash(node_id)
    assert network.propose(b"y")
    assert network.applied(network.leader()) == [b"x", b"y"]


def test_a_joint_configuration_needs_both_majorities() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    for node_id in (4, 5):
        network.add_empty(node_id)
    network.change_members(conf_change("v4 v5 r2 r3", "explicit"))
    network.pass_time(2)
    assert config_of(network, 1) == "voters=(1 4 5)&&(1 2 3)"
    network.crash(2)
    network.crash(3)
    commit = network.node(1).status().commit
    network.propose(b"x")
    assert network.node(1).status().commit == commit
    network.restart(3)
    network.pass_time(3)
    assert network.node(1).status().commit > commit
    network.change_members(conf_change(""))
    network.pass_time(2)
    assert config_of(network, 1) == "voters=(1 4 5)"


def test_one_change_at_a_time() -> None:
    """The second change is replaced by an empty entry: the first is not applied yet."""
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.add_empty(4)
    network.add_empty(5)
    node = network.node(1)
    for words in ("v4", "v5"):
        change = conf_change(words)
        node.propose_conf_change(change, f"2|auto|{words}".encode())
    network.settle()
    assert config_of(network, 1) == "voters=(1 2 3 4)"


def test_a_refused_proposal_does_not_block_later_changes() -> None:
    network = MemoryNetwork(size=3, max_uncommitted_bytes=20)
    network.elect(1)
    network.isolate(1)
    network.propose(b"x" * 30)
    assert not network.change_members(conf_change("l4"))
    network.heal()
    network.pass_time(2)
    network.change_members(conf_change("l4"))
    assert config_of(network, 1) == "voters=(1 2 3) learners=(4)"


def test_a_change_and_its_data_belong_together() -> None:
    node = MemoryNetwork(size=1).node(1)
    with pytest.raises(ValueError, match="encoded data"):
        node.propose_conf_change(conf_change("v2"), b"")
    with pytest.raises(ValueError, match="encoded data"):
        node.propose_conf_change(conf_change(""), b"x")


def test_no_campaign_before_a_committed_change_is_applied() -> None:
    """It would campaign with a configuration that is not in force any more."""
    storage = MemoryLogStorage()
    storage.apply_snapshot(initial_snapshot((1, 2)))
    change = conf_change("v3")
    storage.append([Entry(1, 2, EntryType.CONF_CHANGE, encode_conf_change(change))])
    storage.set_hard_state(HardState(term=1, commit=2))
    node = RawNode(Config(id=1, randrange=lambda _: 0), storage)
    node.campaign()
    assert node.role is Role.FOLLOWER
    assert node.ready().committed_entries
    node.apply_conf_change(change)
    node.advance()
    node.campaign()
    assert node.role is Role.PRE_CANDIDATE


def test_strangers_and_local_messages_are_refused() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    with pytest.raises(PeerUnknown):
        network.node(1).step(Message(MessageType.MSG_APP_RESP, to=1, from_=9, term=1, index=1))
    with pytest.raises(LocalMessageRefused):
        network.node(1).step(Message(MessageType.MSG_HUP, to=1, from_=2))
