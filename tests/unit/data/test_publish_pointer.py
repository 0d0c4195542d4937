"""Publishing: idempotent, and an older attempt never replaces a newer one."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import torch

from orchestrator_pkg.dataset import BlockStream, Manifest, ManifestError, WriteReport, write_blocks
from orchestrator_pkg.publish import (
    AttemptInfo,
    Published,
    PublishIntent,
    attempt_scope,
    current_attempt,
    open_dataset,
    pointer_key,
    publish,
)
from orchestrator_pkg.store import ChecksumMismatch, LocalStore, ObjectMissing


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def written(
    store: LocalStore,
    name: str,
    *,
    run: str = "run-1",
    token: tuple[int, int] | None = (1, 10),
    plane: str = "",
    value: float = 1.0,
) -> PublishIntent:
    """Writes one attempt's manifest and returns the intent to publish it."""
    prefix = f"data/_attempts/{name}"
    blocks = write_blocks(store, prefix, [{"x": torch.tensor([value])}], WriteReport())
    store.put(f"{prefix}/manifest.json", Manifest("dataset", blocks).to_bytes())
    return PublishIntent(store.describe(), "data", f"{prefix}/manifest.json", run, "step", token, plane)


def current(store: LocalStore) -> str:
    return str(json.loads(store.get(pointer_key("data")))["manifest"])


def test_publishing_twice_changes_nothing(store: LocalStore) -> None:
    intent = written(store, "a")
    assert publish(intent) is Published.SWAPPED
    before = store.head(pointer_key("data"))
    assert publish(intent.to_dict()) is Published.ALREADY_CURRENT
    assert store.head(pointer_key("data")) == before
    assert open_dataset(store, "data")[0].load()["x"].item() == 1.0


def test_intent_is_plain_json_and_survives_it() -> None:
    intent = PublishIntent({"kind": "local", "root": "/x"}, "d", "m", "r", "s", (1, 2), "p")
    assert PublishIntent.from_dict(json.loads(json.dumps(intent.to_dict()))) == intent
    assert PublishIntent.from_dict({**intent.to_dict(), "newer": 1}) == intent


def test_an_older_token_of_the_run_is_fenced(store: LocalStore) -> None:
    old, new = written(store, "old", token=(1, 10)), written(store, "new", token=(1, 11))
    assert publish(new) is Published.SWAPPED
    assert publish(old) is Published.SUPERSEDED
    assert current(store) == new.manifest


def test_a_newer_epoch_wins_over_a_larger_index(store: LocalStore) -> None:
    old, new = written(store, "old", token=(1, 999)), written(store, "new", token=(2, 5))
    publish(new)
    assert publish(old) is Published.SUPERSEDED


def test_tokens_of_one_plane_order_different_runs(store: LocalStore) -> None:
    old = written(store, "old", run="run-1", token=(1, 10), plane="p")
    new = written(store, "new", run="run-2", token=(1, 20), plane="p")
    publish(new)
    assert publish(old) is Published.SUPERSEDED


def test_a_new_cluster_may_publish_over_an_old_one(store: LocalStore) -> None:
    publish(written(store, "old", run="run-1", token=(1, 5000), plane="p"))
    new = written(store, "new", run="run-2", token=(1, 3), plane="q")
    assert publish(new) is Published.SWAPPED
    direct = written(store, "direct", run="run-3", token=None)
    assert publish(direct) is Published.SWAPPED
    assert current(store) == direct.manifest


def test_a_replay_after_a_later_run_does_not_bring_back_old_data(store: LocalStore) -> None:
    first, second = written(store, "first", token=None), written(store, "second", run="run-2", token=None)
    publish(first)
    publish(second)
    assert publish(first) is Published.SUPERSEDED
    assert current(store) == second.manifest


def test_racing_attempts_end_with_the_largest_token(store: LocalStore) -> None:
    intents = [written(store, f"a{number}", token=(1, number)) for number in range(1, 7)]
    threads = [threading.Thread(target=publish, args=(intent,)) for intent in intents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert current(store) == intents[-1].manifest


def test_nothing_published_and_unreadable_pointer(store: LocalStore) -> None:
    with pytest.raises(ObjectMissing, match="never published"):
        open_dataset(store, "data")
    store.put(pointer_key("data"), b"{}")
    with pytest.raises(ManifestError, match="delete it"):
        open_dataset(store, "data")


def test_scope_is_of_this_process_only() -> None:
    info = AttemptInfo("r", "s", (1, 2), 1)
    assert current_attempt() is None
    with attempt_scope(info):
        assert current_attempt() is info
        if (child := os.fork()) == 0:
            os._exit(0 if current_attempt() is None else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert current_attempt() is None


def test_manifest_round_trip_and_slices(store: LocalStore) -> None:
    blocks = write_blocks(store, "d", ({"x": torch.full((2, 3), float(i))} for i in range(5)), WriteReport())
    manifest = Manifest("dataset", blocks, {"seed": 3})
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert (manifest.rows, len(manifest.blocks)) == (10, 5)
    store.put("d/manifest.json", manifest.to_bytes())
    publish(PublishIntent(store.describe(), "d", "d/manifest.json", "r"))
    part = open_dataset(store, "d").slice(range(2, 4))
    assert (list(part.indexes), part.total_blocks, len(part)) == ([2, 3], 5, 2)
    room = bytearray(part.block_bytes_max)
    part.fill(3, memoryview(room))
    assert part[1].load()["x"][0, 0].item() == 3.0
    assert Manifest.from_bytes(part.manifest.to_bytes()) == part.manifest


def test_block_of_another_write_is_refused(store: LocalStore) -> None:
    publish(written(store, "a", value=1.0))
    key = open_dataset(store, "data")[0].info.key
    store.put(key, b"".join([store.get(key)[:-4], b"\x00\x00\x00\x40"]))
    with pytest.raises(ChecksumMismatch, match="damaged"):
        open_dataset(store, "data")[0].load()


def test_manifest_of_another_version(store: LocalStore) -> None:
    with pytest.raises(ManifestError, match="upgrade"):
        Manifest.from_bytes(b'{"version": 2}')
    with pytest.raises(ManifestError, match="materialize"):
        Manifest.from_bytes(b"[]")


def test_block_stream_holds_no_block() -> None:
    made: list[int] = []
    stream = BlockStream({"x": torch.tensor([made.append(i) or i])} for i in range(3))
    assert made == []
    assert len(list(stream.blocks)) == 3
