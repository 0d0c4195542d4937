"""Small jobs that show every way in which a step can end."""

import os
import signal
import time
from pathlib import Path

import dagster as dg

from orchestrator_pkg.executor import orchestrator_executor


@dg.op
def one() -> int:
    print("this line is for the compute log")
    return 1


@dg.op
def add_one(x: int) -> int:
    return x + 1


@dg.op(out=dg.DynamicOut(int))
def numbers():
    for i in range(5):
        yield dg.DynamicOutput(i, mapping_key=str(i))


@dg.op
def square(x: int) -> int:
    return x * x


@dg.op
def total(xs: list[int]) -> int:
    return sum(xs)


@dg.op
def broken(x: int) -> int:
    raise ValueError(f"cannot work with {x}")


@dg.op(retry_policy=dg.RetryPolicy(max_retries=2))
def flaky(context: dg.OpExecutionContext) -> int:
    if context.retry_number < 2:
        raise ValueError("not yet")
    return context.retry_number


@dg.op(out={"left": dg.Out(int, is_required=False), "right": dg.Out(int, is_required=False)})
def branch():
    yield dg.Output(1, "left")


@dg.op(config_schema={"folder": str})
def crash(context: dg.OpExecutionContext) -> int:
    """Leaves a mark at each execution and dies."""
    marks = Path(context.op_config["folder"])
    (marks / f"crash-{os.getpid()}-{time.time_ns()}").touch()
    os._exit(3)


@dg.op(config_schema={"folder": str})
def crash_once(context: dg.OpExecutionContext) -> int:
    """Dies by SIGKILL at the first execution and succeeds at the second."""
    mark = Path(context.op_config["folder"]) / "crashed"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


@dg.op(config_schema={"folder": str})
def sleeper(context: dg.OpExecutionContext) -> None:
    """Sleeps for a minute, unless interrupted."""
    (Path(context.op_config["folder"]) / "sleeping").touch()
    time.sleep(60)  # not waited for: the test interrupts it


@dg.op(config_schema={"folder": str})
def waiter(context: dg.OpExecutionContext) -> int:
    """Leaves a mark at each execution and waits for the file `go`."""
    folder = Path(context.op_config["folder"])
    (folder / f"waiting-{os.getpid()}-{time.time_ns()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)
    return 1


@dg.resource
def no_resource(_):
    raise RuntimeError("this resource never works")


@dg.op(required_resource_keys={"no_resource"})
def needs_resource() -> int:
    return 1


@dg.asset(check_specs=[dg.AssetCheckSpec("positive", asset="counted")])
def counted(context: dg.AssetExecutionContext):
    yield dg.Output(7, metadata={"rows": 7})
    yield dg.AssetCheckResult(passed=True, check_name="positive")


@dg.asset
def doubled(counted: int) -> int:
    return 2 * counted


@dg.op
def pid() -> int:
    return os.getpid()


@dg.op(tags={"orchestrator/config": '{"mode": "fork"}'})
def forked() -> int:
    return os.getppid()


@dg.op(tags={"orchestrator/config": '{"constraints": {"cloud": ["nowhere"]}}'})
def placed_nowhere() -> int:
    return 1


@dg.op(tags={"orchestrator/config": '{"resources": {"gpu": 1}}'})
def wrong_tag() -> int:
    return 1


def body_chain() -> None:
    add_one(add_one(add_one(one())))


def body_dynamic() -> None:
    total(numbers().map(square).collect())


def body_failing() -> None:
    add_one(broken(one()))


def body_retry() -> None:
    add_one(flaky())


def body_skip() -> None:
    left, right = branch()
    add_one.alias("taken")(left)
    add_one.alias("skipped")(right)


def _job(body, name: str, executor: dg.ExecutorDefinition, **kwargs) -> dg.JobDefinition:
    return dg.graph(name=name)(body).to_job(executor_def=executor, **kwargs)


OURS = orchestrator_executor
THEIRS = dg.multiprocess_executor.configured({"start_method": {"forkserver": {}}, "max_concurrent": 2})


def chain() -> dg.JobDefinition:
    return _job(body_chain, "chain", OURS)


def dynamic() -> dg.JobDefinition:
    return _job(body_dynamic, "dynamic", OURS)


def failing() -> dg.JobDefinition:
    return _job(body_failing, "failing", OURS)


def retry() -> dg.JobDefinition:
    return _job(body_retry, "retry", OURS)


def skip() -> dg.JobDefinition:
    return _job(body_skip, "skip", OURS)


def chain_multiprocess() -> dg.JobDefinition:
    return _job(body_chain, "chain_multiprocess", THEIRS)


def dynamic_multiprocess() -> dg.JobDefinition:
    return _job(body_dynamic, "dynamic_multiprocess", THEIRS)


def failing_multiprocess() -> dg.JobDefinition:
    return _job(body_failing, "failing_multiprocess", THEIRS)


def retry_multiprocess() -> dg.JobDefinition:
    return _job(body_retry, "retry_multiprocess", THEIRS)


def skip_multiprocess() -> dg.JobDefinition:
    return _job(body_skip, "skip_multiprocess", THEIRS)


def crashing() -> dg.JobDefinition:
    return _job(lambda: crash(), "crashing", OURS)


def crashing_once() -> dg.JobDefinition:
    return _job(lambda: add_one(crash_once()), "crashing_once", OURS)


def sleeping() -> dg.JobDefinition:
    return _job(lambda: sleeper(), "sleeping", OURS)


def forking() -> dg.JobDefinition:
    return _job(lambda: add_one(forked()), "forking", OURS)


def unplaceable() -> dg.JobDefinition:
    return _job(lambda: placed_nowhere(), "unplaceable", OURS)


def mistagged() -> dg.JobDefinition:
    return _job(lambda: wrong_tag(), "mistagged", OURS)


def waiting() -> dg.JobDefinition:
    return _job(lambda: add_one(waiter()), "waiting", OURS)


def bad_resource() -> dg.JobDefinition:
    return _job(lambda: add_one(needs_resource()), "bad_resource", OURS, resource_defs={"no_resource": no_resource})


defs = dg.Definitions(
    assets=[counted, doubled],
    jobs=[
        chain(),
        dynamic(),
        failing(),
        retry(),
        skip(),
        crashing(),
        crashing_once(),
        sleeping(),
        waiting(),
        bad_resource(),
        dg.define_asset_job("assets", [counted, doubled], executor_def=OURS),
    ],
    executor=OURS,
)
