"""Elections: terms, votes, pre-votes, stickiness, timeouts (Raft paper 5.1, 5.2, 5.4.1; dissertation 4.2.3, 9.6)."""

from __future__ import annotations

import pytest

from raft_service.raft.config import Config
from raft_service.raft.log_storage import MemoryLogStorage
from raft_service.raft.messages import Entry, HardState, Message, MessageType, Role, initial_snapshot
from raft_service.raft.raw_node import RawNode
from raft_service.testing.memory_network import MemoryNetwork


def voter(*, vote: int = 0, log_terms: tuple[int, ...] = ()) -> RawNode:
    """Node 1 of three, with a vote in term 5 or not, and a log after the initial snapshot."""
    storage = MemoryLogStorage()
    storage.apply_snapshot(initial_snapshot((1, 2, 3)))
    storage.append([Entry(term, place + 2) for place, term in enumerate(log_terms)])
    storage.set_hard_state(HardState(term=5, vote=vote, commit=1))
    return RawNode(Config(id=1, randrange=lambda _: 0), storage)


def ask(node: RawNode, *, candidate: int = 2, term: int = 5, log_term: int = 9, index: int = 9) -> Message:
    node.step(Message(MessageType.MSG_VOTE, to=1, from_=candidate, term=term, log_term=log_term, index=index))
    return node.ready().messages[-1]


def test_starts_as_follower() -> None:
    assert voter().role is Role.FOLLOWER


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_campaign_wins_and_commits_a_no_op(size: int) -> None:
    network = MemoryNetwork(size=size)
    network.elect(1)
    assert network.leaders() == [1]
    assert all(network.node(i).term == 1 and network.node(i).lead == 1 for i in network.members)
    assert network.node(1).has_committed_in_term


@pytest.mark.parametrize(("vote", "candidate", "is_granted"), [(0, 2, True), (2, 2, True), (3, 2, False)])
def test_one_vote_in_a_term(vote: int, candidate: int, is_granted: bool) -> None:
    assert ask(voter(vote=vote), candidate=candidate).reject is not is_granted


@pytest.mark.parametrize(
    ("log_term", "index", "is_granted"), [(2, 2, False), (3, 2, False), (3, 3, True), (4, 1, True)]
)
def test_votes_only_for_a_log_that_is_at_least_as_complete(log_term: int, index: int, is_granted: bool) -> None:
    assert ask(voter(log_terms=(2, 3)), log_term=log_term, index=index).reject is not is_granted


def test_a_vote_is_durable_before_it_is_sent() -> None:
    node = voter()
    node.step(Message(MessageType.MSG_VOTE, to=1, from_=3, term=6, log_term=9, index=9))
    ready = node.ready()
    assert ready.must_sync
    assert ready.hard_state is not None
    assert (ready.hard_state.term, ready.hard_state.vote) == (6, 3)
    assert [message.type for message in ready.messages] == [MessageType.MSG_VOTE_RESP]


def test_a_candidate_counts_its_own_vote_only_when_it_is_durable() -> None:
    storage = MemoryLogStorage()
    storage.apply_snapshot(initial_snapshot((1,)))
    node = RawNode(Config(id=1, randrange=lambda _: 0, pre_vote=False), storage)
    node.campaign()
    assert node.ready().must_sync
    assert node.role is Role.CANDIDATE
    node.advance()
    assert node.role is Role.LEADER


def test_timeouts_are_spread_over_one_to_two_election_timeouts() -> None:
    network = MemoryNetwork(size=1, seed=3)
    seen = set()
    for _ in range(300):
        network.node(1)._core.become_follower(1, 0)
        seen.add(network.node(1)._core.randomized_election_timeout)
    assert seen == set(range(10, 20))


def test_a_split_vote_is_resolved_by_the_next_timeout() -> None:
    network = MemoryNetwork(size=4, pre_vote=False)
    network.node(1).campaign()
    network.node(2).campaign()
    network.partition([1, 3], [2, 4])
    network.settle()
    assert network.leaders() == []
    network.heal()
    network.run_until_leader()
    assert network.node(network.leader()).term > 1


def test_a_silent_leader_is_replaced() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.crash(1)
    network.run_until(lambda: network.leader() != 0, ticks_max=40)
    assert network.node(network.leader()).term == 2


def test_pre_vote_keeps_a_cut_off_node_from_raising_the_term() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.isolate(3)
    network.pass_time(100)
    assert network.node(3).role is Role.PRE_CANDIDATE
    network.heal()
    network.pass_time(5)
    assert network.leader() == 1
    assert {network.node(i).term for i in network.members} == {1}


def test_without_pre_vote_a_cut_off_node_comes_back_with_a_higher_term() -> None:
    network = MemoryNetwork(size=3, pre_vote=False)
    network.elect(1)
    network.isolate(3)
    network.pass_time(100)
    assert network.node(3).term > 1
    network.heal()
    network.run_until(lambda: len({network.node(i).term for i in network.members}) == 1 and network.leader() != 0)


def test_voters_that_hear_a_leader_ignore_candidates() -> None:
    network = MemoryNetwork(size=3, pre_vote=False)
    network.elect(1)
    network.pass_time(1)
    network.drop_if = lambda message: message.from_ == 1 and message.to == 3
    network.node(3).campaign()
    network.settle()
    assert network.node(3).role is Role.CANDIDATE
    assert network.node(2).term == 1
    assert network.leader() == 1


def test_a_campaign_with_pre_vote_disturbs_nobody_who_hears_the_leader() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.propose(b"x")
    network.pass_time(1)
    network.node(2).campaign()
    network.settle()
    network.pass_time(3)
    assert network.leader() == 1
    assert network.node(1).term == 1


def test_a_short_log_cannot_win() -> None:
    network = MemoryNetwork(size=3)
    network.elect(1)
    network.isolate(3)
    network.propose(b"x")
    network.heal()
    network.crash(1)
    # Past the lease, so that only the log decides.
    network.drop_if = lambda message: message.type is MessageType.MSG_HEARTBEAT
    network.node(3).campaign()
    network.settle()
    assert network.node(3).role is not Role.LEADER
    network.run_until_leader()
    assert network.leader() == 2


def test_a_learner_never_campaigns_but_votes() -> None:
    network = MemoryNetwork(size=3, learners=[3])
    network.node(3).campaign()
    network.pass_time(1)
    assert network.node(3).role is Role.FOLLOWER
    network.elect(1)
    network.propose(b"x")
    assert network.applied(3) == [b"x"]


def test_a_forgotten_leader_frees_the_vote_at_once() -> None:
    network = MemoryNetwork(size=3, pre_vote=False)
    network.elect(1)
    network.pass_time(1)
    network.crash(1)
    network.node(3).forget_leader()
    network.node(2).campaign()
    network.settle()
    assert network.leader() == 2
