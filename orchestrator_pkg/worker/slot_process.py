"""The process inside a slot: imports once, then executes one attempt at a time on its main thread.

Started by the agent as `python -m orchestrator_pkg.worker.slot_process`; never by hand. The main thread waits in `recv`
for the next attempt, so an idle slot costs no CPU. Interrupts: SIGINT is ignored by the kernel except while a handler
runs, when it raises KeyboardInterrupt (or whatever the handler installed, such as Dagster's own). The agent sends it
only after Started and only for the attempt at hand, so a late one can never hit the next attempt.

The process ends with the agent: by the parent-death signal at once, and by the end of the control socket when idle.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import importlib
import json
import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from orchestrator_pkg.worker import hygiene
from orchestrator_pkg.worker.process_rights import adopt_orphans, die_with_parent
from orchestrator_pkg.worker.shared_deadline import SharedDeadline
from orchestrator_pkg.worker.slot_context import SlotContext
from orchestrator_pkg.worker.slot_messages import (
    Assign,
    BlockingChannel,
    Done,
    SlotReady,
    Started,
    StartFailed,
)

FD_VARIABLE = "ORCHESTRATOR_SLOT_FD"
MODE_FORK = "fork"
# Exit status after a start that failed; the reason went over the socket.
EXIT_START_FAILED = 3

# Less than a pipe holds (64 KiB), so that writing never waits; an error is one line.
ERROR_BYTES_MAX = 8192

Handler = Callable[[SlotContext, dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotArguments:
    """What the agent tells the process on its command line."""

    handler: str
    preload: tuple[str, ...]
    parent_pid: int
    lease_fd: int
    worker_id: str
    cloud_tag: str
    memory_max_bytes: int


class SlotProcess:
    """Executes attempts, one after the other."""

    def __init__(self, arguments: SlotArguments, channel: BlockingChannel, deadline: SharedDeadline) -> None:
        self._arguments = arguments
        self._channel = channel
        self._deadline = deadline
        self._handler: Handler | None = None

    def serve(self) -> None:
        """Takes attempts until the agent closes the socket."""
        while True:
            message = self._channel.receive()
            if not isinstance(message, Assign):
                return
            before = hygiene.take_baseline()
            error = self._in_child(message) if message.mode == MODE_FORK else self._execute(message)
            audit = hygiene.audit(before, memory_max_bytes=self._arguments.memory_max_bytes)
            sys.stdout.flush()
            sys.stderr.flush()
            self._channel.send(
                Done(error=error, recycle=audit.recycle, restored=audit.restored, memory_bytes=audit.memory_bytes)
            )

    def _execute(self, assign: Assign) -> str:
        """Runs the handler; the sentence that tells how it failed, or ""."""
        context = SlotContext(
            assign,
            channel=self._channel,
            deadline=self._deadline,
            worker_id=self._arguments.worker_id,
            cloud_tag=self._arguments.cloud_tag,
        )
        try:
            try:
                return self._interruptible(context, assign)
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            return "interrupted"

    def _interruptible(self, context: SlotContext, assign: Assign) -> str:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._channel.send(Started(pid=os.getpid()))
            _choose_gpu(context.gpus)
            self._loaded_handler()(context, json.loads(assign.payload or "{}"))
        except KeyboardInterrupt:
            raise
        except SystemExit as exit_:
            return f"the handler called sys.exit({exit_.code!r})"
        except BaseException as error:  # noqa: BLE001 - the edge of foreign code (Dagster's interrupt is no Exception)
            traceback.print_exc()
            return _last_line(error)
        return ""

    def _loaded_handler(self) -> Handler:
        if self._handler is None:
            self._handler = load_handler(self._arguments.handler)
        return self._handler

    def _in_child(self, assign: Assign) -> str:
        """Executes in a forked child and waits for it; ends this process the way the child ended, if that was odd."""
        # Blocked over the fork, so that no SIGINT falls between the fork and the handler that passes it on.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        parent_pid = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        error_in, error_out = os.pipe()
        child_pid = os.fork()
        if child_pid == 0:
            self._be_child(assign, parent_pid, error_out)
        os.close(error_out)

        def pass_on(number: int, _frame: FrameType | None) -> None:
            os.kill(child_pid, number)

        signal.signal(signal.SIGINT, pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        status = os.waitpid(child_pid, 0)[1]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if status != 0:
            _end_like_child(status)
        return _read_there(error_in)

    def _be_child(self, assign: Assign, parent_pid: int, error_out: int) -> None:
        """The child's whole life; never returns. Its error goes into the pipe `error_out`."""
        status = 1
        try:
            die_with_parent(parent_pid)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            _reseed_after_fork()
            error = self._execute(assign)
            os.write(error_out, error.encode(errors="replace")[:ERROR_BYTES_MAX])
            sys.stdout.flush()
            sys.stderr.flush()
            status = 0
        finally:
            # Not sys.exit: the atexit handlers and the rest of this stack belong to the parent.
            os._exit(status)


