"""One follower as the leader sees it, and the window of appends on their way."""

from __future__ import annotations

import pytest

from raft_service.raft.errors import InvariantBroken
from raft_service.raft.inflights import Inflights
from raft_service.raft.progress import Progress, ProgressState


def progress(*, match: int = 3, next_index: int = 5, window: int = 2, window_bytes: int = 0) -> Progress:
    return Progress(
        next_index=next_index, match=match, inflights=Inflights(max_messages=window, max_bytes=window_bytes)
    )


def test_window_in_messages() -> None:
    window = Inflights(max_messages=2)
    window.add(index=4, size=10)
    assert not window.is_full()
    window.add(index=6, size=10)
    assert window.is_full()
    with pytest.raises(InvariantBroken):
        window.add(index=7, size=1)
    window.free_up_to(5)
    assert (len(window), window.bytes) == (1, 10)
    window.free_up_to(6)
    assert (len(window), window.bytes) == (0, 0)


def test_window_in_bytes_may_be_overshot_by_one() -> None:
    window = Inflights(max_messages=9, max_bytes=10)
    window.add(index=1, size=9)
    assert not window.is_full()
    window.add(index=2, size=100)
    assert window.is_full()
    window.free_up_to(1)
    assert window.is_full()
    window.free_up_to(2)
    assert not window.is_full()


def test_probe_sends_one_append_at_a_time() -> None:
    follower = progress()
    follower.sent_entries(count=0, size=0)
    assert not follower.is_paused()
    follower.sent_entries(count=2, size=9)
    assert follower.is_paused()
    assert follower.next == 5


def test_replicate_streams_until_the_window_is_full() -> None:
    follower = progress()
    follower.become_replicate()
    assert follower.next == 4
    follower.sent_entries(count=1, size=1)
    assert not follower.is_paused()
    follower.sent_entries(count=3, size=1)
    assert (follower.next, follower.is_paused()) == (8, True)
    assert str(follower) == "StateReplicate match=3 next=8 paused inactive inflight=2[full]"


def test_nothing_is_sent_beside_a_snapshot() -> None:
    follower = progress()
    follower.become_snapshot(10)
    assert follower.is_paused()
    with pytest.raises(InvariantBroken):
        follower.sent_entries(count=1, size=1)
    follower.become_probe()
    assert (follower.state, follower.next, follower.pending_snapshot) == (ProgressState.PROBE, 11, 0)


def test_old_answers_change_nothing() -> None:
    follower = progress(match=5, next_index=9)
    assert not follower.maybe_update(5)
    assert not follower.maybe_decrease(rejected=7, hint=2)
    follower.become_replicate()
    assert not follower.maybe_decrease(rejected=5, hint=2)
    assert follower.next == 6


@pytest.mark.parametrize(("rejected", "hint", "next_index"), [(8, 6, 7), (8, 20, 8), (8, 0, 4)])
def test_rejection_goes_back_to_the_hint_but_not_behind_the_match(rejected: int, hint: int, next_index: int) -> None:
    follower = progress(match=3, next_index=9)
    assert follower.maybe_decrease(rejected=rejected, hint=hint)
    assert follower.next == next_index


def test_commit_is_worth_sending_only_if_it_can_move_the_follower() -> None:
    follower = progress(match=3, next_index=6)
    assert follower.can_bump_commit(4)
    follower.sent_commit = 5
    assert not follower.can_bump_commit(9)
    follower.sent_commit = 4
    assert not follower.can_bump_commit(4)
    assert follower.can_bump_commit(5)
