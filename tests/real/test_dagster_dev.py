"""`dagster dev` in the checkout: what the UI's button does ends well, with a cluster and without one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator_pkg.demo.deployment import NODE_NAMES, LocalDeployment, wait_for_http
from orchestrator_pkg.demo.graphql import DagsterWeb
from orchestrator_pkg.demo.processes import ManagedProcess, free_ports

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PROJECT = Path(__file__).resolve().parents[2]
WAIT_S = 120.0


def wait_for_end(web: DagsterWeb, run_id: str) -> str:
    deadline = time.monotonic() + WAIT_S
    while (status := web.run_status(run_id)) not in ("SUCCESS", "FAILURE", "CANCELED"):
        assert time.monotonic() < deadline, f"run {run_id} is still {status}"
        time.sleep(0.2)
    return status


def materialize_by_ui(cluster: LocalDeployment, env: dict[str, str]) -> str:
    """Starts `dagster dev`, presses the button of the lineitem job, returns the run's end."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "dagster", "dev", "-h", "127.0.0.1", "-p", str(port)]
    dev = ManagedProcess(name="dagster-dev", command=command, env=env, cwd=PROJECT, log_dir=cluster.folder / "logs")
    web = DagsterWeb(f"http://127.0.0.1:{port}")
    try:
        wait_for_http(f"{web.url}/server_info", dev)
        assert web.location()[0] == "definitions"
        return wait_for_end(web, web.launch_job("lineitem"))
    finally:
        dev.send(signal.SIGINT)
        dev.wait_stopped(30)


@pytest.fixture
def cluster(tmp_path: Path) -> LocalDeployment:
    own = {"SF": "0.01", "STORE_DIR": str(tmp_path / "store"), "DATA_DIR": str(tmp_path / "data")}
    return LocalDeployment(folder=tmp_path, project=PROJECT, extra_env=own)


def test_without_a_cluster(cluster: LocalDeployment) -> None:
    env = cluster.environment()
    del env["DAGSTER_HOME"], env["ORCHESTRATOR_ADDR"]
    assert materialize_by_ui(cluster, env) == "SUCCESS"


def test_with_a_cluster(cluster: LocalDeployment) -> None:
    # As a person does: the project's own dagster.yaml in a Dagster home that all machines share.
    (cluster.dagster_home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    try:
        for name in NODE_NAMES:
            cluster.spawn_node(name)
        cluster.spawn_worker("worker-aws-1", cloud="aws")
        for name in NODE_NAMES:
            cluster.wait_node(name)
        cluster.wait_worker("worker-aws-1")
        assert materialize_by_ui(cluster, cluster.environment()) == "SUCCESS"
    finally:
        cluster.stop()
    assert not (cluster.dagster_home / "orchestrator").exists(), (
        "an embedded control plane was started beside the cluster"
    )


@pytest.mark.parametrize("group", ["lineitem", "matrices"])
def test_the_command_line_needs_no_server(cluster: LocalDeployment, group: str) -> None:
    env = cluster.environment()
    del env["DAGSTER_HOME"], env["ORCHESTRATOR_ADDR"]
    command = [
        sys.executable,
        "-m",
        "dagster",
        "asset",
        "materialize",
        "-m",
        "definitions",
        "--select",
        f"group:{group}",
    ]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "RUN_SUCCESS" in done.stderr


def test_a_control_plane_that_does_not_answer_is_one_sentence(cluster: LocalDeployment) -> None:
    (port,) = free_ports(1)
    env = cluster.environment(ORCHESTRATOR_ADDR=f"127.0.0.1:{port}")
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "definitions", "--select", "lineitem_raw"]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 1
    assert f"No control plane answered at 127.0.0.1:{port}" in done.stderr
    assert "correct ORCHESTRATOR_ADDR" in done.stderr
    # Dagster prints the frames that an error came through: its own and one of ours.
    assert done.stderr.count('  File "') <= 3
    assert not (cluster.folder / "store").exists(), "something was written although nothing ran"
