"""A bad setting of a worker is answered with one sentence that names the value and the cure."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator_pkg.config import ConfigError, WorkerSettings, load
from orchestrator_pkg.worker.agent import WorkerAgent
from orchestrator_pkg.worker.capacity import capacity_of
from orchestrator_pkg.worker.command import worker_command


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the caller's shell and no .env file."""
    import os

    for name in list(os.environ):
        if name.startswith(("WORKER_", "ORCHESTRATOR_", "METRICS_", "DEBUG_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"WORKER_RUN_SLOTS": "0", "WORKER_STEP_SLOTS": "0"}, ["both 0", "needs a slot"]),
        ({"WORKER_RUN_SLOTS": "-1"}, ["WORKER_RUN_SLOTS", "-1"]),
        ({"WORKER_STEP_SLOTS": "many"}, ["WORKER_STEP_SLOTS", "many"]),
        ({"WORKER_LABELS": "zone"}, ["WORKER_LABELS", "'zone'", "key=value"]),
        ({"WORKER_POOLS": "licence=two"}, ["WORKER_POOLS", "licence", "'two'"]),
        ({"WORKER_GPUS": "-2"}, ["WORKER_GPUS", "-2"]),
        ({"WORKER_CANCEL_GRACE_S": "-1"}, ["WORKER_CANCEL_GRACE_S", "-1"]),
        ({"WORKER_HEARTBEAT_MISS_LIMIT": "1"}, ["WORKER_HEARTBEAT_MISS_LIMIT", "1"]),
        ({"WORKER_STEP_SLOT": "2"}, ["WORKER_STEP_SLOT", "WORKER_STEP_SLOTS"]),
        ({"METRICS_PORT": "70000"}, ["METRICS_PORT", "70000"]),
    ],
)
def test_a_bad_value_is_one_sentence(env: dict[str, str], words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load(WorkerSettings)
    message = str(caught.value)
    assert "\n" not in message
    assert not [word for word in words if word not in message], message


def test_the_command_says_it_and_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_ADDR", "127.0.0.1:1")
    monkeypatch.setenv("WORKER_LABELS", "zone")
    result = CliRunner().invoke(worker_command, [])
    assert result.exit_code == 2
    assert "key=value" in result.output
    assert "Traceback" not in result.output


def test_without_a_control_plane_the_command_names_the_variable() -> None:
    result = CliRunner().invoke(worker_command, [])
    assert result.exit_code == 2
    assert "ORCHESTRATOR_ADDR" in result.output


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ["--address", "127.0.0.1:1", "--metrics-port", "-1", "--debug-http-port", port]
        result = CliRunner().invoke(worker_command, arguments)
    assert result.exit_code == 2
    assert port in result.output
    assert "DEBUG_HTTP_PORT" in result.output


def test_options_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_STEP_SLOTS", "5")
    assert load(WorkerSettings, step_slots=3).step_slots == 3
    assert load(WorkerSettings, step_slots=None).step_slots == 5


def test_the_default_name_is_host_and_pid() -> None:
    import os

    agent = WorkerAgent(load(WorkerSettings), endpoints=["127.0.0.1:1"])
    assert agent.worker_id == f"{socket.gethostname()}-{os.getpid()}"


def test_capacity_takes_settings_at_their_word() -> None:
    settings = load(WorkerSettings, run_slots=3, step_slots=4, gpus=0, memory_bytes=5_000, pools="licence=2,disk=1")
    capacity = capacity_of(settings)
    assert (capacity.run_slots, capacity.step_slots, capacity.gpus, capacity.memory_bytes) == (3, 4, 0, 5_000)
    assert dict(capacity.pools) == {"licence": 2, "disk": 1}


def test_memory_is_the_machines_by_default() -> None:
    assert capacity_of(load(WorkerSettings, gpus=0)).memory_bytes > 100_000_000
