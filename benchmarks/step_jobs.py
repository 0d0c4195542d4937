"""The same trivial steps under several executors."""

from __future__ import annotations

import os

import dagster as dg

from orchestrator_pkg.executor import orchestrator_executor

STEPS = int(os.environ.get("BENCH_STEPS", "50"))


@dg.op(out=dg.DynamicOut(int))
def numbers():
    """One output a step."""
    for number in range(STEPS):
        yield dg.DynamicOutput(number, mapping_key=str(number))


@dg.op
def nothing(number: int) -> int:
    """A step that does nothing."""
    return number


@dg.op
def count(results: list[int]) -> int:
    """Waits for all of them."""
    return len(results)


@dg.graph
def fan_out() -> None:
    """STEPS steps side by side."""
    count(numbers().map(nothing).collect())


def in_process() -> dg.JobDefinition:
    """One process does it all."""
    return fan_out.to_job(name="in_process", executor_def=dg.in_process_executor)


def warm() -> dg.JobDefinition:
    """Warm slots."""
    return fan_out.to_job(name="warm", executor_def=orchestrator_executor)


def multiprocess() -> dg.JobDefinition:
    """A process for each step."""
    settings = {"max_concurrent": 2, "start_method": {"forkserver": {}}}
    return fan_out.to_job(name="multiprocess", executor_def=dg.multiprocess_executor.configured(settings))
