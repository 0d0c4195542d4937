"""Deadlines on a clock that the test turns by hand."""

from __future__ import annotations

from raft_service.scheduler.liveness import PAUSES_IN_A_ROW_MAX, Liveness

LEASE_MS = 15_000
GRACE_MS = 3_000
ALL_MS = LEASE_MS + GRACE_MS


def watching(count: int, *, now_ms: int = 0) -> Liveness:
    """A new leader at `now_ms` with workers w0, w1, ... in their first incarnation."""
    liveness = Liveness(lease_ms=LEASE_MS, grace_ms=GRACE_MS, now_ms=now_ms)
    liveness.new_leader([(f"w{n}", 1) for n in range(count)], now_ms)
    return liveness


def test_a_new_leader_gives_one_fresh_lease() -> None:
    liveness = watching(2, now_ms=100)
    assert liveness.expired(100 + ALL_MS - 1) == []
    assert liveness.expired(100 + ALL_MS) == [("w0", 1), ("w1", 1)]


def test_a_heartbeat_renews_the_lease() -> None:
    liveness = watching(2)
    liveness.heard("w0", 1, 10_000)
    assert liveness.expired(ALL_MS) == [("w1", 1)]
    assert liveness.expired(10_000 + ALL_MS) == [("w1", 1), ("w0", 1)]


def test_the_expired_are_named_until_heard_or_forgotten() -> None:
    liveness = watching(2)
    assert len(liveness.expired(ALL_MS)) == len(liveness.expired(ALL_MS)) == 2
    liveness.heard("w0", 1, ALL_MS)
    liveness.forget("w1")
    assert liveness.expired(ALL_MS) == []
    assert liveness.expired(2 * ALL_MS) == [("w0", 1)]


def test_a_forgotten_worker_can_come_back() -> None:
    liveness = watching(1)
    liveness.forget("w0")
    liveness.heard("w0", 2, 5_000)
    assert liveness.expired(ALL_MS) == []
    assert liveness.expired(5_000 + ALL_MS) == [("w0", 2)]


def test_an_older_incarnation_renews_nothing() -> None:
    liveness = watching(0)
    liveness.heard("w0", 2, 0)
    liveness.heard("w0", 1, 10_000)
    assert liveness.expired(ALL_MS) == [("w0", 2)]


def test_a_few_are_lost_without_a_second_look() -> None:
    liveness = watching(2)
    assert not liveness.needs_quorum(ALL_MS)
    assert len(liveness.expired(ALL_MS)) == 2  # all of them, but less than three
    liveness = watching(10)
    for n in range(3, 10):
        liveness.heard(f"w{n}", 1, 5_000)
    assert not liveness.needs_quorum(ALL_MS)
    assert len(liveness.expired(ALL_MS)) == 3  # not more than 30 %


def test_many_at_once_wait_for_a_quorum() -> None:
    liveness = watching(10)
    for n in range(4, 10):
        liveness.heard(f"w{n}", 1, 5_000)
    assert liveness.expired(ALL_MS) == []
    assert liveness.needs_quorum(ALL_MS)
    liveness.confirm_quorum(ALL_MS)
    assert [worker_id for worker_id, _ in liveness.expired(ALL_MS)] == ["w0", "w1", "w2", "w3"]
    assert not liveness.needs_quorum(ALL_MS)


def test_a_confirmation_does_not_cover_those_silent_later() -> None:
    liveness = watching(8)
    for n in range(4, 8):
        liveness.heard(f"w{n}", 1, 5_000)
    liveness.confirm_quorum(ALL_MS)
    later_ms = 5_000 + ALL_MS
    assert len(liveness.expired(later_ms)) == 4
    assert liveness.needs_quorum(later_ms)


def test_those_heard_meanwhile_are_not_declared() -> None:
    liveness = watching(4)
    assert liveness.needs_quorum(ALL_MS)
    liveness.heard("w0", 1, ALL_MS)
    liveness.confirm_quorum(ALL_MS)
    assert [worker_id for worker_id, _ in liveness.expired(ALL_MS)] == ["w1", "w2", "w3"]


def test_a_pause_of_the_leader_is_not_held_against_the_workers() -> None:
    liveness = watching(2)
    liveness.paused(ALL_MS + 5_000)
    assert liveness.expired(ALL_MS + 5_000) == []
    assert liveness.expired(2 * ALL_MS + 5_000) == [("w0", 1), ("w1", 1)]


def test_a_pause_takes_back_what_was_seen_silent_before() -> None:
    liveness = watching(1)
    assert liveness.expired(ALL_MS) == [("w0", 1)]
    liveness.paused(ALL_MS)
    assert liveness.expired(ALL_MS) == []
    assert liveness.expired(2 * ALL_MS) == [("w0", 1)]


def test_pauses_do_not_keep_a_dead_worker_for_ever() -> None:
    liveness = watching(1)
    now_ms = 0
    for _ in range(PAUSES_IN_A_ROW_MAX + 1):
        now_ms += ALL_MS - 1
        liveness.paused(now_ms)
    assert liveness.expired(now_ms) == []
    assert liveness.expired(now_ms + 1) == [("w0", 1)]
    liveness.heard("w0", 1, now_ms)
    liveness.paused(now_ms + ALL_MS)  # heard in between: it counts anew
    assert liveness.expired(now_ms + ALL_MS) == []


def test_a_new_leader_forgets_what_it_knew() -> None:
    liveness = watching(1)
    assert liveness.expired(ALL_MS) == [("w0", 1)]
    liveness.new_leader([("w1", 7)], ALL_MS)
    assert liveness.expired(ALL_MS) == []
    assert liveness.expired(2 * ALL_MS) == [("w1", 7)]


def test_what_the_pages_show() -> None:
    liveness = watching(1)
    assert liveness.lease_left_ms("w0", 4_000) == 11_000
    assert liveness.heartbeat_age_ms("w0", 4_000) == 4_000
    assert liveness.lease_left_ms("w0", LEASE_MS + 1) == 0
    assert liveness.lease_left_ms("w9", 0) == liveness.heartbeat_age_ms("w9", 0) == 0


def test_a_clock_that_steps_back_expires_nobody_early_or_late() -> None:
    liveness = watching(1, now_ms=1_000)
    liveness.heard("w0", 1, 500)
    assert liveness.expired(1_000 + ALL_MS - 1) == []
    assert liveness.expired(1_000 + ALL_MS) == [("w0", 1)]
