"""Every private Dagster name that this package uses, each with the reason, and a self-test that says what has changed.

Dagster's public API covers definitions, not orchestration: a run launcher, an executor or a warm worker can only be
built on modules below `dagster._core`. They are imported here and nowhere else, so that a new Dagster version is judged
in one place: `check()` compares what we rely on with what is installed and names each difference.
"""

from __future__ import annotations

import inspect
import os
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster
from dagster import DagsterInstance
from dagster._core.code_pointer import CodePointer  # base of a pointer to definitions that are already loaded
from dagster._core.definitions.reconstruct import (  # how a run's origin becomes a job; nothing public does that
    ReconstructableJob,
    initialize_repository_def_from_pointer,
)
from dagster._core.errors import DagsterExecutionInterruptedError  # what a cancel raises in user code; not exported
from dagster._core.events import (  # the public enum lacks the data classes that events carry
    DagsterEvent,
    DagsterEventType,
    EngineEventData,
)
from dagster._core.events.log import EventLogEntry  # exported for reading only; we store and send it
from dagster._core.execution.api import create_execution_plan, execute_plan_iterator  # one step of a run, in-process
from dagster._core.execution.compute_logs import redirect_to_file  # captures a stream into a file, nothing more
from dagster._core.execution.context_creation_job import create_context_free_log_manager  # log before a plan exists
from dagster._core.execution.plan.active import ActiveExecution  # the state machine of a run's steps
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext  # claims of pools
from dagster._core.execution.plan.objects import ErrorSource, StepFailureData  # to end a step from outside
from dagster._core.execution.plan.state import KnownExecutionState  # what a step must know of the run so far
from dagster._core.execution.retries import RetryMode, get_retries_config  # the usual `retries` of executors
from dagster._core.execution.step_dependency_config import (  # the usual `step_dependency_config` of executors
    StepDependencyConfig,
    get_step_dependency_config_field,
)
from dagster._core.execution.tags import get_tag_concurrency_limits_config  # the usual `tag_concurrency_limits`
from dagster._core.instance.ref import InstanceRef  # how a slot gets the instance of those who started it
from dagster._core.launcher import (  # every launcher outside Dagster imports these here
    CheckRunHealthResult,
    LaunchRunContext,
    ResumeRunContext,
    WorkerStatus,
)
from dagster._core.launcher.base import RunLauncher  # public class that only has a private home
from dagster._core.origin import JobPythonOrigin  # where a run's code is
from dagster._core.storage import local_compute_log_manager  # its capture starts four processes a step; see below
from dagster._core.storage.event_log import SqliteEventLogStorage  # connects anew for each event; see below
from dagster._grpc.impl import core_execute_run  # executes a run with its events, failures and resume as the CLI does
from dagster._serdes import (  # the only encoding of events, origins and states that Dagster reads again
    ConfigurableClass,
    ConfigurableClassData,
    deserialize_value,
    serialize_value,
)
from dagster._utils import ensure_file  # what the stock log capture does first
from dagster._utils.error import serializable_error_info_from_exc_info  # the form of errors inside events
from dagster._utils.hosted_user_process import recon_job_from_origin  # origin of a run -> its job
from dagster._utils.interrupts import capture_interrupts, pop_captured_interrupt  # how Dagster receives a cancel
from dagster_shared.error import SerializableErrorInfo  # its class
from sqlalchemy import Connection, Engine, StaticPool, create_engine

__all__ = [
    "ActiveExecution",
    "CheckRunHealthResult",
    "CodePointer",
    "ConfigurableClass",
    "ConfigurableClassData",
    "DagsterEvent",
    "DagsterEventType",
    "DagsterExecutionInterruptedError",
    "DagsterMismatch",
    "EngineEventData",
    "ErrorSource",
    "EventLogEntry",
    "InstanceConcurrencyContext",
    "InstanceRef",
    "JobPythonOrigin",
    "KnownExecutionState",
    "LaunchRunContext",
    "ReconstructableJob",
    "ResumeRunContext",
    "RetryMode",
    "RunLauncher",
    "SerializableErrorInfo",
    "StepDependencyConfig",
    "StepFailureData",
    "WorkerStatus",
    "attach_pools",
    "capture_interrupts",
    "captured_log_without_helpers",
    "check",
    "core_execute_run",
    "create_context_free_log_manager",
    "create_execution_plan",
    "deserialize_value",
    "execute_plan_iterator",
    "get_note",
    "get_retries_config",
    "get_step_dependency_config_field",
    "get_tag_concurrency_limits_config",
    "initialize_repository_def_from_pointer",
    "is_locked_database",
    "keep_connections",
    "pop_captured_interrupt",
    "put_note",
    "recon_job_from_origin",
    "require",
    "serializable_error_info_from_exc_info",
    "serialize_value",
    "start_step",
    "store_event",
]

