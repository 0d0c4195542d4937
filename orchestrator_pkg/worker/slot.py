"""The agent's handle of one slot process: its start, its messages, its signals, its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator_pkg.worker.attempt import SlotKind
from orchestrator_pkg.worker.slot_messages import Message, SlotProtocolError, encode, read_message

logger = logging.getLogger(__name__)

FD_VARIABLE = "ORCHESTRATOR_SLOT_FD"
# How long what a dead slot has sent may take to be read; it lies in the socket's buffer.
LAST_WORDS_S = 0.5
# Slots speak to people on the agent's stderr: its stdout carries the one ready line and nothing else.
LOG_FD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOptions:
    """How to start slot processes, the same for all slots of a worker."""

    worker_id: str
    cloud_tag: str
    # Function that executes attempts, "module:function".
    handler: str
    # Modules that a slot imports before its first attempt.
    preload: tuple[str, ...]
    # Shared memory with the end of the lease.
    lease_fd: int
    # Resident memory above which a slot is replaced; 0: no limit.
    memory_max_bytes: int = 0
    # Environment on top of the agent's own.
    env: Mapping[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        """The command line of a slot process."""
        return [
            *(sys.executable, "-m", "orchestrator_pkg.worker.slot_process"),
            *("--handler", self.handler),
            *("--preload", ",".join(self.preload)),
            *("--worker-id", self.worker_id),
            *("--cloud-tag", self.cloud_tag),
            *("--parent-pid", str(os.getpid())),
            *("--lease-fd", str(self.lease_fd)),
            *("--memory-max-bytes", str(self.memory_max_bytes)),
        ]


class Slot:
    """One slot process, the leader of a session and process group of its own."""

    def __init__(self, *, kind: SlotKind, process: subprocess.Popen[bytes]) -> None:
        """Use `start`."""
        self.kind = kind
        self.pid = process.pid
        self.tasks_done = 0
        # True while it has executed nothing in its own process: a parent fit for forks (no threads, no CUDA).
        self.is_clean = True
        self.memory_bytes = 0
        # Code that attempts of this process have loaded.
        self.code_keys: set[str] = set()
        # Set when the process has ended and was reaped.
        self.exited = asyncio.Event()
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    @classmethod
    async def start(cls, *, kind: SlotKind, options: SlotOptions) -> Slot:
        """Starts a process; its first message tells whether it is ready.

        Runs the fork on the calling thread, which the process must not outlive (parent-death signal).

        Raises:
            OSError: the system cannot start a process.
        """
        ours, theirs = socket.socketpair()
        try:
            # Blocks for the few milliseconds of a vfork: on another thread the slot would die with that thread.
            process = subprocess.Popen(  # noqa: ASYNC220
                options.command(),
                stdin=subprocess.DEVNULL,
                stdout=LOG_FD,
                stderr=LOG_FD,
                env={**os.environ, **options.env, FD_VARIABLE: str(theirs.fileno())},
                pass_fds=(theirs.fileno(), options.lease_fd),
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        slot = cls(kind=kind, process=process)
        try:
            slot._reader, slot._writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            slot.kill()
            raise
        return slot

    def _reap(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # The dead leader still holds the group's number: the last moment to end what it left behind in the group.
        self.kill()
        self._process.wait()
        self.exited.set()
        if self._writer is not None:
            # A process that the slot forked into another session may hold the socket open: end it from our side, once
            # what the slot sent before its death was read.
            loop.call_later(LAST_WORDS_S, self._writer.transport.abort)

    async def receive(self) -> Message | None:
        """The next message; None when the process has ended or talks nonsense (then it is killed)."""
        assert self._reader is not None
        try:
            return await read_message(self._reader)
        except SlotProtocolError as error:
            logger.error("slot %d is killed: %s", self.pid, error)
            self.kill()
            return None

    async def send(self, message: Message) -> bool:
        """Sends a message; False when the process is gone."""
        assert self._writer is not None
        try:
            self._writer.write(encode(message))
            await self._writer.drain()
        except ConnectionError:
            return False
        return True

    def interrupt(self) -> None:
        """SIGINT to the process: user code gets a KeyboardInterrupt."""
        if not self.exited.is_set():
            os.kill(self.pid, signal.SIGINT)

    def freeze(self) -> None:
        """Stops the whole group; memory and connections stay."""
        self._signal_group(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen group go on."""
        self._signal_group(signal.SIGCONT)

    def kill(self) -> None:
        """Ends the whole group at once; a frozen one as well."""
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        # Until it is reaped the process id cannot name anybody else; afterwards it might.
        if self.exited.is_set():
            return
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass  # The group has ended and waits to be reaped.

    async def ended(self) -> str:
        """Waits for the end of the process and tells how it ended, for people."""
        await self.exited.wait()
        if self._writer is not None:
            self._writer.close()
        return end_in_words(self.pid, self._process.returncode)


def end_in_words(pid: int, returncode: int) -> str:
    """How a process ended, from its return code (negative: a signal)."""
    if returncode >= 0:
        return f"slot process {pid} ended with exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"  # A real-time signal has no name.
    return f"slot process {pid} was killed by {name}"
