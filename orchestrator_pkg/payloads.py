"""How tasks and results of the plugin travel through the ledger: small JSON, compressed, by reference when too large.

The ledger keeps every payload in memory on every node until the run ends, so what is large goes into Dagster's own
database (which the slot and the orchestrator both use anyway) and the ledger carries its key.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

VERSION = 1
# Below this, zlib costs more than it saves.
PLAIN_BYTES_MAX = 2_048
# A result of usual size has 1 to 5 KB. The ledger would take 1 MiB; a thousand results of this size are 128 MiB.
INLINE_BYTES_MAX = 128 << 10


class PayloadError(Exception):
    """A payload cannot be read: another version wrote it, or what it refers to is gone."""


class NoteStore(Protocol):
    """Where large payloads are kept, by key."""

    def put(self, key: str, text: str) -> None:
        """Keeps text; an empty text frees the space."""

    def get(self, key: str) -> str | None:
        """The text, or None."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step slot says: the events that it held back, in order, and what to publish before they are stored."""

    entries: tuple[str, ...]
    intents: tuple[Mapping[str, Any], ...]


def pack(value: Any, *, notes: NoteStore, key: str) -> dict[str, Any]:
    """Wraps a JSON value for a payload.

    Args:
        value: anything that JSON can hold.
        notes: where it goes when it is large.
        key: under which it is kept there; unique to the attempt.
    """
    text = json.dumps(value, separators=(",", ":"))
    if len(text) <= PLAIN_BYTES_MAX:
        return {"plain": value}
    packed = base64.b85encode(zlib.compress(text.encode(), level=1)).decode()
    if len(packed) <= INLINE_BYTES_MAX:
        return {"zlib": packed}
    notes.put(key, packed)
    return {"note": key}


def unpack(wrapped: Mapping[str, Any], *, notes: NoteStore) -> Any:
    """The value that `pack` wrapped. Raises PayloadError when it cannot be read."""
    if "plain" in wrapped:
        return wrapped["plain"]
    packed = wrapped.get("zlib")
    if packed is None:
        key = str(wrapped.get("note"))
        packed = notes.get(key)
        if packed is None:
            raise PayloadError(f"Note {key} is not in Dagster's database; was the database replaced while it ran?")
    return json.loads(zlib.decompress(base64.b85decode(packed)))


def encode_result(result: StepResult, *, notes: NoteStore, key: str) -> dict[str, Any]:
    """The payload of a finished step."""
    return {
        "v": VERSION,
        "entries": pack(list(result.entries), notes=notes, key=key),
        "intents": [dict(intent) for intent in result.intents],
    }


def decode_result(payload: Mapping[str, Any], *, notes: NoteStore) -> StepResult:
    """The result of a finished step. Raises PayloadError when it cannot be read."""
    check_version(payload)
    entries: Sequence[str] = unpack(payload["entries"], notes=notes)
    return StepResult(entries=tuple(entries), intents=tuple(payload.get("intents", ())))


def check_version(payload: Mapping[str, Any]) -> None:
    """Raises PayloadError when another version of this package wrote it."""
    if payload.get("v") != VERSION:
        raise PayloadError(
            f"The payload has version {payload.get('v')!r} and this is version {VERSION}; run the same version of "
            "dagster-orchestrator on all machines."
        )
