"""What a slot does with an assignment: orchestrate a Dagster run, or execute one step of a run, in this warm process.

    agent                     slot (main thread)
    Assign(run, payload)  ->  execute -> run_task: core_execute_run on warm definitions -> finish
    Assign(step, payload) ->  execute -> step_task: one step, outcome held back         -> finish(outcome)

Code is checked first: a run starts only on files that are as on disk, and a step only on the version that its run has
pinned. A slot with other code gives the task back untouched and ends its process; the next one loads the code anew.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from orchestrator_pkg._compat import capture_interrupts, pop_captured_interrupt
from orchestrator_pkg.code_key import LOADED
from orchestrator_pkg.payloads import check_version
from orchestrator_pkg.worker.slot_context import LeaseLost, SlotContext

# Exit status of a slot whose code is old. The task was given back before, so nothing is lost.
EXIT_STALE_CODE = 0


class StaleCode(Exception):
    """This process has loaded code that the task must not run on; a new process will do."""


_current: tuple[int, SlotContext] | None = None


def current_context() -> SlotContext | None:
    """The attempt that this process executes; None outside a slot and in children of a task."""
    return _current[1] if _current is not None and _current[0] == os.getpid() else None


def execute(context: SlotContext, payload: Mapping[str, Any]) -> None:
    """Executes one attempt and reports its result. Called by the slot process on its main thread.

    Args:
        context: the attempt.
        payload: what the launcher or executor submitted.

    Raises:
        LeaseLost: the worker's lease ended; nothing was reported.
        PayloadError: another version of this package submitted it.
    """
    global _current
    check_version(payload)
    from orchestrator_pkg import run_task, step_task

    handle = {"run": run_task.execute_run, "step": step_task.execute_step}[context.kind]
    _current = os.getpid(), context
    try:
        with capture_interrupts():
            # What arrived between two tasks is not meant for this one.
            pop_captured_interrupt()
            handle(context, payload)
    except StaleCode as stale:
        _end_stale(context, str(stale))
    except LeaseLost as lost:
        print(f"{context.task_id}: stopped, nothing more is stored: {lost}", file=sys.stderr)
        raise
    finally:
        _current = None
        LOADED.note_modules()


def _end_stale(context: SlotContext, reason: str) -> NoReturn:
    context.give_back(reason)
    print(f"{context.task_id}: given back, and this process ends: {reason}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # Modules cannot be unloaded. Not sys.exit: the agent must see the end at once.
    os._exit(EXIT_STALE_CODE)
