"""What `pip install` gives: the wheel has the stubs, and the base alone runs a control-plane node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from orchestrator_pkg.demo.processes import ManagedProcess, free_ports

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PROJECT = Path(__file__).resolve().parents[2]
# What the base must not bring.
HEAVY = ("dagster", "torch", "boto3", "numpy", "pyarrow")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks, so that nothing generated here helps."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=PROJECT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (PROJECT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((PROJECT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(tree)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_has_the_stubs_and_the_page(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for proto in ("raft", "worker", "task", "ledger", "admin"):
        assert f"orchestrator_proto/{proto}_pb2.py" in names
        assert f"orchestrator_proto/{proto}_pb2_grpc.py" in names
        assert f"orchestrator_proto/{proto}_pb2.pyi" in names
    assert "raft_service/debug_page.html" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_base_runs_a_node(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "-c", str(PROJECT / "constraints.txt"), str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    listed = subprocess.run([str(python), "-m", "pip", "list", "--format=json"], capture_output=True, check=True)
    installed = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert not installed & set(HEAVY)
    (port,) = free_ports(1)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAFT_", "ORCHESTRATOR_"))}
    env |= {
        "RAFT_NODE_NAME": "cp-aws-1",
        "RAFT_PEERS": f"cp-aws-1=127.0.0.1:{port}",
        "RAFT_DATA_DIR": str(tmp_path / "data"),
        "METRICS_PORT": "0",
        "DEBUG_HTTP_PORT": "0",
    }
    node = ManagedProcess(
        name="node",
        command=[str(python), "-m", "raft_service"],
        env=env,
        cwd=tmp_path,
        log_dir=tmp_path,
        is_announcing=True,
    )
    try:
        assert node.wait_ready()["address"] == f"127.0.0.1:{port}"
        status = [str(python), "-m", "orchestrator_pkg.cli", "status", "--address", f"127.0.0.1:{port}"]
        deadline = time.monotonic() + 30
        while True:  # a node that is alone elects itself after one election timeout
            shown = subprocess.run(status, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
            if shown.returncode == 0:
                break
            assert time.monotonic() < deadline, shown.stderr
        assert "leader" in shown.stdout
    finally:
        node.request_stop()
        assert node.wait_stopped() == 0
