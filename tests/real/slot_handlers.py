"""What slots execute in tests; the payload's "do" names the deed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from orchestrator_pkg.worker.slot_context import SlotContext

# A thread that a deed leaves behind waits on this for ever.
_NEVER = threading.Event()


def execute(context: SlotContext, payload: dict[str, Any]) -> None:
    """Does the deed and reports who did it, when and with what state."""
    began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    DEEDS[payload.get("do", "echo")](context, payload)
    if not context.has_reported:
        _report(context, payload, began_ns=began_ns)


def _report(context: SlotContext, payload: dict[str, Any], **more: Any) -> None:
    reply = context.finish(
        succeeded=True,
        payload={
            "pid": os.getpid(),
            "parent_pid": os.getppid(),
            "cwd": os.getcwd(),
            "mark": os.environ.get("SLOT_TEST_MARK", ""),
            "attempt_number": context.attempt_number,
            "token": list(context.token),
            "gpus": list(context.gpus),
            "echo": payload.get("echo"),
            **more,
        },
    )
    _note(payload, f"finish accepted={reply.accepted}")


def _note(payload: dict[str, Any], line: str) -> None:
    """Appends a line to the file that the test looks at."""
    if "file" in payload:
        with Path(payload["file"]).open("a") as file:
            file.write(f"{os.getpid()} {line}\n")


def _echo(_context: SlotContext, _payload: dict[str, Any]) -> None:
    """Nothing but the report."""


def _wait(context: SlotContext, payload: dict[str, Any]) -> None:
    """Runs until the file named "until" exists or it is interrupted."""
    _note(payload, "started")
    try:
        while not Path(payload.get("until", "/nowhere")).exists():
            time.sleep(0.01)
            context.check_lease()
    except KeyboardInterrupt:
        _note(payload, "interrupted")
        raise
    _note(payload, "released")


def _stubborn(_context: SlotContext, payload: dict[str, Any]) -> None:
    """Ignores interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _note(payload, "started")
    _NEVER.wait()


def _segfault(_context: SlotContext, _payload: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
    _NEVER.wait()


def _exit(_context: SlotContext, _payload: dict[str, Any]) -> None:
    os._exit(7)


def _raise(_context: SlotContext, _payload: dict[str, Any]) -> None:
    raise ValueError("the deed failed")


def _no_finish(context: SlotContext, _payload: dict[str, Any]) -> None:
    context._reported = "nothing"


def _give_back(context: SlotContext, _payload: dict[str, Any]) -> None:
    context.give_back("another code version")


def _thread(_context: SlotContext, _payload: dict[str, Any]) -> None:
    threading.Thread(target=_NEVER.wait, name="left-behind", daemon=True).start()


def _child(_context: SlotContext, payload: dict[str, Any]) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    _note(payload, f"child {child.pid}")


def _mess(_context: SlotContext, _payload: dict[str, Any]) -> None:
    """Changes what a slot must put back."""
    os.chdir("/")
    os.environ["SLOT_TEST_MARK"] = "left behind"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.umask(0o077)


DEEDS = {
    "echo": _echo,
    "wait": _wait,
    "stubborn": _stubborn,
    "segfault": _segfault,
    "exit": _exit,
    "raise": _raise,
    "no_finish": _no_finish,
    "give_back": _give_back,
    "thread": _thread,
    "child": _child,
    "mess": _mess,
}
