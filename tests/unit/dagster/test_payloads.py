"""Payloads come back as they went in, whatever way they travel."""

from __future__ import annotations

import json
import random

import pytest

from orchestrator_pkg.payloads import (
    INLINE_BYTES_MAX,
    PayloadError,
    StepResult,
    check_version,
    decode_result,
    encode_result,
    pack,
    unpack,
)


class Notes:
    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def put(self, key: str, text: str) -> None:
        self.kept[key] = text

    def get(self, key: str) -> str | None:
        return self.kept.get(key)


def noise(letters: int) -> str:
    return "".join(random.Random(7).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=letters))


@pytest.mark.parametrize(
    ("value", "way"),
    [("small", "plain"), (["é" * 3000], "zlib"), (noise(4 * INLINE_BYTES_MAX), "note")],
)
def test_each_size_travels_its_way_and_comes_back(value: object, way: str) -> None:
    notes = Notes()
    wrapped = pack(value, notes=notes, key="k")
    assert list(wrapped) == [way]
    assert len(json.dumps(wrapped)) < INLINE_BYTES_MAX + 100
    assert unpack(json.loads(json.dumps(wrapped)), notes=notes) == value
    assert bool(notes.kept) == (way == "note")


def test_a_lost_note_is_told() -> None:
    wrapped = pack(noise(4 * INLINE_BYTES_MAX), notes=Notes(), key="k")
    with pytest.raises(PayloadError, match="Note k is not in Dagster's database"):
        unpack(wrapped, notes=Notes())


def test_a_result_comes_back_in_order() -> None:
    notes = Notes()
    result = StepResult(entries=("first", "second"), intents=({"dataset": "d"},))
    payload = json.loads(json.dumps(encode_result(result, notes=notes, key="k")))
    assert decode_result(payload, notes=notes) == result


def test_another_version_is_refused() -> None:
    with pytest.raises(PayloadError, match="version 2 and this is version 1"):
        check_version({"v": 2})
    with pytest.raises(PayloadError):
        decode_result({}, notes=Notes())
