"""Membership changes as pure functions."""

from __future__ import annotations

import random

import pytest

from raft_service.raft import confchange
from raft_service.raft.errors import ConfChangeRefused
from raft_service.raft.messages import ConfState
from raft_service.raft.tracker import ProgressTracker
from raft_service.testing.conf_change_text import conf_change, decode_conf_change, encode_conf_change, parse_changes


def tracker_with(words: str) -> ProgressTracker:
    tracker = ProgressTracker(max_inflight_messages=10, max_inflight_bytes=0)
    for word in words.split():
        tracker.switch(*confchange.simple(tracker, 5, parse_changes(word)))
    return tracker


def test_simple_changes_one_voter_and_any_learners() -> None:
    tracker = tracker_with("v1 v2")
    tracker.switch(*confchange.simple(tracker, 7, parse_changes("v3 l4 l5")))
    assert str(tracker.config) == "voters=(1 2 3) learners=(4 5)"
    assert list(tracker.progress) == [1, 2, 3, 4, 5]
    assert tracker.progress[4].is_learner
    assert tracker.progress[4].next == 7
    assert tracker.progress[4].recent_active


@pytest.mark.parametrize(
    ("words", "reason"),
    [("v3 v4", "more than one voter"), ("r1 v3", "more than one voter"), ("r1 r2", "removed all voters")],
)
def test_simple_refuses(words: str, reason: str) -> None:
    with pytest.raises(ConfChangeRefused, match=reason):
        confchange.simple(tracker_with("v1 v2"), 5, parse_changes(words))


def test_a_refused_change_changes_nothing() -> None:
    tracker = tracker_with("v1 v2 v3")
    with pytest.raises(ConfChangeRefused):
        confchange.simple(tracker, 5, parse_changes("l2 r3"))
    assert str(tracker.config) == "voters=(1 2 3)"
    assert not tracker.progress[2].is_learner


def test_a_demoted_voter_waits_for_the_end_of_the_joint_configuration() -> None:
    tracker = tracker_with("v1 v2 v3")
    tracker.switch(*confchange.enter_joint(tracker, 5, parse_changes("l2 r3 v4"), auto_leave=True))
    assert str(tracker.config) == "voters=(1 4)&&(1 2 3) learners_next=(2) autoleave"
    assert not tracker.progress[2].is_learner
    assert 3 in tracker.progress
    tracker.switch(*confchange.leave_joint(tracker, 5))
    assert str(tracker.config) == "voters=(1 4) learners=(2)"
    assert tracker.progress[2].is_learner
    assert 3 not in tracker.progress


def test_joint_configurations_do_not_nest() -> None:
    tracker = tracker_with("v1 v2")
    with pytest.raises(ConfChangeRefused, match="non-joint"):
        confchange.leave_joint(tracker, 5)
    tracker.switch(*confchange.enter_joint(tracker, 5, parse_changes("v3"), auto_leave=False))
    with pytest.raises(ConfChangeRefused, match="already joint"):
        confchange.enter_joint(tracker, 5, (), auto_leave=False)
    with pytest.raises(ConfChangeRefused, match="in joint config"):
        confchange.simple(tracker, 5, parse_changes("v4"))


def test_node_zero_vetoes_a_change() -> None:
    tracker = tracker_with("v1")
    tracker.switch(*confchange.simple(tracker, 5, parse_changes("v0 r0 l0 u1")))
    assert str(tracker.config) == "voters=(1)"


@pytest.mark.parametrize("seed", range(30))
def test_restore_gives_back_what_was_saved(seed: int) -> None:
    rng = random.Random(seed)
    tracker = tracker_with("v1 v2 v3")
    for _ in range(10):
        words = " ".join(rng.choice("vlr") + str(rng.randint(1, 6)) for _ in range(rng.randint(0, 3)))
        change = conf_change(words, rng.choice(["auto", "implicit", "explicit"]) if words else "auto")
        try:
            tracker.switch(*confchange.change(tracker, 9, change))
        except ConfChangeRefused:
            continue
        saved = tracker.config.conf_state()
        empty = ProgressTracker(max_inflight_messages=10, max_inflight_bytes=0)
        config, progress = confchange.restore(empty, 9, saved)
        assert config == tracker.config
        assert set(progress) == set(tracker.progress)
        assert {i for i in progress if progress[i].is_learner} == set(saved.learners)


def test_conf_state_is_sorted() -> None:
    assert tracker_with("v3 v1 l2").config.conf_state() == ConfState(voters=(1, 3), learners=(2,))


@pytest.mark.parametrize(("words", "transition"), [("v1 l2 r3 u4", "explicit"), ("v9", "auto"), ("", "auto")])
def test_text_form_is_reversible(words: str, transition: str) -> None:
    change = conf_change(words, transition)
    assert decode_conf_change(encode_conf_change(change)) == change