def _read_there(fd: int) -> str:
    """What lies in a pipe now. Does not wait for its end: a process that the child left behind may hold it open."""
    os.set_blocking(fd, False)
    try:
        return os.read(fd, ERROR_BYTES_MAX).decode(errors="replace")
    except BlockingIOError:
        return ""
    finally:
        os.close(fd)


def _choose_gpu(gpus: tuple[int, ...]) -> None:
    torch = sys.modules.get("torch")
    if gpus and torch is not None:
        torch.cuda.set_device(gpus[0])


def _reseed_after_fork() -> None:
    # Children of one parent would otherwise all draw the same numbers.
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()


def _end_like_child(status: int) -> None:
    """Ends the slot as its child ended: the child may have died inside a frame, so the socket is not to be trusted."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        faulthandler.disable()
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def load_handler(path: str) -> Handler:
    """The function named "module:function". Raises ImportError or AttributeError when there is none."""
    module, _, function = path.partition(":")
    handler: Handler = getattr(importlib.import_module(module), function)
    return handler


def _last_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def _preload(modules: Sequence[str]) -> str:
    """Imports the modules; the last line of the error that one raised, or ""."""
    for module in modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code at import; told to the agent, then we end
            traceback.print_exc()
            return f"slot cannot import {module}: {_last_line(error)}"
    # What is loaded now stays for ever: leave it out of later collections, and unshared pages out of forks.
    gc.collect()
    gc.freeze()
    return ""


def _arguments(argv: Sequence[str]) -> SlotArguments:
    parser = argparse.ArgumentParser(prog="slot_process", description="Started by orchestrator-worker only.")
    for name in ("handler", "preload", "worker-id", "cloud-tag"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("parent-pid", "lease-fd", "memory-max-bytes"):
        parser.add_argument(f"--{name}", required=True, type=int)
    values = vars(parser.parse_args(argv))
    preload = tuple(part for part in values.pop("preload").split(",") if part)
    return SlotArguments(preload=preload, **values)


def main(argv: Sequence[str] | None = None) -> None:
    """The whole life of the process."""
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    die_with_parent(arguments.parent_pid)
    adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    # Removed, so that a task's own child processes do not think they were slots.
    connection = socket.socket(fileno=int(os.environ.pop(FD_VARIABLE)))
    connection.set_inheritable(False)
    os.set_inheritable(arguments.lease_fd, False)
    channel = BlockingChannel(connection)
    error = _preload(arguments.preload)
    try:
        if error:
            channel.send(StartFailed(error=error))
            sys.exit(EXIT_START_FAILED)
        channel.send(SlotReady(pid=os.getpid()))
        SlotProcess(arguments, channel, SharedDeadline(arguments.lease_fd)).serve()
    except OSError as broken:
        print(f"slot {os.getpid()} ends: its agent is gone ({broken})", file=sys.stderr)
    # Not sys.exit: threads and atexit handlers that a task left behind must not keep the process alive.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
