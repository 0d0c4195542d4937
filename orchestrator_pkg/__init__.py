"""The Dagster plugin: run launcher, executor, I/O managers, map/reduce assets and the worker.

Names are loaded on first use, so that the worker's agent and the CLI start without Dagster and torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from raft_service import __version__

if TYPE_CHECKING:
    from orchestrator_pkg.executor import orchestrator_executor
    from orchestrator_pkg.io_managers import LocalTensorIOManager, S3TensorIOManager
    from orchestrator_pkg.launcher import OrchestratorRunLauncher
    from orchestrator_pkg.mapreduce import map_reduce_asset
    from orchestrator_pkg.resources import StoreResource

__all__ = [
    "LocalTensorIOManager",
    "OrchestratorRunLauncher",
    "S3TensorIOManager",
    "StoreResource",
    "__version__",
    "map_reduce_asset",
    "orchestrator_executor",
]

_HOMES = {
    "LocalTensorIOManager": "io_managers",
    "OrchestratorRunLauncher": "launcher",
    "S3TensorIOManager": "io_managers",
    "StoreResource": "resources",
    "map_reduce_asset": "mapreduce",
    "orchestrator_executor": "executor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
