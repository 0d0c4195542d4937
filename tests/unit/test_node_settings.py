"""What a node refuses at its start, and that each refusal names the values and the cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from raft_service.config import ConfigError, Member, NodeSettings, load

PEERS = "cp-1=127.0.0.1:50051,cp-2=127.0.0.1:50052,cp-3=127.0.0.1:50053"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A node's own variables, and nobody else's."""
    import os

    for name in list(os.environ):
        if name.startswith(("RAFT_", "WORKER_", "ORCHESTRATOR_", "METRICS_PORT", "DEBUG_HTTP_PORT")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAFT_NODE_NAME", "cp-2")
    monkeypatch.setenv("RAFT_PEERS", PEERS)
    monkeypatch.setenv("RAFT_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_good_settings() -> None:
    settings = load(NodeSettings)
    assert settings.me == Member(2, "cp-2", "127.0.0.1:50052")
    assert [member.node_id for member in settings.members] == [1, 2, 3]
    assert settings.bind_address == "127.0.0.1:50052"
    assert settings.worker_lease_ms == 15_000


def test_options_win_over_the_environment() -> None:
    settings = load(NodeSettings, node_name="cp-3", metrics_port=0, listen_addr=None)
    assert settings.me.node_id == 3
    assert settings.metrics_port == 0
    assert settings.bind_address == "127.0.0.1:50053"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RAFT_NODE_NAME=cp-1\nRAFT_HEARTBEAT_MS=50\n")
    settings = load(NodeSettings)
    assert (settings.node_name, settings.heartbeat_ms) == ("cp-2", 50)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"RAFT_ELECTION_TIMEOUT_MAX_MS": "300"},
            ["RAFT_ELECTION_TIMEOUT_MAX_MS=300", "RAFT_ELECTION_TIMEOUT_MIN_MS=300"],
        ),
        (
            {"RAFT_ELECTION_TIMEOUT_MIN_MS": "200"},
            ["RAFT_ELECTION_TIMEOUT_MIN_MS=200", "RAFT_HEARTBEAT_MS=150", "lower"],
        ),
        ({"RAFT_HEARTBEAT_MS": "10", "RAFT_TICK_MS": "20"}, ["RAFT_HEARTBEAT_MS=10", "RAFT_TICK_MS=20"]),
        ({"RAFT_NODE_NAME": "cp-9"}, ["'cp-9'", "cp-1, cp-2, cp-3", "correct it"]),
        ({"RAFT_PEERS": "cp-2=127.0.0.1:1,cp-2=127.0.0.1:2"}, ["names a node twice", "a name of its own"]),
        ({"RAFT_PEERS": "cp-2"}, ["'cp-2'", "name=host:port"]),
        ({"RAFT_PEERS": "cp-2=127.0.0.1:port"}, ["no valid port", "cp-aws-1:50051"]),
        ({"RAFT_PEERS": "cp-2=10.0.0.1:50051"}, ["10.0.0.1:50051 without TLS", "ORCHESTRATOR_TLS_CERT"]),
        ({"RAFT_LISTEN_ADDR": "0.0.0.0:50051"}, ["0.0.0.0:50051 without TLS", "127.0.0.1"]),
        ({"ORCHESTRATOR_TLS_CERT": "/nowhere/cert.pem"}, ["go together"]),
        (
            {f"ORCHESTRATOR_TLS_{each}": f"/nowhere/{each}" for each in ("CERT", "KEY", "CA")},
            ["/nowhere/", "cannot be read"],
        ),
        ({"RAFT_HEARTBEAT_MS": "soon"}, ["RAFT_HEARTBEAT_MS='soon'", "correct it"]),
        ({"METRICS_PORT": "70000"}, ["METRICS_PORT='70000'"]),
        ({"WORKER_HEARTBEAT_MISS_LIMIT": "1"}, ["WORKER_HEARTBEAT_MISS_LIMIT='1'"]),
        ({"RAFT_HEARTBEATS_MS": "50"}, ["RAFT_HEARTBEATS_MS", "did you mean RAFT_HEARTBEAT_MS?"]),
        ({"RAFT_COLOUR": "red"}, ["RAFT_COLOUR", "nothing reads it", "remove it"]),
    ],
)
def test_refusals(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], words: list[str]) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        load(NodeSettings)
    sentence = str(refused.value)
    assert [word for word in words if word not in sentence] == [], sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("name", ["RAFT_NODE_NAME", "RAFT_PEERS", "RAFT_DATA_DIR"])
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=f"{name} is not set; set it in the environment"):
        load(NodeSettings)


def test_a_non_loopback_address_is_fine_with_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for each in ("CERT", "KEY", "CA"):
        (tmp_path / each).write_text("pem")
        monkeypatch.setenv(f"ORCHESTRATOR_TLS_{each}", str(tmp_path / each))
    monkeypatch.setenv("RAFT_LISTEN_ADDR", "0.0.0.0:50051")
    tls = load(NodeSettings).tls
    assert tls is not None
    assert tls.ca == tmp_path / "CA"


def test_a_unix_socket_needs_no_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAFT_LISTEN_ADDR", f"unix:{tmp_path}/node.sock")
    assert load(NodeSettings).bind_address.startswith("unix:")
