"""One trial of tests/real/test_dagster_resume.py: `python death_at_event.py HOME FOLDER JOB STRIDE`.

A process of its own, since it forks an orchestrator for every event, and a process that has used gRPC must not fork.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections import Counter
from pathlib import Path

import dagster as dg

from orchestrator_pkg import run_session, slot_instance
from orchestrator_pkg._compat import core_execute_run, recon_job_from_origin

# Engine events tell of the process and differ by nature.
VARYING = {"ENGINE_EVENT"}
DEATH_STATUS = 9


def new_run(instance: dg.DagsterInstance, job: str) -> dg.DagsterRun:
    recon = dg.reconstructable(getattr(importlib.import_module("defs_basic"), job))
    return instance.create_run_for_job(recon.get_definition(), job_code_origin=recon.get_python_origin())


def orchestrate(instance: dg.DagsterInstance, run_id: str, folder: Path, *, die_after: int = 0) -> list[str]:
    """Executes or resumes a run in this process; returns the tasks that it executed.

    Args:
        instance: where the run is.
        run_id: the run.
        folder: of the control plane.
        die_after: events that the orchestrator stores before it dies; 0: it lives.
    """
    plane = importlib.import_module("in_process_plane").InProcessPlane(folder)
    run_session.client_for = lambda *_args, **_kwargs: plane  # type: ignore[assignment]
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.job_code_origin is not None
    if die_after:
        store, left = instance.handle_new_event, [die_after]

        def store_or_die(event: dg.EventLogEntry, **kwargs: object) -> None:
            if left[0] == 0:
                os._exit(DEATH_STATUS)
            left[0] -= 1
            store(event, **kwargs)

        instance.handle_new_event = store_or_die  # type: ignore[method-assign]
    for _ in core_execute_run(
        recon_job_from_origin(run.job_code_origin),
        run,
        instance,
        inject_env_vars=False,
        resume_from_failure=run.status == dg.DagsterRunStatus.STARTED,
    ):
        pass
    return list(plane.executed)


def die(instance: dg.DagsterInstance, run_id: str, folder: Path, *, after: int) -> bool:
    """Orchestrates in a child that dies after so many events; False when the run ended before."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            slot_instance._opened = None
            orchestrate(dg.DagsterInstance.from_ref(instance.get_ref()), run_id, folder, die_after=after)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == DEATH_STATUS


def counts(instance: dg.DagsterInstance, run_id: str) -> dict[tuple[str, str | None], int]:
    events = (entry.dagster_event for entry in instance.all_logs(run_id))
    return dict(Counter((e.event_type_value, e.step_key) for e in events if e and e.event_type_value not in VARYING))


def tasks_of(folder: Path) -> int:
    return len(importlib.import_module("in_process_plane").InProcessPlane(folder).views())


def trial(instance: dg.DagsterInstance, folder: Path, job: str, stride: int) -> None:
    """Kills the orchestrator after its Nth event, for every stride-th N, and lets another one go on."""
    reference = new_run(instance, job)
    (folder / "reference").mkdir()
    executed = orchestrate(instance, reference.run_id, folder / "reference")
    expected = counts(instance, reference.run_id)
    # Two events come before the run is STARTED; before that there is nothing to resume.
    for nth in range(2, 1000, stride):
        here = folder / str(nth)
        here.mkdir()
        run = new_run(instance, job)
        if not die(instance, run.run_id, here, after=nth):
            break
        orchestrate(instance, run.run_id, here)
        ended = instance.get_run_by_id(run.run_id)
        assert ended is not None
        assert ended.status == dg.DagsterRunStatus.SUCCESS, f"{job} died after event {nth}: {ended.status}"
        assert counts(instance, run.run_id) == expected, f"{job} died after event {nth}: other events"
        assert tasks_of(here) == len(executed), f"{job} died after event {nth}: a step ran twice"
    assert nth > 2 * stride, "the run ended before it was killed twice"
    print(f"{job}: died and went on at {len(range(2, nth, stride))} events")


def main() -> None:
    home, folder, job, stride = sys.argv[1:]
    with dg.DagsterInstance.from_config(home) as opened:
        os.environ[slot_instance.INSTANCE_REF_VARIABLE] = slot_instance.instance_ref_text(opened)
        trial(opened, Path(folder), job, int(stride))


if __name__ == "__main__":
    main()
