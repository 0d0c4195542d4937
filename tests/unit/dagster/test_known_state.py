"""A step gets what it needs of the run's state, and no more."""

from __future__ import annotations

import dagster as dg
import pytest

from orchestrator_pkg._compat import (
    ActiveExecution,
    KnownExecutionState,
    RetryMode,
    create_execution_plan,
    serialize_value,
)
from orchestrator_pkg.known_state import trim

WIDTH = 200


@dg.op(out=dg.DynamicOut(int))
def numbers():
    for i in range(WIDTH):
        yield dg.DynamicOutput(i, mapping_key=str(i))


@dg.op
def square(x):
    return x


@dg.op
def total(xs):
    return sum(xs)


@dg.op
def plain():
    return 1


@dg.op
def after(x, y):
    return x


@dg.job
def fan_out():
    after(total(numbers().map(square).map(square.alias("again")).collect()), plain())


def advanced(active: ActiveExecution, *, until: str) -> list:
    """Vends and succeeds steps until one with this name is ready; the steps that are ready then."""
    from dagster._core.execution.plan.outputs import StepOutputHandle

    while True:
        ready = active.get_steps_to_execute()
        if any(step.key.startswith(until) for step in ready):
            return list(ready)
        for step in ready:
            if step.key == "numbers":
                for key in map(str, range(WIDTH)):
                    active.mark_step_produced_output(StepOutputHandle(step.key, "result", key))
                    active._gathering_dynamic_outputs[step.key]["result"].append(key)
            else:
                active.mark_step_produced_output(StepOutputHandle(step.key, "result"))
            active.mark_success(step.key)


def rebuilt(step_key: str, state: KnownExecutionState):
    plan = create_execution_plan(fan_out, step_keys_to_execute=[step_key], known_state=state)
    return plan.get_step_by_key(step_key)


@pytest.mark.parametrize("until", ["numbers", "square[", "again[", "total", "after"])
def test_the_step_can_be_built_from_the_trimmed_state(until: str) -> None:
    plan = create_execution_plan(fan_out)
    with (  # noqa: PT012 - an unfinished execution raises when it is left; that is not what is tested
        pytest.raises(dg.DagsterInvariantViolationError),
        ActiveExecution(plan, retry_mode=RetryMode.ENABLED) as active,
    ):
        step = next(s for s in advanced(active, until=until) if s.key.startswith(until))
        whole = active.get_known_state()
        trimmed = trim(whole, step=step)
        again = rebuilt(step.key, trimmed)
        assert again.step_inputs == rebuilt(step.key, whole).step_inputs
        sources = {h for i in step.step_inputs for h in i.get_step_output_handle_dependencies()}
        assert sources & whole.ready_outputs == trimmed.ready_outputs
        # Leaving an unfinished execution is the error that Dagster is expected to raise here.


def test_a_mapped_step_gets_a_constant_amount() -> None:
    plan = create_execution_plan(fan_out)
    with (  # noqa: PT012 - an unfinished execution raises when it is left; that is not what is tested
        pytest.raises(dg.DagsterInvariantViolationError),
        ActiveExecution(plan, retry_mode=RetryMode.ENABLED) as active,
    ):
        step = next(s for s in advanced(active, until="again[") if s.key == "again[7]")
        whole = active.get_known_state()
        assert len(serialize_value(whole)) > 10_000
        assert len(serialize_value(trim(whole, step=step))) < 800


def test_attempts_of_other_steps_do_not_travel() -> None:
    step = create_execution_plan(fan_out).get_step_by_key("plain")
    state = KnownExecutionState(previous_retry_attempts={"plain": 2, "numbers": 1})
    assert trim(state, step=step).previous_retry_attempts == {"plain": 2}
    assert trim(KnownExecutionState(), step=step).previous_retry_attempts == {}
