"""The arithmetic of the lease: every period begins when it must, whatever order acknowledgements come in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_pkg.worker.lease import NS_PER_MS, Lease, LeaseState, deadlines

SECOND = 1_000 * NS_PER_MS


def test_without_acknowledgement_there_is_no_lease() -> None:
    lease = Lease()
    assert lease.state(0) is LeaseState.NONE
    assert lease.next_change_ns(0) is None
    assert lease.age_ns(0) is None


@pytest.mark.parametrize(
    ("at_s", "state"),
    [
        (100, LeaseState.HELD),
        (109.9, LeaseState.HELD),
        (110, LeaseState.ENDING),
        (113.9, LeaseState.ENDING),
        (114, LeaseState.OVER),
        (115, LeaseState.OVER),
        (10_000, LeaseState.OVER),
    ],
)
def test_periods_of_the_default_lease(at_s: float, state: LeaseState) -> None:
    """15 s: take work for 10 s, run until 14 s, then freeze."""
    lease = Lease()
    lease.acknowledged(sent_at_ns=100 * SECOND, lease_ms=15_000)
    assert lease.state(int(at_s * SECOND)) is state


def test_the_margin_of_a_short_lease_is_a_tenth() -> None:
    assert deadlines(sent_at_ns=0, lease_ms=600).freeze_ns == 540 * NS_PER_MS


def test_a_late_answer_to_an_early_heartbeat_changes_nothing() -> None:
    lease = Lease()
    assert lease.acknowledged(sent_at_ns=50 * SECOND, lease_ms=15_000)
    assert not lease.acknowledged(sent_at_ns=40 * SECOND, lease_ms=60_000)
    assert lease.deadlines == deadlines(sent_at_ns=50 * SECOND, lease_ms=15_000)


def test_an_answer_later_than_its_lease_renews_nothing() -> None:
    lease = Lease()
    lease.acknowledged(sent_at_ns=0, lease_ms=15_000)
    assert lease.state(20 * SECOND) is LeaseState.OVER


def test_a_leader_may_shorten_the_lease() -> None:
    lease = Lease()
    lease.acknowledged(sent_at_ns=0, lease_ms=60_000)
    lease.acknowledged(sent_at_ns=SECOND, lease_ms=3_000)
    assert lease.deadlines is not None
    assert lease.deadlines.end_ns == 4 * SECOND


def test_a_lost_lease_is_none() -> None:
    lease = Lease()
    lease.acknowledged(sent_at_ns=5, lease_ms=15_000)
    lease.lost()
    assert lease.state(6) is LeaseState.NONE
    assert lease.acknowledged(sent_at_ns=1, lease_ms=15_000), "a new incarnation starts afresh"


@given(sent_at_ns=st.integers(0, 10**18), lease_ms=st.integers(1, 10**7))
def test_periods_follow_each_other_and_end_before_the_lease(sent_at_ns: int, lease_ms: int) -> None:
    found = deadlines(sent_at_ns=sent_at_ns, lease_ms=lease_ms)
    assert sent_at_ns < found.taking_ns < found.freeze_ns < found.end_ns
    assert found.end_ns == sent_at_ns + lease_ms * NS_PER_MS


@given(
    acknowledged=st.lists(st.tuples(st.integers(0, 10**12), st.integers(1, 10**5)), min_size=1),
    at=st.integers(0, 10**13),
)
def test_the_next_change_is_when_the_state_changes(acknowledged: list[tuple[int, int]], at: int) -> None:
    lease = Lease()
    for sent_at_ns, lease_ms in acknowledged:
        lease.acknowledged(sent_at_ns=sent_at_ns, lease_ms=lease_ms)
    change_ns = lease.next_change_ns(at)
    if change_ns is None:
        assert lease.state(at) is LeaseState.OVER
    else:
        assert change_ns > at
        assert lease.state(change_ns - 1) is lease.state(at) is not lease.state(change_ns)
