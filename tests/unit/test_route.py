"""Where a client goes next when a node does not serve."""

from __future__ import annotations

import pytest

from raft_service.rpc import route
from raft_service.rpc.errors import ControlPlaneUnavailable
from raft_service.rpc.route import Route


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(route.time, "monotonic", lambda: now[0])
    return now


def test_no_endpoint_is_a_sentence() -> None:
    with pytest.raises(ControlPlaneUnavailable, match="set ORCHESTRATOR_ADDR"):
        Route([])


def test_a_redirect_is_followed_at_once() -> None:
    chosen = Route(["a:1", "b:1", "c:1"])
    assert chosen.failed("does not lead", is_redirected=True, leader="c:1") == 0
    assert chosen.address == "c:1"


def test_a_leader_outside_the_list_is_followed_too() -> None:
    chosen = Route(["a:1"])
    chosen.failed("does not lead", is_redirected=True, leader="new:1")
    assert chosen.address == "new:1"
    chosen.failed("refused")
    assert chosen.address == "a:1"


def test_a_dead_leader_is_passed_over_though_others_still_name_it(clock: list[float]) -> None:
    chosen = Route(["a:1", "b:1", "c:1"])
    chosen.failed("refused")
    assert chosen.address == "b:1"
    chosen.failed("does not lead", is_redirected=True, leader="a:1")
    assert chosen.address == "c:1"
    chosen.failed("does not lead", is_redirected=True, leader="a:1")
    assert chosen.address == "b:1"
    clock[0] += route.SUSPECT_S
    chosen.failed("does not lead", is_redirected=True, leader="a:1")
    assert chosen.address == "a:1"


def test_pauses_begin_after_a_round_and_stay_bounded() -> None:
    chosen = Route(["a:1", "b:1"])
    assert chosen.failed("refused") == 0
    pauses = [chosen.failed("refused") for _ in range(100)]
    assert 0 < pauses[0] <= route.PAUSE_MIN_S
    assert route.PAUSE_MAX_S / 2 <= pauses[-1] <= route.PAUSE_MAX_S
    chosen.succeeded()
    assert chosen.failed("refused") == 0
