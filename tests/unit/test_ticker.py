"""Lateness of the process must not count as silence of the leader."""

from __future__ import annotations

import pytest

from raft_service.ticker import Ticker


def make() -> Ticker:
    return Ticker(tick_s=0.01, stall_s=0.3, backlog_max=15, on_tick=lambda: None)


def test_ticks_follow_the_clock_without_drift() -> None:
    ticker, last = make(), 0.0
    for now in (0.012, 0.027, 0.03, 0.055):
        last = ticker._count(last, now)
    assert ticker.take() == 5
    assert ticker.take() == 0
    assert last == pytest.approx(0.05)
    assert ticker.stalls == 0


def test_backlog_stays_below_an_election_timeout() -> None:
    ticker = make()
    ticker._count(0.0, 0.29)
    assert ticker.take() == 15


def test_pause_counts_as_one_tick_and_is_told() -> None:
    ticker = make()
    assert ticker._count(0.0, 20.0) == 20.0
    assert ticker.take() == 1
    assert ticker.stalls == 1
    assert ticker.last_stall_ms == pytest.approx(19_990)
