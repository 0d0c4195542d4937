"""What starts the pipelines: a job for each, a nightly schedule, and a sensor on new files in the raw prefix."""

# Dagster reads annotations at run time, so they must not become strings: no `from __future__ import annotations`.

import json
import re

from dagster import (
    AssetSelection,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunRequest,
    ScheduleDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    define_asset_job,
    sensor,
)

from orchestrator_pkg.pipelines import lineitem, matrices
from orchestrator_pkg.pipelines.raw_data import GENERATED_PREFIX, RAW_PREFIX
from orchestrator_pkg.resources import StoreResource
from orchestrator_pkg.store import Listed, StoreError

# The cursor names every file that was seen, and is stored with each tick.
RAW_OBJECTS_MAX = 2_000
# A flood of new files is spread over several ticks.
RUNS_PER_TICK_MAX = 20

lineitem_job = define_asset_job(
    "lineitem",
    selection=AssetSelection.groups(lineitem.GROUP),
    description="Generate TPC-H lineitem, ingest it, and reduce it to query 1's pricing summary.",
)
matrices_job = define_asset_job(
    "matrices",
    selection=AssetSelection.groups(matrices.GROUP),
    description="Statistics, principal components and a product of matrices with known answers.",
)
ingest_job = define_asset_job(
    "lineitem_ingest",
    selection=AssetSelection.assets("lineitem_blocks").downstream(),
    description="Ingest a Parquet file of the raw prefix, and reduce it.",
)

nightly_refresh = ScheduleDefinition(
    name="nightly_refresh",
    job=lineitem_job,
    cron_schedule="0 2 * * *",
    execution_timezone="UTC",
    default_status=DefaultScheduleStatus.STOPPED,
    description="The lineitem pipeline, every night at two.",
)


@sensor(
    job=ingest_job,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.STOPPED,
    description="Ingests each Parquet file that appears, or changes, under raw/ (not those the pipeline puts there).",
)
def new_raw_files(context: SensorEvaluationContext, store: StoreResource) -> SensorResult | SkipReason:
    """The cursor maps each seen key to its etag, so a changed file counts as new, and a clock does not matter."""
    try:
        found = {entry.key: entry for entry in store.open().list(RAW_PREFIX) if _is_wanted(entry)}
    except StoreError as error:
        return SkipReason(str(error))
    if len(found) > RAW_OBJECTS_MAX:
        return SkipReason(
            f"{len(found)} files under {RAW_PREFIX}; move those that were ingested, until {RAW_OBJECTS_MAX}."
        )
    seen: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
    new = [entry for entry in found.values() if seen.get(entry.key) != entry.etag][:RUNS_PER_TICK_MAX]
    # Files that are gone leave the cursor; new ones beyond the limit stay new.
    kept = {key: etag for key, etag in seen.items() if key in found}
    cursor = json.dumps(kept | {entry.key: entry.etag for entry in new})
    if not new:
        return SkipReason(f"No new Parquet file under {RAW_PREFIX}.")
    return SensorResult(run_requests=[_run_request(entry) for entry in new], cursor=cursor)


def _is_wanted(entry: Listed) -> bool:
    return entry.key.endswith(".parquet") and not entry.key.startswith(GENERATED_PREFIX)


def _run_request(entry: Listed) -> RunRequest:
    version = re.sub(r"\W", "", entry.etag)
    return RunRequest(
        run_key=f"{entry.key}@{version}",
        run_config={"ops": {"lineitem_blocks": {"config": {"raw_key": entry.key}}}},
        tags={"orchestrator/raw_key": re.sub(r"[^\w.-]", "_", entry.key)[-63:]},
    )


JOBS = (lineitem_job, matrices_job, ingest_job)
