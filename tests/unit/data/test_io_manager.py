"""The I/O manager: what goes in comes out, attempts are fenced, partitions and retries keep apart."""

from pathlib import Path

import dagster as dg
import pytest
import torch

from orchestrator_pkg.dataset import BlockRef, BlockStream, Dataset
from orchestrator_pkg.io_managers import LocalTensorIOManager, asset_dataset_key
from orchestrator_pkg.publish import AttemptInfo, Published, attempt_scope, open_dataset, publish
from orchestrator_pkg.store import LocalStore, ObjectMissing


@pytest.fixture
def manager(tmp_path: Path) -> LocalTensorIOManager:
    return LocalTensorIOManager(root=str(tmp_path))


def run(assets: list[dg.AssetsDefinition], manager: LocalTensorIOManager, **more: object) -> dg.ExecuteInProcessResult:
    return dg.materialize(assets, resources={"io_manager": manager}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, 3, "text", [1, 2.5], {"a": [None, True]}, {}])
def test_json_values_come_back(manager: LocalTensorIOManager, value: object) -> None:
    seen: list[object] = []

    @dg.asset(name="given")
    def given() -> object:
        return value

    @dg.asset(ins={"given": dg.AssetIn("given")})
    def taken(given: object) -> None:
        seen.append(given)

    assert run([given, taken], manager).success
    assert seen == [value]


def taken_whole(seen: list[object]) -> dg.AssetsDefinition:
    def taken(given) -> None:  # type: ignore[no-untyped-def]
        seen.append(given)

    return dg.asset(name="taken")(taken)


def taken_lazily(seen: list[object], annotation: type) -> dg.AssetsDefinition:
    def taken(given) -> None:  # type: ignore[no-untyped-def]
        seen.append(given)

    taken.__annotations__["given"] = annotation
    return dg.asset(name="taken")(taken)


@dg.asset(name="given")
def three_blocks() -> BlockStream:
    return BlockStream(({"x": torch.full((2,), float(i))} for i in range(3)), {"seed": 5})


def test_a_dataset_comes_back_lazily(manager: LocalTensorIOManager) -> None:
    seen: list[object] = []
    assert run([three_blocks, taken_lazily(seen, Dataset)], manager).success
    (dataset,) = seen
    assert isinstance(dataset, Dataset)
    assert (len(dataset), dataset.attributes["seed"], dataset.manifest.rows) == (3, 5, 6)
    assert [block.load()["x"][0].item() for block in dataset] == [0.0, 1.0, 2.0]


def test_a_block_ref_and_an_unannotated_dataset(manager: LocalTensorIOManager) -> None:
    seen: list[object] = []
    assert run([three_blocks, taken_lazily(seen, BlockRef)], manager).success
    assert run([three_blocks, taken_whole(seen)], manager).success
    assert isinstance(seen[0], BlockRef)
    assert isinstance(seen[1], Dataset)


def test_metadata_of_a_dataset(manager: LocalTensorIOManager) -> None:
    result = run([three_blocks], manager)
    metadata = result.asset_materializations_for_node("given")[0].metadata
    assert metadata["blocks"].value == 3
    assert metadata["rows"].value == 6
    assert metadata["tensors"].value == {"x": "F32 [2]"}
    assert {"bytes", "seconds", "stored_bytes", "stored_seconds", "stored_MB_per_s", "checksum"} <= set(metadata)


def test_equal_data_have_an_equal_checksum(manager: LocalTensorIOManager) -> None:
    checksums = {
        run([three_blocks], manager).asset_materializations_for_node("given")[0].metadata["checksum"].value
        for _ in range(2)
    }
    assert len(checksums) == 1


def test_in_a_slot_nothing_is_visible_before_the_commit_point(manager: LocalTensorIOManager) -> None:
    info = AttemptInfo(run_id="r", step_key="given", token=(1, 7), number=1)
    store = LocalStore(Path(manager.root))
    with attempt_scope(info):
        assert run([three_blocks], manager).success
    with pytest.raises(ObjectMissing):
        open_dataset(store, "given")
    (intent,) = info.intents.to_dicts()
    assert publish(intent) is Published.SWAPPED
    assert len(open_dataset(store, "given")) == 3
    assert intent["token"] == [1, 7]


def test_partitions_are_apart_and_load_together(manager: LocalTensorIOManager) -> None:
    parts = dg.StaticPartitionsDefinition(["a/b", "c d"])
    seen: list[object] = []

    @dg.asset(partitions_def=parts)
    def piece(context: dg.AssetExecutionContext) -> torch.Tensor:
        return torch.tensor(float(len(context.partition_key)))

    def whole(piece) -> None:  # type: ignore[no-untyped-def]
        seen.append(piece)

    with dg.DagsterInstance.ephemeral() as instance:
        for key in parts.get_partition_keys():
            assert run([piece], manager, partition_key=key, instance=instance).success
        gathered = dg.asset(name="whole")(whole)
        assert run([piece, gathered], manager, instance=instance, selection=[gathered]).success
    assert seen == [{"a/b": torch.tensor(3.0), "c d": torch.tensor(3.0)}]
    assert asset_dataset_key(["x"], "a/b") == "x/partition=a%2Fb"


def test_two_attempts_never_share_a_key(manager: LocalTensorIOManager) -> None:
    for _ in range(2):
        run([three_blocks], manager)
    keys = [entry.key for entry in LocalStore(Path(manager.root)).list("given/_attempts/")]
    assert len({key.split("/")[2] for key in keys}) == 2
    assert len(keys) == 8
