"""Finds the control plane of a Dagster instance: the configured cluster, or the embedded one of its folder."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from dagster import DagsterInstance

from orchestrator_pkg.config import ClientSettings, load

if TYPE_CHECKING:
    from raft_service.rpc.client import Client

# Callers wait patiently by themselves where they can; elsewhere (launch, terminate) people wait for the answer.
DEADLINE_S = 30.0

_lock = threading.Lock()
# By addresses; a forked child makes its own.
_clients: dict[tuple[int, tuple[str, ...]], Client] = {}


def client_for(instance: DagsterInstance, *, control_plane: str | None = None) -> Client:
    """A blocking client of the control plane that serves this instance; one a process.

    Args:
        instance: Dagster's.
        control_plane: "host:port,..." that wins over ORCHESTRATOR_ADDR; None: not configured.

    Raises:
        ConfigError: the settings are wrong.
        EmbeddedError: no control plane is configured, and the embedded one does not start.
    """
    settings = load(ClientSettings, orchestrator_addr=control_plane)
    endpoints = settings.endpoints
    if not endpoints:
        from orchestrator_pkg.embedded import attach

        endpoints = (attach(instance),)
    key = os.getpid(), endpoints
    with _lock:
        if key not in _clients:
            from raft_service.rpc.client import Client

            name = f"dagster@{os.uname().nodename}:{os.getpid()}"
            _clients[key] = Client(endpoints, name=name, tls=settings.tls, deadline_s=DEADLINE_S)
        return _clients[key]
