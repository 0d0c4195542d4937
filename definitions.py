"""The assets, checks, jobs, schedule and sensor that ship with the project; `dagster dev` shows them.

They are plain Dagster assets: only `executor` below is ours, so they run unchanged under Dagster's own executors.
"""

from __future__ import annotations

from dagster import Definitions

from orchestrator_pkg.executor import orchestrator_executor
from orchestrator_pkg.io_managers import TensorIOManager
from orchestrator_pkg.pipelines import checks, lineitem, matrices, refresh
from orchestrator_pkg.resources import SettingsS3Resource, StoreResource

store = StoreResource()

defs = Definitions(
    assets=[*lineitem.ASSETS, *matrices.ASSETS],
    asset_checks=list(checks.CHECKS),
    jobs=list(refresh.JOBS),
    schedules=[refresh.nightly_refresh],
    sensors=[refresh.new_raw_files],
    executor=orchestrator_executor,
    resources={"store": store, "io_manager": TensorIOManager(store=store), "s3": SettingsS3Resource()},
)
