"""Dagster jobs on the embedded control plane: real processes, slots, log and locks, in a fresh Dagster home."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.test_utils import poll_for_finished_run

from orchestrator_pkg import embedded
from orchestrator_pkg.client import client_for

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

FOLDER = str(Path(__file__).resolve().parents[1] / "dagster")
sys.path.insert(0, FOLDER)
# Engine events tell of the processes and differ by nature.
VARYING = {"ENGINE_EVENT"}
WAIT_S = 60.0


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:g} s for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "run_launcher: {module: orchestrator_pkg.launcher, class: OrchestratorRunLauncher}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ORCHESTRATOR_ADDR", raising=False)
        # Jobs are found from the working directory, in our slots and in the multiprocess executor's children.
        patch.chdir(FOLDER)
        patch.setenv("WORKER_STEP_SLOTS", "2")
        patch.setenv("WORKER_CANCEL_GRACE_S", "10")
        with dg.DagsterInstance.from_config(str(home)) as opened:
            try:
                yield opened
            finally:
                stop_plane(home)


def stop_plane(home: Path) -> None:
    """Asks the plane to stop and waits until it has gone; prints its log for a failed test's report."""
    files = embedded.PlaneFiles.of(home)
    pids = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if is_plane(pid, files)]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: embedded._is_free(files.plane_lock), "the plane's end")
    if files.log.exists():
        print(files.log.read_text()[-20_000:])


def is_plane(pid: int, files: embedded.PlaneFiles) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"orchestrator_pkg.embedded" in command and os.fsencode(files.root) in command


def execute(instance: dg.DagsterInstance, job: str, **op_config: str) -> dg.JobExecutionResult:
    definition = getattr(importlib.import_module("defs_basic"), job)
    ops = [node.name for node in definition().nodes if node.definition.config_field is not None] if op_config else []
    config = {"ops": {name: {"config": op_config} for name in ops}} if op_config else None
    return dg.execute_job(dg.reconstructable(definition), instance, run_config=config)


def counts(instance: dg.DagsterInstance, run_id: str) -> dict[tuple[str, str | None], int]:
    events = (entry.dagster_event for entry in instance.all_logs(run_id))
    return dict(Counter((e.event_type_value, e.step_key) for e in events if e and e.event_type_value not in VARYING))


@pytest.mark.parametrize(
    ("job", "succeeds"), [("chain", True), ("dynamic", True), ("failing", False), ("retry", True), ("skip", True)]
)
def test_events_are_those_of_the_multiprocess_executor(
    instance: dg.DagsterInstance, job: str, *, succeeds: bool
) -> None:
    ours = execute(instance, job)
    theirs = execute(instance, f"{job}_multiprocess")
    assert ours.success is theirs.success is succeeds
    mine, reference = counts(instance, ours.run_id), counts(instance, theirs.run_id)
    assert mine == reference


def test_outputs_come_back(instance: dg.DagsterInstance) -> None:
    with execute(instance, "dynamic") as result:
        assert result.output_for_node("total") == sum(i * i for i in range(5))


def test_prints_are_in_the_compute_log(instance: dg.DagsterInstance) -> None:
    result = execute(instance, "chain")
    captures = [
        instance.compute_log_manager.build_log_key_for_run(result.run_id, e.dagster_event.logs_captured_data.file_key)
        for e in instance.all_logs(result.run_id)
        if e.dagster_event and e.dagster_event.event_type_value == "LOGS_CAPTURED"
    ]
    logs = [instance.compute_log_manager.get_log_data(key) for key in captures]
    assert any(b"this line is for the compute log" in (log.stdout or b"") for log in logs)
    assert all(instance.compute_log_manager.is_capture_complete(key) for key in captures)


def test_a_resource_that_fails_ends_the_step(instance: dg.DagsterInstance) -> None:
    result = execute(instance, "bad_resource")
    assert not result.success
    found = counts(instance, result.run_id)
    assert found["RESOURCE_INIT_FAILURE", "needs_resource"] == 1
    assert found["STEP_FAILURE", "needs_resource"] == 1


