"""Blocks are safetensors that other tools read, aligned and without copies."""

from __future__ import annotations

import json
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_pkg.blocks import DTYPE_NAMES, BlockFormatError, decode, encode, layout_of

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def joined(block: dict[str, torch.Tensor]) -> bytes:
    return b"".join(encode(block).parts)


def made(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return (torch.arange(count) % 2).to(dtype).reshape(shape)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(st.sampled_from(list(DTYPE_NAMES)), SHAPES), max_size=5)
)
def test_round_trip_of_any_block(kinds: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
    block = {name: made(dtype, shape) for name, (dtype, shape) in kinds.items() if name[:2] != "__"}
    found = decode(joined(block))
    assert list(found) == list(block)
    for name, tensor in block.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name].to(torch.complex64), tensor.to(torch.complex64))


def test_the_library_reads_ours_and_we_read_the_librarys() -> None:
    block = {
        "codes": torch.arange(5, dtype=torch.uint8),
        "x": torch.randn(3, 4, dtype=torch.float64),
        "half": torch.randn(7).bfloat16(),
    }
    theirs = safetensors.torch.load(joined(block))
    ours = decode(safetensors.torch.save(block))
    for name, tensor in block.items():
        assert torch.equal(theirs[name], tensor)
        assert torch.equal(ours[name], tensor)


def test_tensors_are_aligned_and_shared() -> None:
    block = {"odd": torch.ones(3, dtype=torch.uint8), "x": torch.arange(4.0, dtype=torch.float64)}
    encoded = encode(block)
    data = bytearray(b"".join(encoded.parts))
    for slot in layout_of(memoryview(data)).values():
        assert slot.offset % slot.dtype.itemsize == 0
    view = decode(data)["x"]
    view[0] = 7
    assert decode(data)["x"][0] == 7, "decoding a bytearray must not copy"
    block["x"][1] = 9
    assert decode(b"".join(encoded.parts))["x"][1] == 9, "encoding must not copy"


@pytest.mark.parametrize(
    ("value", "said"),
    [(1.5, "float"), (torch.zeros(1, dtype=torch.complex128), "complex128")],
)
def test_refuses_what_is_no_tensor(value: object, said: str) -> None:
    with pytest.raises(BlockFormatError, match=said):
        encode({"x": value})  # type: ignore[dict-item]


def header(entry: object) -> bytes:
    text = json.dumps({"x": entry}).encode()
    return struct.pack("<Q", len(text)) + text + b"12345678"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"123",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"{x",
        header({"dtype": "F64", "shape": [2], "data_offsets": [0, 8]}),
        header({"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}),
        header({"dtype": "F64", "shape": [1], "data_offsets": [-8, 0]}),
        header({"dtype": "Q64", "shape": [1], "data_offsets": [0, 8]}),
        header([1, 2]),
    ],
)
def test_refuses_bytes_that_are_no_block(data: bytes) -> None:
    with pytest.raises(BlockFormatError):
        decode(bytearray(data))