# A statement of an event takes milliseconds; this only ends those that hang.
STATEMENT_TIMEOUT_MS = 60_000
# Below the idle limits of the usual proxies in front of databases.
POOL_RECYCLE_S = 600
# A slot has one thread that stores, the orchestrator a second one.
POOL_OVERFLOW = 4

# Files of runs that stay open; a slot alternates between few runs.
SQLITE_FILES_MAX = 16
# Dagster's own value: how long SQLite waits for another writer.
SQLITE_BUSY_S = 30

# Writers to one SQLite file wait up to 30 s inside SQLite; this is for what it refuses at once.
LOCKED_RETRY_S_MAX = 30.0
LOCKED_PAUSE_S = 0.05

# What we call, with the parameters that we name. A missing one is a difference that `check` tells.
_USED: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    (
        "ActiveExecution",
        ActiveExecution,
        (
            "execution_plan",
            "retry_mode",
            "max_concurrent",
            "tag_concurrency_limits",
            "instance_concurrency_context",
            "step_dependency_config",
        ),
    ),
    ("ActiveExecution.handle_event", ActiveExecution.handle_event, ("dagster_event",)),
    ("ActiveExecution.rebuild_from_events", ActiveExecution.rebuild_from_events, ("dagster_events",)),
    ("ActiveExecution.get_known_state", ActiveExecution.get_known_state, ()),
    ("ActiveExecution.mark_skipped", ActiveExecution.mark_skipped, ("step_key",)),
    ("ActiveExecution.sleep_interval", ActiveExecution.sleep_interval, ()),
    ("InstanceConcurrencyContext", InstanceConcurrencyContext, ("instance", "dagster_run")),
    (
        "KnownExecutionState",
        KnownExecutionState.__new__,
        ("previous_retry_attempts", "dynamic_mappings", "step_output_versions", "ready_outputs", "parent_state"),
    ),
    (
        "create_execution_plan",
        create_execution_plan,
        ("job", "run_config", "step_keys_to_execute", "known_state", "repository_load_data"),
    ),
    (
        "execute_plan_iterator",
        execute_plan_iterator,
        ("execution_plan", "job", "dagster_run", "instance", "retry_mode", "run_config", "step_dependency_config"),
    ),
    (
        "core_execute_run",
        core_execute_run,
        ("recon_job", "dagster_run", "instance", "inject_env_vars", "resume_from_failure"),
    ),
    (
        "DagsterEvent.step_worker_started",
        DagsterEvent.step_worker_started,
        ("log_manager", "job_name", "message", "metadata", "step_key"),
    ),
    (
        "DagsterEvent.step_worker_starting",
        DagsterEvent.step_worker_starting,
        ("step_context", "message", "metadata"),
    ),
    ("DagsterInstance.handle_new_event", DagsterInstance.handle_new_event, ("event", "batch_metadata")),
    ("redirect_to_file", redirect_to_file, ("stream", "filepath")),
)


class DagsterMismatch(Exception):
    """The installed Dagster lacks something that this package builds on."""


def check() -> list[str]:
    """One sentence for each thing that the installed Dagster has changed; empty when all is as expected."""
    changed = []
    for name, target, wanted in _USED:
        present = inspect.signature(target).parameters
        missing = [parameter for parameter in wanted if parameter not in present]
        if missing:
            changed.append(f"{name} has no parameter {', '.join(missing)} any more.")
    active = inspect.getsource(ActiveExecution)
    for attribute in (
        "_in_flight",
        "_executable",
        "_waiting_to_retry",
        "_instance_concurrency_context",
        "def _update(",
        "def _prep_for_dynamic_outputs(",
    ):
        if attribute not in active:
            changed.append(f"ActiveExecution has no {attribute} any more.")
    for owner, attribute in (
        (dagster.DagsterInstance, "daemon_cursor_storage"),
        (ReconstructableJob, "get_subset"),
        (local_compute_log_manager, "mirror_stream_to_file"),
    ):
        if not hasattr(owner, attribute):
            changed.append(f"{owner.__name__}.{attribute} is gone.")
    return changed


def require() -> None:
    """Raises DagsterMismatch with all differences, so that a wrong version fails at start and not in a step."""
    changed = check()
    if changed:
        raise DagsterMismatch(
            f"Dagster {dagster.__version__} does not fit this version of orchestrator_pkg: {' '.join(changed)} "
            "Install dagster>=1.13,<1.14."
        )