def test_a_step_that_loses_its_process_is_placed_again(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    result = execute(instance, "crashing_once", folder=str(tmp_path))
    assert result.success
    found = counts(instance, result.run_id)
    assert found["STEP_START", "crash_once"] == 2
    assert found["STEP_SUCCESS", "crash_once"] == 1
    assert found["STEP_OUTPUT", "crash_once"] == 1
    # The user's retries were not touched.
    assert ("STEP_UP_FOR_RETRY", "crash_once") not in found


def test_a_step_that_always_dies_fails_with_the_reason(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    result = execute(instance, "crashing", folder=str(tmp_path))
    assert not result.success
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    message = failure.step_failure_data.error.message
    assert "3" in message, message
    # The budget counts losses: one execution more than may be lost without consequence, or just as many.
    assert 3 <= len(list(tmp_path.glob("crash-*"))) <= 4


def launch(instance: dg.DagsterInstance, job: str, **op_config: str) -> dg.DagsterRun:
    definition = getattr(importlib.import_module("defs_basic"), job)
    recon = dg.reconstructable(definition)
    ops = [node.name for node in definition().nodes if node.definition.config_field is not None] if op_config else []
    run = instance.create_run_for_job(
        recon.get_definition(),
        job_code_origin=recon.get_python_origin(),
        run_config={"ops": {name: {"config": op_config} for name in ops}} if op_config else None,
    )
    instance.launch_run(run.run_id, workspace=None)  # type: ignore[arg-type]
    return run


def test_a_launched_run_succeeds(instance: dg.DagsterInstance) -> None:
    run = launch(instance, "chain")
    ended = poll_for_finished_run(instance, run.run_id, timeout=WAIT_S)
    assert ended.status == dg.DagsterRunStatus.SUCCESS
    assert counts(instance, run.run_id)["STEP_SUCCESS", "one"] == 1
    launcher = instance.run_launcher
    # The run's end is stored a moment before its slot reports it.
    wait_for(lambda: launcher.check_run_worker_health(ended).status.value == "SUCCESS", "the end of the run's task")


def pids_of(instance: dg.DagsterInstance, run_id: str) -> list[int]:
    """Processes that have orchestrated a run, by its engine events."""
    messages = (e.dagster_event.message or "" for e in instance.all_logs(run_id) if e.dagster_event)
    return [int(found[1]) for m in messages if (found := re.search(r"process for run on worker .*\(pid (\d+)", m))]


def test_a_run_goes_on_when_its_orchestrator_is_killed(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = launch(instance, "waiting", folder=str(tmp_path))
    wait_for(lambda: list(tmp_path.glob("waiting-*")), "the step's start")
    (pid,) = pids_of(instance, run.run_id)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(pids_of(instance, run.run_id)) == 2, "another process for the run")
    (tmp_path / "go").touch()
    ended = poll_for_finished_run(instance, run.run_id, timeout=WAIT_S)
    assert ended.status == dg.DagsterRunStatus.SUCCESS
    found = counts(instance, run.run_id)
    assert len(list(tmp_path.glob("waiting-*"))) == 1
    assert found["PIPELINE_START", None] == found["STEP_START", "waiter"] == found["STEP_SUCCESS", "waiter"] == 1
    assert found["STEP_WORKER_STARTING", "waiter"] == found["STEP_SUCCESS", "add_one"] == 1


EDITED = """\
import dagster as dg
from orchestrator_pkg.executor import orchestrator_executor

@dg.op
def version():
    return {version}

def versioned():
    return dg.graph(name="versioned")(lambda: version()).to_job(executor_def=orchestrator_executor)
"""


def test_edited_code_runs_in_the_next_run(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    file = tmp_path / "edited_definitions.py"
    for version in (1, 22):
        file.write_text(EDITED.format(version=version))
        pointer = ModuleCodePointer("edited_definitions", "versioned", str(tmp_path))
        recon = ReconstructableJob(ReconstructableRepository(pointer), "versioned")
        sys.modules.pop("edited_definitions", None)
        run = instance.create_run_for_job(recon.get_definition(), job_code_origin=recon.get_python_origin())
        instance.launch_run(run.run_id, workspace=None)  # type: ignore[arg-type]
        ended = poll_for_finished_run(instance, run.run_id, timeout=WAIT_S)
        assert ended.status == dg.DagsterRunStatus.SUCCESS
        value = Path(instance.storage_directory()) / run.run_id / "version" / "result"
        assert pickle.loads(value.read_bytes()) == version


def test_a_step_in_fork_mode(instance: dg.DagsterInstance) -> None:
    with execute(instance, "forking") as result:
        assert result.success
        parents = {
            int(Path(f"/proc/{pid}/stat").read_text().split()[3])
            for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
            if is_plane(pid, embedded.PlaneFiles.of(instance.root_directory))
        }
        # The step's parent was a slot: neither this process nor the plane's own parent.
        assert result.output_for_node("forked") not in parents | {os.getpid(), 1}


def test_a_wrong_tag_fails_the_run_with_a_sentence(instance: dg.DagsterInstance) -> None:
    result = execute(instance, "mistagged")
    (failure,) = [e for e in result.all_events if e.is_job_failure]
    assert "did you mean resources.gpus?" in failure.job_failure_data.error.message


def test_a_run_that_waits_for_a_place_can_be_canceled(instance: dg.DagsterInstance) -> None:
    run = launch(instance, "unplaceable")
    launcher = instance.run_launcher

    def reason() -> str:
        stored = instance.get_run_by_id(run.run_id)
        assert stored is not None
        return launcher.get_run_worker_debug_info(stored) or ""

    wait_for(lambda: "waits: " in reason(), "a reason why the step waits")
    assert "nowhere" in reason()
    assert launcher.terminate(run.run_id)
    ended = poll_for_finished_run(instance, run.run_id, timeout=WAIT_S)
    assert ended.status == dg.DagsterRunStatus.CANCELED


def test_a_terminated_run_ends_canceled(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = launch(instance, "sleeping", folder=str(tmp_path))
    wait_for((tmp_path / "sleeping").exists, "the step's start")
    stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    assert instance.run_launcher.check_run_worker_health(stored).status.value == "RUNNING"
    assert "step/" in (instance.run_launcher.get_run_worker_debug_info(stored) or "")
    assert instance.run_launcher.terminate(run.run_id)
    ended = poll_for_finished_run(instance, run.run_id, timeout=WAIT_S)
    assert ended.status == dg.DagsterRunStatus.CANCELED
    assert not instance.run_launcher.terminate(run.run_id)


def test_an_interrupted_caller_cancels_its_steps(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    def interrupt() -> None:
        wait_for((tmp_path / "sleeping").exists, "the step's start")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = execute(instance, "sleeping", folder=str(tmp_path))
    thread.join()
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status == dg.DagsterRunStatus.CANCELED
    client = client_for(instance)
    wait_for(
        lambda: all(view.state not in (1, 2) for view in client.task_status(prefix=f"step/{result.run_id}/")),
        "the steps' end",
    )


def test_results_are_forgotten_with_the_run(instance: dg.DagsterInstance) -> None:
    result = execute(instance, "chain")
    assert client_for(instance).task_status(prefix=f"step/{result.run_id}/") == []


def test_one_plane_serves_all_clients(instance: dg.DagsterInstance) -> None:
    first = embedded.attach(instance)
    assert embedded.attach(instance) == first
    files = embedded.PlaneFiles.of(instance.root_directory)
    pids = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if is_plane(pid, files)]
    assert len(pids) == 1
