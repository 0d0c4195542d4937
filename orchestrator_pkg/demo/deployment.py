"""A whole cluster on loopback: control-plane nodes, workers, an S3 server and Dagster's webserver, all processes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator_pkg.config import StoreSettings, load
from orchestrator_pkg.demo.processes import READY_TIMEOUT_S, ManagedProcess, StartFailed, free_ports

NODE_NAMES = ("cp-aws-1", "cp-aws-2", "cp-gcp-1")
WORKER_CLOUDS = {"worker-aws-1": "aws", "worker-gcp-1": "gcp"}
# Variables of ours that a local cluster sets itself, so that the caller's shell does not leak into it.
OWN_PREFIXES = (
    "RAFT_",
    "WORKER_",
    "ORCHESTRATOR_",
    "MINIO_",
    "STORE_",
    "METRICS_PORT",
    "DEBUG_HTTP_PORT",
    "DAGSTER_",
)

DAGSTER_YAML = """\
# Written for a local cluster. Runs go to the control plane at once, without Dagster's queue, which needs its daemon;
# SQLite serves, since all processes share this disk.
run_launcher:
  module: orchestrator_pkg
  class: OrchestratorRunLauncher
run_coordinator:
  module: dagster._core.run_coordinator
  class: DefaultRunCoordinator
telemetry:
  enabled: false
