"""A block as a safetensors object: encoded without copying the tensors, decoded as views of the bytes that were read.

The format is eight bytes of header length, a JSON header, then the tensors' bytes without gaps. Ours differ from other
writers' in two harmless ways: the header is padded so that the data start on a cache line, and tensors with wide
elements come first, so that every tensor is aligned for its dtype and no reader has to copy it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gpu_ops.source import Layout, TensorSlot, view_tensor

Block = dict[str, torch.Tensor]

# A cache line; more than any dtype needs.
ALIGNMENT = 64
# A header above this is damage: a million tensors in one block is no block.
HEADER_BYTES_MAX = 100_000_000

DTYPE_NAMES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


class BlockFormatError(ValueError):
    """Bytes that are no safetensors block, or a value that cannot become one."""


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """The pieces of a block's object, in order; `parts` after the first are the tensors' own memory."""

    parts: tuple[memoryview, ...]
    size_bytes: int
    # Name -> (dtype name, shape), in the order of the block.
    tensors: dict[str, tuple[str, tuple[int, ...]]]


def encode(block: Mapping[str, torch.Tensor]) -> EncodedBlock:
    """Encodes tensors. Those on a device or not contiguous are copied, all others are shared: do not change them.

    Raises:
        BlockFormatError: a value is no tensor, or of a dtype that safetensors lacks.
    """
    ready = {name: _ready(name, tensor) for name, tensor in block.items()}
    header: dict[str, Any] = {}
    offset = 0
    parts: list[memoryview] = []
    for name, tensor in sorted(ready.items(), key=lambda item: -item[1].dtype.itemsize):
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        parts.append(_bytes_of(tensor))
        offset = end
    # The header keeps the caller's order of names; only the bytes are ordered by width.
    text = json.dumps({name: header[name] for name in ready}, separators=(",", ":")).encode()
    padding = -(8 + len(text)) % ALIGNMENT
    head = struct.pack("<Q", len(text) + padding) + text + b" " * padding
    tensors = {name: (DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in ready.items()}
    return EncodedBlock((memoryview(head), *parts), len(head) + offset, tensors)


def _ready(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor):
        raise BlockFormatError(f"{name!r} is a {type(tensor).__name__}; a block holds tensors only, so convert it.")
    if name == "__metadata__":
        raise BlockFormatError("A tensor must not be called __metadata__; give it another name.")
    if tensor.dtype not in DTYPE_NAMES:
        raise BlockFormatError(f"Tensor {name!r} has dtype {tensor.dtype}, which safetensors lacks; convert it first.")
    return tensor.detach().cpu().contiguous()


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    if tensor.numel() == 0:
        return memoryview(b"")
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data).cast("B")


def layout_of(buffer: memoryview) -> Layout:
    """Where each tensor lies in the bytes of a whole object.

    Raises:
        BlockFormatError: the bytes are no safetensors object.
    """
    if buffer.nbytes < 8:
        raise BlockFormatError("The object is shorter than a safetensors header; write it again.")
    (length,) = struct.unpack("<Q", buffer[:8])
    if length > min(HEADER_BYTES_MAX, buffer.nbytes - 8):
        raise BlockFormatError("The object's header is longer than the object; it is no safetensors file, or damaged.")
    try:
        header = json.loads(bytes(buffer[8 : 8 + length]))
        return {name: _slot(entry, 8 + length, buffer.nbytes) for name, entry in header.items() if name[:2] != "__"}
    except (ValueError, KeyError, TypeError) as error:
        raise BlockFormatError(f"The object's header cannot be read ({error}); it is no safetensors file.") from None


def _slot(entry: dict[str, Any], start: int, size_bytes: int) -> TensorSlot:
    begin, end = entry["data_offsets"]
    slot = TensorSlot(dtype=_DTYPES[entry["dtype"]], shape=tuple(entry["shape"]), offset=start + begin)
    if begin < 0 or end - begin != slot.n_bytes or start + end > size_bytes:
        raise ValueError("offsets and shapes disagree")
    return slot


def decode(data: bytes | bytearray | memoryview) -> Block:
    """The tensors of a whole object: views of a bytearray's memory; bytes, which are read-only, are copied once.

    Raises:
        BlockFormatError: the bytes are no safetensors object.
    """
    buffer = bytearray(data) if memoryview(data).readonly else data
    layout = layout_of(memoryview(buffer))
    room = torch.frombuffer(buffer, dtype=torch.uint8)
    return {name: view_tensor(room, slot) for name, slot in layout.items()}
