"""Both shipped pipelines, whole: on the local store and on an S3 server, with equal bits however they are cut."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
import torch
from dagster._core.definitions.reconstruct import ReconstructableJob
from s3_server import moto_server

from orchestrator_pkg.io_managers import TensorIOManager
from orchestrator_pkg.pipelines import checks, lineitem, matrices, refresh
from orchestrator_pkg.publish import open_dataset
from orchestrator_pkg.resources import StoreResource
from orchestrator_pkg.store import ensure_bucket, open_store

pytestmark = pytest.mark.real

ASSETS = [*lineitem.ASSETS, *matrices.ASSETS, *checks.CHECKS]
# Small, odd sizes: a ragged last block, a ragged edge of tiles.
SMALL = {
    "lineitem_blocks": {"config": {"block_rows": 7_000}},
    "matrix_samples": {"config": {"rows": 7_168, "columns": 20, "block_rows": 512}},
    "matrix_a": {"config": {"size": 150, "tile": 64}},
    "matrix_b": {"config": {"size": 150, "tile": 64}},
}


def resources() -> dict[str, Any]:
    store = StoreResource()
    return {"store": store, "io_manager": TensorIOManager(store=store)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def local(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STORE_DIR": str(tmp_path / "store"), "DATA_DIR": str(data_dir), "SF": "0.01"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MINIO_ENDPOINT", raising=False)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as address:
        yield address


def steps(count: int) -> dict[str, Any]:
    chosen = {"config": {"steps": count}}
    return {
        "lineitem_pricing_summary": {"ops": {"lineitem_pricing_summary_plan": chosen}},
        "matrix_statistics": {"ops": {"matrix_statistics_plan": chosen}},
    }


def materialize(**ops: Any) -> dg.ExecuteInProcessResult:
    return dg.materialize(ASSETS, resources=resources(), run_config={"ops": SMALL | ops})


def results() -> dict[str, bytes]:
    """The bytes of every result; manifests name the attempt, blocks do not."""
    store = open_store()
    names = ("lineitem_pricing_summary", "matrix_statistics", "matrix_components", "matrix_product")
    return {name: b"".join(store.get(ref.info.key) for ref in open_dataset(store, name)) for name in names}


def assert_all_passed(result: dg.ExecuteInProcessResult) -> None:
    evaluations = result.get_asset_check_evaluations()
    assert len(evaluations) == len(checks.CHECKS)
    assert [each.check_name for each in evaluations if not each.passed] == []


def test_local_store_and_any_number_of_steps_give_equal_bits(local: None) -> None:
    found = []
    for count in (8, 1, 3):
        result = materialize(**steps(count))
        assert_all_passed(result)
        found.append(results())
        maps = [event for event in result.all_events if event.is_step_success and "_map[" in str(event.step_key)]
        assert len(maps) == 2 * count
    assert found[0] == found[1] == found[2]


def test_s3_gives_the_bits_of_the_local_store(local: None, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_all_passed(materialize())
    wanted = results()
    monkeypatch.setenv("MINIO_ENDPOINT", endpoint)
    ensure_bucket()
    assert_all_passed(materialize())
    assert results() == wanted


@pytest.mark.timeout(240)
def test_dagsters_multiprocess_executor_gives_equal_bits(local: None, tmp_path: Path) -> None:
    ops = {"matrix_samples": SMALL["matrix_samples"]} | only_matrices(2)
    chosen = [matrices.matrix_samples, matrices.matrix_statistics]
    assert dg.materialize(chosen, resources=resources(), run_config={"ops": ops}).success
    wanted = open_dataset(open_store(), "matrix_statistics").manifest
    file = Path(__file__).with_name("pipelines_multiprocess.py")
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        job = ReconstructableJob.for_file(str(file), "matrices_job")
        assert dg.execute_job(job, instance=instance, run_config={"ops": ops}).success
    found = open_dataset(open_store(), "matrix_statistics").manifest
    assert found.blocks[0].key != wanted.blocks[0].key
    assert found.crc32c == wanted.crc32c


def only_matrices(count: int) -> dict[str, Any]:
    return {"matrix_statistics": steps(count)["matrix_statistics"]}


def test_a_refresh_in_the_middle_does_not_mix_versions(local: None) -> None:
    """The map steps read the blocks that the plan step saw, not those of a later version."""
    materialize()
    pinned = open_dataset(open_store(), "lineitem_blocks").slice(range(2))
    dg.materialize(
        [lineitem.lineitem_blocks],
        resources=resources(),
        run_config={"ops": {"lineitem_blocks": {"config": {"block_rows": 500}}}},
    )
    assert pinned[0].load()["tax"].shape == (7_000,)


@pytest.mark.parametrize("name", ["matrix_product", "lineitem_pricing_summary", "matrix_statistics"])
def test_checks_can_fail(local: None, name: str) -> None:
    """A result that is off by one in one entry does not pass."""
    materialize()
    dataset = open_dataset(open_store(), name)
    block = dataset[0].load()
    changed = {
        "matrix_product": "tile",
        "lineitem_pricing_summary": "sum.price",
        "matrix_statistics": "pairs.covariance",
    }
    block[changed[name]].reshape(-1)[0] += 1
    tampered = lineitem.BlockStream([block, *(ref.load() for ref in list(dataset)[1:])], dict(dataset.attributes))
    value = tampered if dataset.manifest.kind == "dataset" else block

    @dg.asset(name=name)
    def replacement() -> Any:
        return value

    own = [check for check in checks.CHECKS if dg.AssetKey(name) in {spec.asset_key for spec in check.check_specs}]
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([replacement], resources=resources(), instance=instance).success
        result = dg.materialize(
            [*ASSETS], resources=resources(), instance=instance, selection=dg.AssetSelection.checks(*own)
        )
    evaluations = result.get_asset_check_evaluations()
    assert evaluations
    assert not all(each.passed for each in evaluations)


def test_oracles_agree(local: None) -> None:
    materialize()
    store = open_store()
    key = str(open_dataset(store, "lineitem_blocks").attributes["raw_key"])
    with lineitem.open_parquet(store, key) as parquet:
        table = parquet.read(columns=list(lineitem.NEEDED))
    by_duckdb = [checks._exact_row(row) for row in checks._by_duckdb(table)]
    assert by_duckdb == [checks._exact_row(row) for row in checks._by_pyarrow(table)]
    assert len(by_duckdb) == 4


def test_sensor_starts_one_ingest_for_each_new_file(local: None) -> None:
    materialize()
    store = open_store()
    with lineitem.open_parquet(store, "raw/generated/lineitem-sf0.01.parquet") as parquet:
        part = parquet.read().slice(0, 1000)
    instance = dg.DagsterInstance.ephemeral()

    def tick(cursor: str | None) -> Any:
        context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"store": StoreResource()})
        return refresh.new_raw_files(context)

    assert isinstance(tick(None), dg.SkipReason), "what the pipeline generated starts nothing"
    path = Path(open_store().describe()["root"]) / "raw" / "mine.parquet"
    pq.write_table(part, path)
    found = tick(None)
    (request,) = found.run_requests
    assert isinstance(tick(found.cursor), dg.SkipReason)
    pq.write_table(part.slice(0, 500), path)
    (again,) = tick(found.cursor).run_requests
    assert again.run_key != request.run_key
    result = dg.materialize(
        ASSETS,
        resources=resources(),
        run_config=again.run_config,
        selection=dg.AssetSelection.assets("lineitem_blocks").downstream(),
        instance=instance,
    )
    assert result.success
    assert open_dataset(store, "lineitem_blocks").manifest.rows == 500
    assert "raw/mine.parquet" in json.loads(found.cursor)


def test_samples_can_be_made_again_from_their_index(local: None) -> None:
    materialize()
    samples = open_dataset(open_store(), "matrix_samples")
    again = matrices.samples_of(samples.attributes).row_block(3 * 512, 512)
    assert torch.equal(samples[3].load()["x"], again)
