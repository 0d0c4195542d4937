"""Bad input of the lineitem pipeline: one sentence with the cure, nothing half-written."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from orchestrator_pkg.config import ConfigError, PipelineSettings, load
from orchestrator_pkg.failures import BadInput, plain_failures
from orchestrator_pkg.io_managers import LocalTensorIOManager
from orchestrator_pkg.pipelines import columns, lineitem, raw_data
from orchestrator_pkg.pipelines.lineitem import IngestConfig, ingest
from orchestrator_pkg.store import LocalStore

KEY = "raw/mine.parquet"


def table(**changes: Any) -> pa.Table:
    """A small lineitem; a column that is changed to None is left out."""
    money = pa.decimal128(15, 2)
    given: dict[str, Any] = {
        "l_quantity": pa.array([Decimal("17.00"), Decimal("36.00")], money),
        "l_extendedprice": pa.array([Decimal("21168.23"), Decimal("45983.16")], money),
        "l_discount": pa.array([Decimal("0.04"), Decimal("0.09")], money),
        "l_tax": pa.array([Decimal("0.02"), Decimal("0.06")], money),
        "l_returnflag": pa.array(["N", "R"]),
        "l_linestatus": pa.array(["O", "F"]),
        "l_shipdate": pa.array([datetime.date(1996, 3, 13), datetime.date(1992, 4, 12)]),
    } | changes
    return pa.table({name: column for name, column in given.items() if column is not None})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    monkeypatch.setenv("STORE_DIR", str(tmp_path / "store"))
    monkeypatch.delenv("MINIO_ENDPOINT", raising=False)
    return LocalStore(tmp_path / "store")


def put(store: LocalStore, content: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(content, sink)
    store.put(KEY, memoryview(sink.getvalue()))


def materialize(store: LocalStore, **config: Any) -> str:
    """Materializes lineitem_blocks and returns the sentence of its failure, "" when it succeeded."""
    result = dg.materialize(
        [lineitem.lineitem_blocks],
        resources={
            "io_manager": LocalTensorIOManager(root=str(store.root)),
            "store": lineitem.StoreResource(),
        },
        run_config={"ops": {"lineitem_blocks": {"config": {"raw_key": KEY, **config}}}},
        raise_on_error=False,
    )
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    if not failures:
        return ""
    assert failures[0].user_failure_data is not None, failures[0].error
    assert failures[0].error.cause is None, "the traceback of the cause must not follow"
    return str(failures[0].user_failure_data.description)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"l_tax": None, "l_shipdate": None}, "lacks the columns l_tax, l_shipdate"),
        ({"l_quantity": pa.array(["17", "36"])}, "Column l_quantity is of type string, not numeric"),
        ({"l_quantity": pa.array([True, False])}, "Column l_quantity is of type bool, not numeric"),
        ({"l_tax": pa.array([0.02, float("nan")])}, "Column l_tax has 1 missing values"),
        ({"l_tax": pa.array([None, None], pa.float64())}, "Column l_tax has 2 missing values"),
        ({"l_tax": pa.array([0.02, 0.061])}, "more than two decimals"),
        ({"l_tax": pa.array([0.02, float("inf")])}, "infinite"),
        ({"l_discount": pa.array([Decimal("0.041"), Decimal("0.1")])}, "more than two decimals"),
        ({"l_returnflag": pa.array(["N", "X"])}, "holds 'X', known are A, N, R"),
        ({"l_linestatus": pa.array([1, 2])}, "not text"),
        ({"l_shipdate": pa.array(["1996-03-13", "1992-04-12"])}, "not a date"),
    ],
)
def test_wrong_columns(store: LocalStore, changes: dict[str, Any], said: str) -> None:
    put(store, table(**changes))
    sentence = materialize(store)
    assert said in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert not store.exists("lineitem_blocks/current.json"), "nothing half-written may be visible"


def test_empty_file(store: LocalStore) -> None:
    put(store, table().slice(0, 0))
    assert "holds no rows; upload" in materialize(store)


def test_all_rows_omitted_is_an_empty_dataset(store: LocalStore) -> None:
    put(store, table(l_tax=pa.array([None, None], pa.float64())))
    assert "dataset is empty" in materialize(store, nan_policy="omit")


def test_missing_file(store: LocalStore) -> None:
    assert "materialize lineitem_raw, or upload it" in materialize(store)


def test_unreadable_file(store: LocalStore) -> None:
    store.put(KEY, b"this is no parquet file at all")
    assert "no readable Parquet file" in materialize(store)


def test_damaged_pages(store: LocalStore) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table(), sink, write_page_checksum=True, compression="snappy")
    data = bytearray(sink.getvalue().to_pybytes())
    data[4:200] = b"\xff" * 196
    store.put(KEY, data)
    assert "damaged" in materialize(store)
    assert not store.exists("lineitem_blocks/current.json")


def test_a_failed_refresh_keeps_the_last_good_version(store: LocalStore) -> None:
    put(store, table())
    assert materialize(store) == ""
    before = store.get("lineitem_blocks/current.json")
    put(store, table(l_returnflag=pa.array(["N", "X"])))
    assert materialize(store, block_rows=1)
    assert store.get("lineitem_blocks/current.json") == before


def test_block_rows_must_be_positive(store: LocalStore) -> None:
    put(store, table())
    assert "block_rows is 0" in materialize(store, block_rows=0)


def test_omit_leaves_out_rows_with_nan(store: LocalStore) -> None:
    put(store, table(l_tax=pa.array([None, 0.06])))
    (block,) = ingest(store, KEY, IngestConfig(nan_policy="omit"))
    assert block["tax"].tolist() == [6]
    assert block["price"].tolist() == [4598316]


def test_any_numeric_type_becomes_the_same_hundredths() -> None:
    wanted = torch.tensor([-150, 0, 205])
    exact = pa.array([Decimal("-1.5"), Decimal("0.0"), Decimal("2.05")])
    sliced = pa.concat_arrays([exact, exact]).slice(3)
    for column in (exact, sliced, exact.cast(pa.decimal256(40, 4)), pa.array([-1.5, 0.0, 2.05])):
        assert torch.equal(columns.hundredths(column, "c"), wanted)
    assert columns.hundredths(pa.array([1, -2], pa.int16()), "c").tolist() == [100, -200]


def test_blocks_have_a_fixed_number_of_rows(store: LocalStore) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables([table()] * 50), sink, row_group_size=7)
    store.put(KEY, memoryview(sink.getvalue()))
    blocks = list(ingest(store, KEY, IngestConfig(block_rows=16)))
    assert [len(block["tax"]) for block in blocks] == [16] * 6 + [4]
    assert torch.equal(torch.cat([block["tax"] for block in blocks]), torch.tensor([2, 6] * 50))


@pytest.mark.parametrize("text", ["x", "0", "-1", "1000", "nan"])
def test_scale_factor_out_of_range(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SF", text)
    with pytest.raises(ConfigError, match=f"SF='{text}' is not valid"):
        raw_data.scale_factor()


@pytest.mark.parametrize("text", ["x", "0", "-1", "10001"])
def test_map_steps_out_of_range(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAP_STEPS", text)
    with pytest.raises(ConfigError, match=f"MAP_STEPS='{text}' is not valid"):
        load(PipelineSettings)


def test_generator_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(raw_data.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(BadInput, match="pip install tpchgen-cli"):
        raw_data.generate_lineitem("0.01")


def test_generator_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    script = tmp_path / "tpchgen-cli"
    script.write_text("#!/bin/sh\necho half > ${5#--output-dir=}/lineitem.parquet\necho disk full >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(raw_data.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(BadInput, match=r"status 3 .disk full"):
        raw_data.generate_lineitem("0.01")
    assert list((tmp_path / "data" / "raw").iterdir()) == []


def test_upload_of_a_missing_or_empty_file(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        raw_data.upload(store, tmp_path / "none", KEY)
    (tmp_path / "empty").touch()
    with pytest.raises(BadInput, match="is empty"):
        raw_data.upload(store, tmp_path / "empty", KEY)


def test_a_programming_error_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), plain_failures():
        _ = 1 / 0


def test_values_that_would_need_pickle_are_refused(tmp_path: Path) -> None:
    @dg.asset
    def strange() -> object:
        return object()

    manager = LocalTensorIOManager(root=str(tmp_path))
    result = dg.materialize([strange], resources={"io_manager": manager}, raise_on_error=False)
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert "cannot be stored without pickle" in str(failure.user_failure_data)
