"""The one event loop on which all blocking clients of a process run, in a thread of its own.

gRPC's asyncio layer wants one loop per process. The thread starts with the first request. A child that was forked
before that starts its own; one that was forked later cannot use gRPC at all, and is told so instead of hanging.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from raft_service.rpc.errors import RequestRefused

# How long the end of the process waits for the loop to come to rest.
STOP_TIMEOUT_S = 2.0

T = TypeVar("T")


class ClientThread:
    """A running loop in a daemon thread."""

    def __init__(self) -> None:
        """Starts the thread."""
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="control-plane-client", daemon=True)
        self._thread.start()
        atexit.register(self._stop)

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Runs a coroutine there and waits for it; an interrupt of the waiting thread cancels it.

        Raises:
            TimeoutError: timeout_s passed.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except BaseException:
            future.cancel()
            raise

    def _stop(self) -> None:
        if os.getpid() != self.pid:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop)
        self._thread.join(STOP_TIMEOUT_S)


async def _cancel_all() -> None:
    """Ends every task of the loop, then the loop."""
    loop = asyncio.get_running_loop()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S / 2)
    loop.call_soon(loop.stop)


_lock = threading.Lock()
_thread: ClientThread | None = None


def client_thread() -> ClientThread:
    """The thread of this process, started now if need be.

    Raises:
        RequestRefused: this process was forked from one that had used it.
    """
    global _thread
    with _lock:
        if _thread is None:
            _thread = ClientThread()
        if _thread.pid != os.getpid():
            raise RequestRefused(
                "This process was forked from one that had used the control plane, and gRPC does not survive that; "
                "start it with multiprocessing's spawn method, or fork before the first request."
            )
        return _thread


def _renew_lock() -> None:
    """In a forked child: another thread of the parent may have held the lock."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
