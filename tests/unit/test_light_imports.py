"""The control plane, the CLI and the worker's agent start without Dagster, torch, boto3; gpu_ops without all."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked by this test", name=name)
sys.meta_path.insert(0, Blocker())
import {module}
"""
HEAVY = ("dagster", "dagster_aws", "torch", "numpy", "boto3", "pyarrow", "gpu_ops")


@pytest.mark.parametrize(
    ("module", "blocked"),
    [
        ("raft_service.server", (*HEAVY, "orchestrator_pkg")),
        ("raft_service.rpc.client", (*HEAVY, "orchestrator_pkg")),
        ("orchestrator_pkg.cli", HEAVY),
        ("orchestrator_pkg.worker.agent", HEAVY),
        ("gpu_ops", ("dagster", "grpc", "google", "boto3", "pyarrow", "orchestrator_pkg", "raft_service")),
    ],
)
def test_module_starts_without(module: str, blocked: tuple[str, ...]) -> None:
    code = BLOCK.format(module=module, blocked=blocked)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
