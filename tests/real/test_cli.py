"""The `orchestrator` command against a real control plane, and against none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator_pkg.demo.deployment import NODE_NAMES, LocalDeployment
from orchestrator_pkg.demo.processes import free_ports
from orchestrator_proto import ledger_pb2 as pb
from raft_service.rpc.client import Client

pytestmark = pytest.mark.real

PROJECT = Path(__file__).resolve().parents[2]


def run_cli(*arguments: str, address: str = "", cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
    if address:
        env["ORCHESTRATOR_ADDR"] = address
    command = [sys.executable, "-m", "orchestrator_pkg.cli", *arguments]
    return subprocess.run(command, env=env | {"COLUMNS": "200"}, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    cluster = LocalDeployment(folder=tmp_path_factory.mktemp("cli"), project=PROJECT)
    try:
        for name in NODE_NAMES:
            cluster.spawn_node(name)
        for name in NODE_NAMES:
            cluster.wait_node(name)
        with Client(cluster.endpoints, name="test") as client:
            client.submit_tasks([pb.TaskSpec(task_id="run/waits", kind=pb.TASK_KIND_RUN, payload=b"{}")])
        yield ",".join(cluster.endpoints)
    finally:
        cluster.stop()


def test_status_names_the_leader(address: str) -> None:
    done = run_cli("status", address=address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("follower") == 2
    assert done.stdout.count("leader") == 1
    assert "1 queued" in done.stdout


def test_status_json_is_json(address: str) -> None:
    done = run_cli("status", "--json", address=address)
    assert {node["name"] for node in json.loads(done.stdout)} == set(NODE_NAMES)


def test_members_lists_the_voters(address: str) -> None:
    done = run_cli("members", "--json", address=address)
    assert [member["is_voter"] for member in json.loads(done.stdout)] == [True] * 3


def test_why_says_that_there_is_no_worker(address: str) -> None:
    done = run_cli("why", "run/waits", address=address)
    assert done.returncode == 0, done.stderr
    assert "is queued" in done.stdout
    assert "worker" in done.stdout.split("It waits:")[1]


def test_why_of_an_unknown_task_is_one_sentence(address: str) -> None:
    done = run_cli("why", "run/nobody", address=address)
    assert done.returncode == 1
    assert "No task 'run/nobody' is known" in done.stderr
    assert "Traceback" not in done.stderr


def test_tasks_can_be_filtered(address: str) -> None:
    assert "run/waits" in run_cli("tasks", "--state", "queued", address=address).stdout
    assert "run/waits" not in run_cli("tasks", "--state", "failed", address=address).stdout


def test_transfer_moves_the_leader(address: str) -> None:
    nodes = json.loads(run_cli("status", "--json", address=address).stdout)
    follower = next(node["name"] for node in nodes if node["role"] == "NODE_ROLE_FOLLOWER")
    done = run_cli("transfer-leader", "--to", follower, address=address)
    assert done.returncode == 0, done.stderr
    assert f"{follower} leads" in done.stdout


def test_drain_of_an_unknown_worker_is_one_sentence(address: str) -> None:
    done = run_cli("drain", "worker-nowhere", address=address)
    assert done.returncode == 1
    assert "worker-nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_answers_is_one_sentence() -> None:
    (port,) = free_ports(1)
    done = run_cli("tasks", address=f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "ORCHESTRATOR_ADDR" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_address_is_one_sentence(tmp_path: Path) -> None:
    done = run_cli("tasks", cwd=tmp_path)
    assert done.returncode == 1
    assert "No control plane is configured" in done.stderr


def test_unknown_variable_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ORCHESTRATOR_ADRR=127.0.0.1:1\n")
    done = run_cli("tasks", cwd=tmp_path)
    assert done.returncode == 1
    assert "did you mean ORCHESTRATOR_ADDR?" in done.stderr
