"""What a run or a step asks of the machines that execute it: the tag `orchestrator/config`.

The tag's value is JSON, on a job or run (for all its steps) or on an op or asset (for that step, winning key by key):

    {"resources": {"gpus": 1, "gpu_memory_bytes": 8000000000, "memory_bytes": 2000000000, "pools": {"licence": 1}},
     "constraints": {"cloud": ["aws"]}, "priority": 5, "mode": "warm", "fair_key": "team-a"}

`dagster/priority` is honoured too, where the tag itself gives no priority.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator_proto import ledger_pb2 as pb

CONFIG_TAG = "orchestrator/config"
PRIORITY_TAG = "dagster/priority"
MODES = {"warm": pb.SLOT_MODE_WARM, "fork": pb.SLOT_MODE_FORK}
KEYS = ("resources", "constraints", "priority", "mode", "fair_key")
AMOUNTS = ("gpus", "gpu_memory_bytes", "memory_bytes")
# int32 of the ledger.
PRIORITY_MAX = 2**31 - 1


class TagError(Exception):
    """A tag cannot be understood; the message names the tag, what is wrong, and what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConfig:
    """What a task asks for; None and empty mean: not said."""

    gpus: int = 0
    gpu_memory_bytes: int = 0
    memory_bytes: int = 0
    pools: Mapping[str, int] = field(default_factory=dict)
    constraints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    priority: int | None = None
    mode: str | None = None
    fair_key: str | None = None

    def over(self, default: TaskConfig) -> TaskConfig:
        """This one, with what it does not say taken from default."""
        return TaskConfig(
            gpus=self.gpus or default.gpus,
            gpu_memory_bytes=self.gpu_memory_bytes or default.gpu_memory_bytes,
            memory_bytes=self.memory_bytes or default.memory_bytes,
            pools={**default.pools, **self.pools},
            constraints={**default.constraints, **self.constraints},
            priority=default.priority if self.priority is None else self.priority,
            mode=self.mode or default.mode,
            fair_key=self.fair_key or default.fair_key,
        )

    def apply_to(self, spec: pb.TaskSpec, *, with_resources: bool) -> None:
        """Writes it into a task.

        Args:
            spec: the task.
            with_resources: False for a run, whose slot only orchestrates: resources are for its steps.
        """
        if with_resources:
            spec.resources.gpus = self.gpus
            spec.resources.gpu_memory_bytes = self.gpu_memory_bytes
            spec.resources.memory_bytes = self.memory_bytes
            spec.resources.pools.update(self.pools)
            spec.mode = MODES[self.mode or "warm"]
        for key, values in sorted(self.constraints.items()):
            spec.constraints.add(key=key, values=values)
        spec.priority = self.priority or 0
        if self.fair_key:
            spec.fair_key = self.fair_key


def parse(tags: Mapping[str, str], *, where: str) -> TaskConfig:
    """Reads the tags of a run or step.

    Args:
        tags: all its tags.
        where: what they belong to, for messages, such as "step train".

    Raises:
        TagError: a tag is malformed or has an unknown key.
    """
    text = tags.get(CONFIG_TAG)
    config = _object(text, where=where) if text else {}
    _refuse_unknown(config, KEYS, where=where, inside="")
    resources = _mapping(config, "resources", where=where)
    _refuse_unknown(resources, (*AMOUNTS, "pools"), where=where, inside="resources.")
    return TaskConfig(
        **{name: _amount(resources.get(name, 0), f"resources.{name}", where=where) for name in AMOUNTS},
        pools={
            name: _amount(value, f"resources.pools.{name}", where=where)
            for name, value in _mapping(resources, "pools", where=where).items()
        },
        constraints={
            key: _values(values, key, where=where)
            for key, values in _mapping(config, "constraints", where=where).items()
        },
        priority=_priority(config, tags, where=where),
        mode=_one_of(config.get("mode"), where=where),
        fair_key=_text(config.get("fair_key"), "fair_key", where=where),
    )


def _wrong(where: str, what: str) -> TagError:
    return TagError(f"Tag {CONFIG_TAG} of {where}: {what}")


def _object(text: str, *, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _wrong(where, f"is no JSON ({error}); write an object with keys {', '.join(KEYS)}.") from None
    if not isinstance(value, dict):
        raise _wrong(where, f"is {text}; write a JSON object with keys {', '.join(KEYS)}.")
    return value


def _mapping(config: Mapping[str, Any], key: str, *, where: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise _wrong(where, f"{key} is {value!r}; write an object.")
    return value


def _refuse_unknown(config: Mapping[str, Any], known: tuple[str, ...], *, where: str, inside: str) -> None:
    for key in config:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {inside}{close[0]}?" if close else f"known are {', '.join(known)}."
            raise _wrong(where, f"key {inside}{key} is unknown; {hint}")


def _amount(value: Any, name: str, *, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong(where, f"{name} is {value!r}; write a whole number from 0.")
    return value


def _values(value: Any, key: str, *, where: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(v, str) and v for v in values):
        raise _wrong(where, f'constraints.{key} is {value!r}; write a list of labels such as ["aws"].')
    return tuple(values)


def _priority(config: Mapping[str, Any], tags: Mapping[str, str], *, where: str) -> int | None:
    value = config.get("priority")
    if value is None and PRIORITY_TAG in tags:
        try:
            value = int(tags[PRIORITY_TAG])
        except ValueError:
            raise TagError(f"Tag {PRIORITY_TAG} of {where} is {tags[PRIORITY_TAG]!r}; write a whole number.") from None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > PRIORITY_MAX:
        raise _wrong(where, f"priority is {value!r}; write a whole number.")
    return value


def _one_of(value: Any, *, where: str) -> str | None:
    if value is not None and value not in MODES:
        raise _wrong(where, f"mode is {value!r}; write {' or '.join(MODES)}.")
    return None if value is None else str(value)


def _text(value: Any, name: str, *, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise _wrong(where, f"{name} is {value!r}; write a word.")
    return value
