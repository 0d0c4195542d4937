"""The S3 store against a real server process, and against servers that refuse."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import dagster as dg
import pytest
import torch
from dagster_aws.s3 import S3Resource
from s3_server import answering, breaking_off, free_port, moto_server

from orchestrator_pkg.config import StoreSettings
from orchestrator_pkg.io_managers import S3TensorIOManager
from orchestrator_pkg.publish import PublishIntent, open_dataset, publish
from orchestrator_pkg.store import (
    AccessDenied,
    BucketMissing,
    ChecksumMismatch,
    ObjectMissing,
    PreconditionFailed,
    StoreUnreachable,
    StoreUnsuitable,
    ensure_bucket,
    open_described,
    open_store,
)
from orchestrator_pkg.store.base import crc32c_of
from orchestrator_pkg.store.client import s3_client
from orchestrator_pkg.store.s3 import PART_BYTES, BufferChain, S3Store

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as address:
        yield address


@pytest.fixture
def settings(endpoint: str) -> StoreSettings:
    return StoreSettings(endpoint=endpoint, bucket=f"bucket-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def store(settings: StoreSettings) -> S3Store:
    ensure_bucket(settings)
    found = open_store(settings)
    assert isinstance(found, S3Store)
    return found


def test_gives_back_what_was_put_and_its_checksum(store: S3Store) -> None:
    stored = store.put("a/b", [b"one", memoryview(b"two")])
    assert store.read("a/b") == (b"onetwo", stored)
    assert store.head("a/b") == stored
    assert stored.crc32c == crc32c_of(b"onetwo")
    assert store.get("a/b", (1, 4)) == b"net"
    assert [entry.key for entry in store.list("a/")] == ["a/b"]
    store.delete("a/b")
    assert not store.exists("a/b")


def test_the_server_keeps_our_crc32c_as_its_own(store: S3Store, settings: StoreSettings) -> None:
    store.put("k", b"123456789")
    answer = s3_client(settings).head_object(Bucket=settings.bucket, Key="k", ChecksumMode="ENABLED")
    assert answer["ChecksumCRC32C"] == "4waSgw=="  # e3069283, the check value of CRC32C


def test_large_objects_go_and_come_in_parts(settings: StoreSettings) -> None:
    ensure_bucket(settings)
    store = S3Store(s3_client(settings), settings.bucket, single_put_bytes_max=PART_BYTES)
    data = torch.randint(0, 256, (2 * PART_BYTES + 12_345,), dtype=torch.uint8)
    view = memoryview(data.numpy())
    stored = store.put("large", [view[:1000], view[1000:]])
    assert stored.etag.endswith('-3"'), "three parts"
    room = torch.zeros_like(data)
    store.get_into("large", memoryview(room.numpy()))
    assert torch.equal(room, data)
    with pytest.raises(PreconditionFailed):
        store.put("large", view, if_absent=True)
    uploads = s3_client(settings).list_multipart_uploads(Bucket=settings.bucket)
    assert not uploads.get("Uploads"), "a refused upload leaves no parts behind"


def test_finds_damage(store: S3Store, settings: StoreSettings) -> None:
    crc = {"crc32c": f"{crc32c_of(b'12345678'):08x}"}
    s3_client(settings).put_object(Bucket=settings.bucket, Key="k", Body=b"1234567X", Metadata=crc)
    with pytest.raises(ChecksumMismatch, match="damaged"):
        store.get("k")
    with pytest.raises(ChecksumMismatch, match="damaged"):
        store.get_into("k", memoryview(bytearray(8)))
    with pytest.raises(ChecksumMismatch, match="8 bytes where 9"):
        store.get_into("k", memoryview(bytearray(9)))


def test_conditions(store: S3Store) -> None:
    first = store.put("k", b"1", if_absent=True)
    with pytest.raises(PreconditionFailed):
        store.put("k", b"2", if_absent=True)
    store.compare_and_swap("k", b"2", expected_etag=first.etag)
    with pytest.raises(PreconditionFailed):
        store.compare_and_swap("k", b"3", expected_etag=first.etag)
    assert store.get("k") == b"2"


def test_racing_publishers_end_with_the_largest_token(store: S3Store) -> None:
    intents = [PublishIntent(store.describe(), "d", f"m{n}", "run", token=(1, n)) for n in range(1, 7)]
    threads = [threading.Thread(target=publish, args=(intent,), kwargs={"store": store}) for intent in intents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert b'"manifest":"m6"' in store.get("d/current.json")


def test_described_store_opens_with_credentials_of_the_settings(
    store: S3Store, settings: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("k", b"x")
    description = store.describe()
    assert settings.secret_key not in str(description)
    monkeypatch.setenv("MINIO_ENDPOINT", settings.endpoint)
    assert open_described(description).get("k") == b"x"


def test_io_manager_on_dagster_aws_resource(store: S3Store, settings: StoreSettings) -> None:
    resource = S3Resource(
        endpoint_url=settings.endpoint,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    manager = S3TensorIOManager(s3=resource, bucket=settings.bucket, prefix="team")

    @dg.asset
    def numbers() -> dict[str, torch.Tensor]:
        return {"x": torch.arange(6.0).reshape(2, 3), "codes": torch.tensor([1, 2], dtype=torch.uint8)}

    @dg.asset
    def total(numbers: dict[str, torch.Tensor]) -> torch.Tensor:
        return numbers["x"].sum()

    result = dg.materialize([numbers, total], resources={"io_manager": manager, "s3": resource})
    assert result.success
    assert result.output_for_node("total").item() == 15.0
    below = S3Store(s3_client(settings), settings.bucket, prefix="team")
    assert open_dataset(below, "total")[0].load()["value"].item() == 15.0
    metadata = result.asset_materializations_for_node("numbers")[0].metadata
    assert metadata["tensors"].value == {"x": "F32 [2, 3]", "codes": "U8 [2]"}
    assert str(metadata["checksum"].value).startswith("crc32c:")
    assert metadata["stored_MB_per_s"].value > 0


def test_boto3s_transfer_manager_is_never_used(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may choose the CRT client, which sends a custom endpoint's traffic to AWS."""
    import boto3.s3.transfer

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("boto3's transfer manager was used")

    monkeypatch.setattr(boto3.s3.transfer, "create_transfer_manager", refuse)
    store.put("k", b"x" * 100)
    store.get_into("k", memoryview(bytearray(100)))


