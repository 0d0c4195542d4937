"""An HTTP server inside the process's own event loop, for pages and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

# How long open requests may take when the process ends; pages answer in milliseconds.
SHUTDOWN_S = 1


class PortInUse(Exception):
    """A port cannot be taken; the message is one sentence with the cure."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves one ASGI application on one port."""

    def __init__(self, app: Any, *, host: str, port: int, variable: str) -> None:
        """Takes the port at once.

        Args:
            app: the ASGI application.
            host: address to listen at.
            port: 0 takes a free one.
            variable: the setting that chose the port, for the error.

        Raises:
            PortInUse: another process listens there, or it is not ours to take.
        """
        self._socket = bound(host, port, variable)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=SHUTDOWN_S
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to serve; the socket queues requests until then."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve([self._socket]), name="http")

    async def stop(self) -> None:
        """Ends within SHUTDOWN_S."""
        if self._task is not None:
            self._server.should_exit = True
            await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()


def bound(host: str, port: int, variable: str) -> socket.socket:
    """A listening socket.

    Raises:
        PortInUse: the port cannot be taken; the message names `variable` as the cure.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # A port in TIME_WAIT after a restart is free; one on which somebody listens is still refused.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise PortInUse(
            f"Port {port} on {host} {why}; stop what listens there, or choose another port with {variable}."
        ) from None
    return listener
