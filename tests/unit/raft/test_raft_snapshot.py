"""Snapshots and restarts: catching up over a compacted log, and coming back from what the disk holds."""

from __future__ import annotations

import pytest

from raft_service.raft.config import Config
from raft_service.raft.errors import InvariantBroken, SnapshotUnavailable
from raft_service.raft.log_storage import MemoryLogStorage
from raft_service.raft.messages import (
    ConfState,
    Entry,
    HardState,
    Message,
    MessageType,
    Snapshot,
    SnapshotMetadata,
    initial_snapshot,
)
from raft_service.raft.progress import ProgressState
from raft_service.raft.raw_node import RawNode
from raft_service.testing.conf_change_text import conf_change
from raft_service.testing.memory_network import MemoryNetwork


def lagging_network() -> MemoryNetwork:
    """Member 3 lacks entries that the leader has compacted."""
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.isolate(3)
    for number in range(5):
        network.propose(b"%d" % number)
    network.compact(1)
    network.heal()
    return network


def test_a_lagging_follower_gets_a_snapshot_then_entries() -> None:
    network = lagging_network()
    network.propose(b"after")
    network.pass_time(3)
    assert network.applied(3) == network.applied(1)
    assert network.node(1).status().progress[3].state is ProgressState.REPLICATE
    assert network.members[3].storage.snapshot().metadata.index == 7


def test_a_lost_snapshot_is_sent_again() -> None:
    network = lagging_network()
    lost: list[Message] = []

    def loses_the_first(message: Message) -> bool:
        if message.type is MessageType.MSG_SNAP and not lost:
            lost.append(message)
            return True
        return False

    network.drop_if = loses_the_first
    network.pass_time(5)
    assert lost
    assert network.applied(3) == network.applied(1)


def test_no_snapshot_for_a_member_that_was_not_heard_from() -> None:
    network = lagging_network()
    network.crash(3)
    sent: list[Message] = []
    network.drop_if = lambda message: message.type is MessageType.MSG_SNAP and sent.append(message) is not None
    network.pass_time(30)
    network.propose(b"x")
    assert sent == []


def test_the_core_waits_for_a_snapshot_that_is_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    network = lagging_network()

    def not_yet(_storage: MemoryLogStorage) -> Snapshot:
        raise SnapshotUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(MemoryLogStorage, "snapshot", not_yet)
        network.pass_time(3)
        assert network.applied(3) == []
    network.pass_time(3)
    assert network.applied(3) == network.applied(1)


def test_an_old_snapshot_only_tells_the_commit_index() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.propose(b"x")
    network.pass_time(1)
    before = network.node(3).status()
    old = Snapshot(SnapshotMetadata(ConfState((1, 2, 3)), 2, 1))
    network.node(3).step(Message(MessageType.MSG_SNAP, to=3, from_=1, term=1, snapshot=old))
    (answer,) = network.node(3).ready().messages
    assert (answer.type, answer.index) == (MessageType.MSG_APP_RESP, before.commit)
    assert network.node(3).status().commit == before.commit


def test_a_snapshot_that_the_log_has_moves_the_commit_index_without_restoring() -> None:
    storage = MemoryLogStorage()
    storage.apply_snapshot(initial_snapshot((1, 2)))
    storage.append([Entry(1, 2), Entry(1, 3)])
    node = RawNode(Config(id=2, randrange=lambda _: 0), storage)
    snapshot = Snapshot(SnapshotMetadata(ConfState((1, 2)), 3, 1))
    node.step(Message(MessageType.MSG_SNAP, to=2, from_=1, term=1, snapshot=snapshot))
    ready = node.ready()
    assert ready.snapshot is None
    assert [entry.index for entry in ready.committed_entries] == [2, 3]


def test_no_campaign_and_no_application_before_a_snapshot_is_applied() -> None:
    storage = MemoryLogStorage()
    node = RawNode(Config(id=2, randrange=lambda _: 0), storage)
    snapshot = Snapshot(SnapshotMetadata(ConfState((1, 2)), 5, 1))
    node.step(Message(MessageType.MSG_SNAP, to=2, from_=1, term=1, snapshot=snapshot))
    node.step(Message(MessageType.MSG_APP, to=2, from_=1, term=1, index=5, log_term=1, entries=[Entry(1, 6)], commit=6))
    node.campaign()
    ready = node.ready()
    assert ready.snapshot == snapshot
    assert ready.committed_entries == []
    assert node.lead == 1
    storage.apply_snapshot(snapshot)
    storage.append(ready.entries)
    node.advance()
    assert [entry.index for entry in node.ready().committed_entries] == [6]


def test_a_new_member_catches_up_from_a_snapshot_older_than_its_membership() -> None:
    network = MemoryNetwork(size=2)
    network.elect(1)
    network.propose(b"a")
    network.compact(1)
    network.compact(2)
    network.add_empty(3)
    network.change_members(conf_change("v3"))
    network.propose(b"b")
    network.pass_time(3)
    assert network.applied(3) == [b"a", b"b"]
    assert 3 in network.node(3).status().config.voters.ids()


@pytest.mark.parametrize("is_compacted", [False, True])
def test_a_restarted_cluster_has_everything(is_compacted: bool) -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    for number in range(3):
        network.propose(b"%d" % number)
    if is_compacted:
        network.compact(2, keep=1)
        network.propose(b"3")
    expected = list(network.applied(1))
    for node_id in network.members:
        network.crash(node_id)
    for node_id in network.members:
        network.restart(node_id)
    network.run_until_leader()
    network.pass_time(2)
    assert all(network.applied(node_id) == expected for node_id in network.members)


def test_what_was_not_synced_is_lost_and_was_never_promised() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.partition([1], [2, 3])
    network.node(1).propose(b"lost")
    network.crash(1, is_disk_behind=True)
    network.run_until_leader()
    network.propose(b"kept")
    network.heal()
    network.restart(1)
    network.pass_time(5)
    assert all(network.applied(node_id) == [b"kept"] for node_id in network.members)


def test_a_vote_survives_a_crash() -> None:
    network = MemoryNetwork(size=3, pre_vote=False)
    network.drop_if = lambda message: message.to == 3
    network.elect(1)
    network.crash(2)
    network.restart(2)
    assert (network.node(2).term, network.node(2).status().vote) == (1, 1)


def test_applied_entries_are_not_handed_out_again() -> None:
    storage = MemoryLogStorage()
    storage.apply_snapshot(initial_snapshot((1,)))
    storage.append([Entry(1, 2), Entry(1, 3), Entry(1, 4)])
    storage.set_hard_state(HardState(term=1, commit=2))
    # The state machine is ahead of the stored commit index, which need not be synced.
    node = RawNode(Config(id=1, randrange=lambda _: 0, applied=3), storage)
    assert not node.ready().committed_entries
    assert node.status().commit == 3


def test_a_log_shorter_than_what_was_committed_stops_the_node() -> None:
    storage = MemoryLogStorage()
    storage.apply_snapshot(initial_snapshot((1,)))
    storage.set_hard_state(HardState(term=1, commit=5))
    with pytest.raises(InvariantBroken, match="lost"):
        RawNode(Config(id=1, randrange=lambda _: 0), storage)