"""


@dataclass(slots=True)
class Node:
    """One control-plane node as configured and, while it runs, its process."""

    name: str
    port: int
    process: ManagedProcess | None = None

    @property
    def address(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self.port}"


@dataclass(slots=True)
class LocalDeployment:
    """Starts and stops the processes of a local cluster below one folder.

    Args:
        folder: where data, logs and Dagster's home go.
        project: folder that holds definitions.py.
        definitions: module with the Dagster definitions.
        step_slots: step slots of each worker.
        extra_env: variables for all processes, winning over the defaults here.
    """

    folder: Path
    project: Path
    definitions: str = "definitions"
    step_slots: int = 1
    extra_env: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    workers: dict[str, ManagedProcess] = field(default_factory=dict)
    store: ManagedProcess | None = None
    webserver: ManagedProcess | None = None
    daemon: ManagedProcess | None = None
    store_env: dict[str, str] = field(default_factory=dict)
    web_url: str = ""

    def __post_init__(self) -> None:
        for each in (self.folder / "logs", self.dagster_home):
            each.mkdir(parents=True, exist_ok=True)
        (self.dagster_home / "dagster.yaml").write_text(DAGSTER_YAML)
        for name, port in zip(NODE_NAMES, free_ports(len(NODE_NAMES)), strict=True):
            self.nodes[name] = Node(name, port)

    @property
    def dagster_home(self) -> Path:
        """DAGSTER_HOME of all processes."""
        return self.folder / "dagster_home"

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Addresses of all nodes."""
        return tuple(node.address for node in self.nodes.values())

    def environment(self, **more: str) -> dict[str, str]:
        """The caller's environment without our variables, then those that all processes here share, then more."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(OWN_PREFIXES)}
        env |= {
            "DAGSTER_HOME": str(self.dagster_home),
            "ORCHESTRATOR_ADDR": ",".join(self.endpoints),
            "METRICS_PORT": "0",
            "DEBUG_HTTP_PORT": "0",
            "PYTHONUNBUFFERED": "1",
            # Several processes share few cores: one thread each is faster than many that wait for each other.
            "OMP_NUM_THREADS": "1",
        }
        return env | self.store_env | self.extra_env | more

    def _spawn(self, name: str, command: Sequence[str], *, is_announcing: bool = False, **env: str) -> ManagedProcess:
        return ManagedProcess(
            name=name,
            command=[sys.executable, *command],
            env=self.environment(**env),
            cwd=self.project,
            log_dir=self.folder / "logs",
            is_announcing=is_announcing,
        )

    # -------------------------------------------------------------------------------------------- object store

    def start_store(self) -> str:
        """Starts moto's S3 server unless the settings name an endpoint; creates the bucket; says what it uses."""
        settings = load(StoreSettings)
        if settings.is_s3:
            self.store_env = {name: os.environ[name] for name in os.environ if name.startswith("MINIO_")}
            said = f"S3 server at {settings.endpoint}, bucket {settings.bucket} (from your settings)"
        else:
            (port,) = free_ports(1)
            self.store_env = {"MINIO_ENDPOINT": f"http://127.0.0.1:{port}", "MINIO_BUCKET": settings.bucket}
            self.store = self._spawn("s3-moto", ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])
            wait_for_http(f"http://127.0.0.1:{port}/moto-api/", self.store)
            said = (
                f"moto's S3 server at 127.0.0.1:{port}: a stand-in that keeps blocks in memory and checks no password"
            )
        self._ensure_bucket()
        return said

    def _ensure_bucket(self) -> None:
        from orchestrator_pkg.store import ensure_bucket

        ensure_bucket(self.store_settings())

    def store_settings(self) -> StoreSettings:
        """Settings of the object store that the processes here use."""
        env = self.environment()
        return load(
            StoreSettings,
            endpoint=env.get("MINIO_ENDPOINT"),
            bucket=env.get("MINIO_BUCKET"),
            access_key=env.get("MINIO_ROOT_USER"),
            secret_key=env.get("MINIO_ROOT_PASSWORD"),
        )

    # -------------------------------------------------------------------------------------------- control plane

    def spawn_node(self, name: str) -> None:
        """Starts a node (again) on its data; await it with wait_node."""
        node = self.nodes[name]
        node.process = self._spawn(
            name,
            ["-m", "raft_service"],
            is_announcing=True,
            RAFT_NODE_NAME=name,
            RAFT_PEERS=",".join(f"{each.name}={each.address}" for each in self.nodes.values()),
            RAFT_DATA_DIR=str(self.folder / "nodes" / name),
        )

    def wait_node(self, name: str) -> None:
        """Waits until the node serves."""
        process = self.nodes[name].process
        assert process is not None
        process.wait_ready()

    # -------------------------------------------------------------------------------------------- workers

    def spawn_worker(self, name: str, *, cloud: str) -> None:
        """Starts a worker; await it with wait_worker."""
        self.workers[name] = self._spawn(
            name,
            ["-m", "orchestrator_pkg.worker.agent"],
            is_announcing=True,
            WORKER_NAME=name,
            WORKER_CLOUD_TAG=cloud,
            WORKER_STEP_SLOTS=str(self.step_slots),
            WORKER_RUN_SLOTS="2",
            WORKER_PRELOAD=f"dagster,{self.definitions}",
            WORKER_CANCEL_GRACE_S="5",
        )

    def wait_worker(self, name: str) -> None:
        """Waits until the worker is registered."""
        self.workers[name].wait_ready()

    # -------------------------------------------------------------------------------------------- Dagster

    def spawn_webserver(self) -> None:
        """Starts Dagster's webserver on the definitions; await it with wait_webserver."""
        (port,) = free_ports(1)
        self.web_url = f"http://127.0.0.1:{port}"
        command = ["-m", "dagster_webserver", "-m", self.definitions, "-h", "127.0.0.1", "-p", str(port)]
        self.webserver = self._spawn("dagster-webserver", command)

    def wait_webserver(self) -> None:
        """Waits until the webserver answers."""
        assert self.webserver is not None
        wait_for_http(f"{self.web_url}/server_info", self.webserver)

    def spawn_daemon(self) -> None:
        """Starts Dagster's daemon, for schedules and sensors."""
        self.daemon = self._spawn("dagster-daemon", ["-m", "dagster._daemon", "run", "-m", self.definitions])

    # -------------------------------------------------------------------------------------------- end

    def stop(self) -> None:
        """Ends every process, kindly first, and the control plane last, so that workers can still report to it.

        Workers are interrupted: on SIGTERM they would let their steps end.
        """
        for worker in self.workers.values():
            worker.request_stop(signal.SIGINT)
        for process in filter(None, (self.daemon, self.webserver)):
            process.request_stop()
        _wait_stopped(self.daemon, self.webserver, *self.workers.values())
        nodes = [node.process for node in self.nodes.values()]
        for process in filter(None, (*nodes, self.store)):
            process.request_stop()
        _wait_stopped(*nodes, self.store)

    def remove(self) -> None:
        """Removes the folder; call it after stop."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _wait_stopped(*processes: ManagedProcess | None) -> None:
    for process in filter(None, processes):
        process.wait_stopped()


def wait_for_http(url: str, process: ManagedProcess, timeout_s: float = READY_TIMEOUT_S) -> None:
    """Waits until url answers.

    Raises:
        StartFailed: the process ended first, or nothing answered in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError as error:
            if not process.is_running or time.monotonic() > deadline:
                said = f"{process.name} does not answer at {url} ({error})"
                raise StartFailed(f"{said}. Its last words ({process.log_path}):\n{process.last_words()}") from None
            time.sleep(0.05)
