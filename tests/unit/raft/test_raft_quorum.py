"""Majorities and joint majorities, against definitions that are slow and obvious."""

from __future__ import annotations

from itertools import product

import pytest

from raft_service.raft.quorum import (
    EVERYTHING,
    JointVoters,
    VoteResult,
    majority_committed_index,
    majority_vote_result,
)


def slow_committed(voters: set[int], acked: dict[int, int]) -> int:
    """The largest index that more than half of the voters have, tried one by one."""
    candidates = sorted({acked.get(voter, 0) for voter in voters} | {0}, reverse=True)
    return next(i for i in candidates if 2 * sum(acked.get(voter, 0) >= i for voter in voters) > len(voters))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_committed_index_is_what_a_majority_has(count: int) -> None:
    voters = set(range(1, count + 1))
    for indexes in product(range(3), repeat=count):
        acked = dict(zip(voters, indexes, strict=True))
        assert majority_committed_index(voters, acked.__getitem__) == slow_committed(voters, acked)


def test_an_empty_majority_holds_nothing_back() -> None:
    assert majority_committed_index((), lambda _: 0) == EVERYTHING
    assert majority_vote_result((), {}) is VoteResult.WON


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_vote_is_decided_as_soon_as_it_can_be(count: int) -> None:
    voters = set(range(count))
    for votes in product([True, False, None], repeat=count):
        yes, no = votes.count(True), votes.count(False)
        known = {voter: vote for voter, vote in zip(voters, votes, strict=True) if vote is not None}
        result = majority_vote_result(voters, known)
        if 2 * yes > count:
            assert result is VoteResult.WON
        elif 2 * (count - no) <= count:
            assert result is VoteResult.LOST
        else:
            assert result is VoteResult.PENDING


def test_joint_majorities_must_both_agree() -> None:
    joint = JointVoters(frozenset({1, 2, 3}), frozenset({3, 4, 5}))
    acked = {1: 9, 2: 9, 3: 5, 4: 4, 5: 2}
    assert joint.committed_index(acked.__getitem__) == 4
    assert joint.vote_result({1: True, 2: True}) is VoteResult.PENDING
    assert joint.vote_result({1: True, 2: True, 4: False, 5: False}) is VoteResult.LOST
    assert joint.vote_result({1: True, 3: True, 4: True}) is VoteResult.WON
    assert str(joint) == "(1 2 3)&&(3 4 5)"


def test_outside_a_transition_only_one_half_counts() -> None:
    voters = JointVoters(frozenset({1, 2, 3}))
    assert not voters.is_joint
    assert voters.committed_index({1: 7, 2: 5, 3: 1}.__getitem__) == 5
    assert voters.vote_result({1: True, 2: True}) is VoteResult.WON