@contextmanager
def _redirected(stream: Any, filepath: str) -> Iterator[None]:
    """What the stock capture does, without the four processes that copy the file back to the terminal."""
    ensure_file(filepath)
    with redirect_to_file(stream, filepath):
        yield


def captured_log_without_helpers() -> None:
    """Makes compute log managers of this process write log files only, which is all that the UI reads.

    Costs nothing; the stock way starts four processes a step (50 to 70 ms). Managers that upload (S3, ...) wrap the
    same function, so they profit too.
    """
    local_compute_log_manager.mirror_stream_to_file = _redirected  # type: ignore[attr-defined]


def keep_connections(instance: DagsterInstance) -> None:
    """Lets a long-lived process keep its database connections; Dagster's default connects anew for each event.

    Other storages than Postgres and the sharded SQLite are left as they are.
    """
    if type(instance.event_log_storage) is SqliteEventLogStorage:
        _keep_sqlite_engines(instance.event_log_storage)
    if "Postgres" in type(instance.event_log_storage).__name__:
        instance.optimize_for_webserver(
            statement_timeout=STATEMENT_TIMEOUT_MS, pool_recycle=POOL_RECYCLE_S, max_overflow=POOL_OVERFLOW
        )


def _keep_sqlite_engines(storage: SqliteEventLogStorage) -> None:
    """One open connection a run's file, instead of a new engine and connection for each event (8 ms -> 5 ms)."""
    engines: OrderedDict[str, Engine] = OrderedDict()

    @contextmanager
    def connect(shard: str) -> Iterator[Connection]:
        with storage._db_lock:
            if shard not in engines:
                engines[shard] = create_engine(
                    storage.conn_string_for_shard(shard),
                    poolclass=StaticPool,
                    connect_args={"timeout": SQLITE_BUSY_S, "check_same_thread": False},
                )
                if not os.path.exists(storage.path_for_shard(shard)):
                    storage._initdb(engines[shard])
                if len(engines) > SQLITE_FILES_MAX:
                    engines.popitem(last=False)[1].dispose()
            engines.move_to_end(shard)
            with engines[shard].connect() as connection, connection.begin():
                yield connection

    storage._connect = connect  # type: ignore[method-assign]


def is_locked_database(error: BaseException) -> bool:
    """True when SQLite refused a write because another process was writing."""
    cause = getattr(error, "orig", error)
    return isinstance(cause, sqlite3.OperationalError) and "locked" in str(cause)


def store_event(store: Callable[[EventLogEntry], None], entry: EventLogEntry) -> None:
    """Stores one event, and again while SQLite says "database is locked".

    An event of assets or runs is stored in two files, so a repeat could leave it twice in the first: those are tried
    once. SQLite has waited 30 s for them by then.

    Raises:
        Exception: whatever the storage raises otherwise.
    """
    deadline = time.monotonic() + LOCKED_RETRY_S_MAX
    event = entry.dagster_event
    is_single_write = event is None or (event.asset_key is None and not event.is_job_event)
    while True:
        try:
            return store(entry)
        except Exception as error:
            if not (is_single_write and is_locked_database(error)) or time.monotonic() > deadline:
                raise
        time.sleep(LOCKED_PAUSE_S)


def start_step(active: ActiveExecution, step_key: str) -> bool:
    """Marks a step as in flight because the log says that it was started; used by a replay only.

    `get_steps_to_execute` cannot serve: it applies limits, pools and waiting times again, and a log need not agree with
    them (a pool may be full now that was free then).

    Returns:
        False when the step has ended already or is not known, so that its event is to be dropped.
    """
    if step_key in active._in_flight:
        return True
    active._update()
    if active._waiting_to_retry.pop(step_key, None) is not None:
        active._executable.append(step_key)
    if step_key not in active._executable:
        return False
    active._executable.remove(step_key)
    active._in_flight.add(step_key)
    active._prep_for_dynamic_outputs(active.get_step_by_key(step_key))
    return True


def attach_pools(active: ActiveExecution, pools: InstanceConcurrencyContext) -> None:
    """Lets the state machine claim and free pool slots from now on; a replay goes without, see `start_step`."""
    active._instance_concurrency_context = pools


def put_note(instance: DagsterInstance, key: str, text: str) -> None:
    """Keeps a text in Dagster's own database, for what is too large for the ledger. An empty text frees the space."""
    instance.daemon_cursor_storage.set_cursor_values({key: text})


def get_note(instance: DagsterInstance, key: str) -> str | None:
    """The text kept under key, or None."""
    values: Mapping[str, str] = instance.daemon_cursor_storage.get_cursor_values({key})
    return values.get(key) or None
