"""Publishing: swapping the pointer that readers follow to the manifest of an accepted result.

The problem. A step may run twice: its worker was cut off, declared lost, and the step placed again; then the first one
comes back. Both write all their blocks. Only one may count, and a reader must see one of them whole.

The idea. An attempt writes blocks and manifest under keys that no other attempt uses, so nothing is overwritten. What
counts is one small object, `<dataset>/current.json`, with the run, the fencing token and the manifest's key. It is
replaced by compare and swap after the control plane has accepted the attempt's result, by the attempt itself or, if
that died in between, by the run's orchestrator from the intent that travelled with the result.

The invariant. A manifest that was replaced never comes back:
- publishing the current manifest again does nothing;
- a manifest in the pointer's history was published before, and has been replaced since;
- among attempts of one run, or of one control plane, a smaller token never replaces a larger one. Tokens of different
  control planes cannot be compared; there the later publisher wins, as it does under Dagster's own executors, which
  have no tokens at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from orchestrator_pkg.dataset import Dataset, Manifest, ManifestError
from orchestrator_pkg.store import BlockStore, ObjectMissing, PreconditionFailed, StoreUnreachable, open_described

POINTER_NAME = "current.json"
# Replays come within a run's life; a dataset replaced this often in between is out of any replay's reach.
HISTORY_MAX = 16
# Two publishers of one dataset meet at most a few times in a row.
SWAP_TRIES_MAX = 20

Token = tuple[int, int]


class Published(StrEnum):
    """What publish did."""

    SWAPPED = "swapped"
    ALREADY_CURRENT = "already_current"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class PublishIntent:
    """A swap that is to be made once the result is accepted. Plain JSON by to_dict; holds no secret.

    `plane` names the control plane that gave the token, "" when unknown; `token` is (cluster epoch, log index), or None
    without a control plane.
    """

    store: Mapping[str, str]
    dataset: str
    manifest: str
    run_id: str
    step_key: str = ""
    token: Token | None = None
    plane: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "store": dict(self.store), "token": list(self.token) if self.token else None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PublishIntent:
        """The reverse of to_dict; fields of a newer version are ignored."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        token = known.get("token")
        return cls(**{**known, "token": (int(token[0]), int(token[1])) if token else None})


class PublishQueue:
    """The intents of one attempt, in the order in which its outputs were handled."""

    def __init__(self) -> None:
        self._intents: list[PublishIntent] = []

    def append(self, intent: PublishIntent) -> None:
        """Adds one."""
        self._intents.append(intent)

    def __iter__(self) -> Iterator[PublishIntent]:
        return iter(self._intents)

    def __len__(self) -> int:
        return len(self._intents)

    def to_dicts(self) -> list[dict[str, Any]]:
        """All intents as JSON values, for the result's payload."""
        return [intent.to_dict() for intent in self._intents]


@dataclass(frozen=True, slots=True)
class AttemptInfo:
    """The attempt that runs in this process: its token, and the intents that its outputs leave behind."""

    run_id: str
    step_key: str
    token: Token
    number: int
    plane: str = ""
    intents: PublishQueue = field(default_factory=PublishQueue)


# One task at a time runs in a slot, on its main thread, while I/O managers may use others: a module global, not a
# context variable, which threads would not see.
_current: tuple[int, AttemptInfo] | None = None


def current_attempt() -> AttemptInfo | None:
    """The attempt of this process; None outside a slot, and in a child that a step has forked."""
    return _current[1] if _current is not None and _current[0] == os.getpid() else None


@contextmanager
def attempt_scope(info: AttemptInfo) -> Iterator[AttemptInfo]:
    """Within it, outputs are written but not published: they leave intents in `info.intents`."""
    global _current
    before, _current = _current, (os.getpid(), info)
    try:
        yield info
    finally:
        _current = before


@dataclass(frozen=True, slots=True)
class _Pointer:
    """The content of current.json."""

    run: str
    token: Token | None
    plane: str
    manifest: str
    history: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        return json.dumps({**asdict(self), "history": list(self.history)}, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes, key: str) -> _Pointer:
        try:
            body = json.loads(data)
            token = (int(body["token"][0]), int(body["token"][1])) if body["token"] else None
            return cls(body["run"], token, body["plane"], body["manifest"], tuple(body["history"]))
        except (KeyError, TypeError, ValueError):
            raise ManifestError(f"The pointer {key} cannot be read; delete it and materialize its asset.") from None


def pointer_key(dataset: str) -> str:
    """Key of the pointer of a dataset."""
    return f"{dataset}/{POINTER_NAME}"


def publish(intent: PublishIntent | Mapping[str, Any], *, store: BlockStore | None = None) -> Published:
    """Makes a written manifest the current one. Safe to call again, from anywhere, at any time.

    Args:
        intent: what to publish, as object or as its to_dict.
        store: where; by default opened from the intent's description.

    Raises:
        StoreError: the store refuses; call again later.
    """
    wanted = intent if isinstance(intent, PublishIntent) else PublishIntent.from_dict(intent)
    target = store or open_described(dict(wanted.store))
    key = pointer_key(wanted.dataset)
    for _ in range(SWAP_TRIES_MAX):
        current, etag = _read_pointer(target, key)
        if current is not None and (settled := _settled(wanted, current)) is not None:
            return settled
        try:
            target.compare_and_swap(key, _next_pointer(wanted, current).to_bytes(), expected_etag=etag)
            return Published.SWAPPED
        except PreconditionFailed:
            continue  # somebody swapped in between: look again who is newer
    raise StoreUnreachable(f"{key} was swapped by others {SWAP_TRIES_MAX} times in a row; try again.")


def _read_pointer(store: BlockStore, key: str) -> tuple[_Pointer | None, str | None]:
    try:
        data, stored = store.read(key)
    except ObjectMissing:
        return None, None
    return _Pointer.from_bytes(data, key), stored.etag


def _settled(wanted: PublishIntent, current: _Pointer) -> Published | None:
    """The answer when there is nothing to swap, by the invariant above; None when the swap is due."""
    if current.manifest == wanted.manifest:
        return Published.ALREADY_CURRENT
    if wanted.manifest in current.history:
        return Published.SUPERSEDED
    is_same_plane = bool(wanted.plane) and wanted.plane == current.plane
    can_compare = wanted.token is not None and current.token is not None
    if can_compare and (is_same_plane or wanted.run_id == current.run) and wanted.token < current.token:  # type: ignore[operator]
        return Published.SUPERSEDED
    return None


def _next_pointer(wanted: PublishIntent, current: _Pointer | None) -> _Pointer:
    pointer = _Pointer(wanted.run_id, wanted.token, wanted.plane, wanted.manifest)
    if current is None:
        return pointer
    return replace(pointer, history=(current.manifest, *current.history)[:HISTORY_MAX])


def open_dataset(store: BlockStore, dataset: str) -> Dataset:
    """The current version of a dataset.

    Raises:
        ObjectMissing: it was never published.
        ManifestError: pointer or manifest cannot be read.
    """
    key = pointer_key(dataset)
    try:
        pointer = _Pointer.from_bytes(store.get(key), key)
    except ObjectMissing:
        raise ObjectMissing(f"{dataset} was never published; materialize the asset that writes it.") from None
    return Dataset(store, Manifest.from_bytes(store.get(pointer.manifest)))