def test_buffer_chain_reads_like_a_file() -> None:
    chain = BufferChain((memoryview(b"abc"), memoryview(b"defgh"), memoryview(b"i")))
    assert len(chain) == 9
    assert chain.read() == b"abcdefghi"
    assert chain.seek(2) == 2
    assert chain.read(4) == b"c", "one piece of memory at a time, as a raw file may"
    assert b"".join(bytes(part) for part in chain.slice(2, 9)) == b"cdefghi"


# ------------------------------------------------------------------------------------------------------ bad input


def one_sentence(error: pytest.ExceptionInfo[Exception], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    for word in words:
        assert word in text


def test_missing_bucket(settings: StoreSettings) -> None:
    store = open_store(settings)
    for call in (
        lambda: store.put("k", b"x"),
        lambda: store.get("k"),
        lambda: store.head("k"),
        lambda: list(store.list()),
    ):
        with pytest.raises(BucketMissing) as error:
            call()
        one_sentence(error, settings.bucket, "create it", "MINIO_BUCKET")


def test_missing_object(store: S3Store) -> None:
    for call in (store.get, store.head):
        with pytest.raises(ObjectMissing) as error:
            call("none")
        one_sentence(error, "none", "materialize")


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"])
def test_wrong_credentials(code: str) -> None:
    with answering(403, code) as address:
        store = open_store(StoreSettings(endpoint=address))
        for call in (lambda: store.put("k", b"x"), lambda: store.head("k"), lambda: store.ensure()):
            with pytest.raises(AccessDenied) as error:
                call()
            one_sentence(error, address, "MINIO_ROOT_USER")


def test_a_server_without_conditional_writes() -> None:
    with answering(501, "NotImplemented") as address:
        store = open_store(StoreSettings(endpoint=address))
        with pytest.raises(StoreUnsuitable) as error:
            store.put("k", b"x", if_absent=True)
        one_sentence(error, "conditional writes")


def test_a_server_that_ignores_conditions() -> None:
    with answering(200, "ignored") as address, pytest.raises(StoreUnsuitable) as error:
        ensure_bucket(StoreSettings(endpoint=address))
    one_sentence(error, "ignores conditional writes")


def test_a_body_that_breaks_off_is_fetched_again() -> None:
    with breaking_off(b"12345678", broken_answers=2) as address:
        room = bytearray(8)
        open_store(StoreSettings(endpoint=address)).get_into("k", memoryview(room))
        assert bytes(room) == b"12345678"
    with breaking_off(b"12345678", broken_answers=1) as address:
        assert open_store(StoreSettings(endpoint=address)).get("k") == b"12345678"
    with breaking_off(b"12345678", broken_answers=99) as address, pytest.raises(StoreUnreachable) as error:
        open_store(StoreSettings(endpoint=address)).get("k")
    one_sentence(error, address)


def test_unreachable_endpoint() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StoreUnreachable) as error:
        open_store(StoreSettings(endpoint=address)).get("k")
    one_sentence(error, address, "start it or correct MINIO_ENDPOINT")


def test_in_an_asset_it_is_a_failure_of_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator_pkg.io_managers import TensorIOManager
    from orchestrator_pkg.resources import StoreResource

    monkeypatch.setenv("MINIO_ENDPOINT", f"http://127.0.0.1:{free_port()}")

    @dg.asset
    def value() -> torch.Tensor:
        return torch.ones(1)

    manager = TensorIOManager(store=StoreResource())
    result = dg.materialize([value], resources={"io_manager": manager}, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    data = failure.step_failure_data
    assert data.user_failure_data is not None
    assert "start it or correct MINIO_ENDPOINT" in str(data.user_failure_data.description)
    assert "botocore" not in str(data.error)
