"""One process of a local cluster: started, awaited, killed, and never left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# A Python process with gRPC and Dagster starts in 2 to 4 s on two busy cores; ten times that is a hang.
READY_TIMEOUT_S = 60.0
# How long a process may take to end on SIGTERM before it is killed. A leader hands over in milliseconds; a worker
# ends its slots first.
STOP_TIMEOUT_S = 10.0
LOG_LINES_SHOWN = 15

# Runs before the command, in its process: SIGKILL when the starter dies, however it dies. Not by Popen's preexec_fn,
# which forks a process with gRPC's threads in it: a few children in a hundred crash in gRPC's fork handler.
_DIE_WITH_PARENT = (
    "import ctypes, os, signal, sys; "
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL); "  # 1 is PR_SET_PDEATHSIG
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


class StartFailed(Exception):
    """A process ended or stayed silent instead of becoming ready; the message has its last words."""


def free_ports(count: int) -> list[int]:
    """Returns loopback ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class ManagedProcess:
    """A child process in a session of its own, with what it says in a log file.

    With is_announcing, its stdout is kept for the one line that says that it is ready.

    Start it from a thread that lives as long as the process shall (the kernel's parent-death signal follows the
    thread).
    """

    def __init__(
        self,
        *,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        log_dir: Path,
        is_announcing: bool = False,
    ) -> None:
        self.name = name
        self.ready: dict[str, Any] = {}
        self.log_path = log_dir / f"{name}.log"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, *command],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if is_announcing else log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, also of one that has ended."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True until the process has ended."""
        return self._process.poll() is None

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> dict[str, Any]:
        """Waits for the one JSON line that says the process serves, and returns it.

        Raises:
            StartFailed: the process ended first, or said nothing in time.
        """
        stdout = self._process.stdout
        if stdout is None:
            raise ValueError(f"{self.name} was not started to announce itself")
        deadline = time.monotonic() + timeout_s
        received = b""
        while b"\n" not in received:
            left = deadline - time.monotonic()
            readable, _, _ = select.select([stdout], [], [], max(0.0, left))
            chunk = os.read(stdout.fileno(), 65536) if readable else b""
            if not chunk:
                said = "ended" if readable else f"was not ready within {timeout_s:.0f} s"
                raise StartFailed(f"{self.name} {said}. Its last words ({self.log_path}):\n{self.last_words()}")
            received += chunk
        self.ready = json.loads(received.splitlines()[0])
        return self.ready

    def last_words(self) -> str:
        """The last lines of its log."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES_SHOWN:]) or "(it said nothing)"

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process alone; one that has ended is left alone."""
        if self.is_running:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the process alone, and waits until it is gone: what a crash looks like."""
        self.send(signal.SIGKILL)
        self._process.wait()

    def request_stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Asks it to end, without waiting."""
        self.send(number)

    def wait_stopped(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Waits for the end, kills the whole process group when it takes too long; returns the exit status."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self._process.returncode
