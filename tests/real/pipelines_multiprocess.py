"""The matrices pipeline under Dagster's multiprocess executor, in a file that its child processes can load."""

import dagster as dg

from orchestrator_pkg.io_managers import TensorIOManager
from orchestrator_pkg.pipelines import matrices
from orchestrator_pkg.resources import StoreResource

NAME = "matrices_multiprocess"


def matrices_job() -> dg.JobDefinition:
    """Statistics and components only: enough for fan-out and gathering."""
    store = StoreResource()
    job = dg.define_asset_job(
        NAME,
        selection=dg.AssetSelection.assets("matrix_samples", "matrix_statistics"),
        executor_def=dg.multiprocess_executor.configured({"max_concurrent": 2}),
    )
    definitions = dg.Definitions(
        assets=list(matrices.ASSETS),
        jobs=[job],
        resources={"store": store, "io_manager": TensorIOManager(store=store)},
    )
    return definitions.get_job_def(NAME)
