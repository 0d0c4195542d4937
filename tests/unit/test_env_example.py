"""`.env.example` and the settings classes tell the same story."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestrator_pkg.config import PipelineSettings, StoreSettings, WorkerSettings
from raft_service.config import ClientSettings, NodeSettings

ROOT = Path(__file__).resolve().parents[2]
CLASSES = (NodeSettings, ClientSettings, WorkerSettings, StoreSettings, PipelineSettings)
# Read by the compose files and scripts alone.
OUTSIDE = {"CROSS_CLOUD_LATENCY_MS", "CROSS_CLOUD_JITTER_MS"}
# An example value helps more than the default, which is empty or computed.
EXAMPLES = {"WORKER_NAME", "WORKER_LABELS", "WORKER_POOLS"}


def documented() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    matches = (re.fullmatch(r"(?:# )?([A-Z][A-Z0-9_]+)=(.*)", line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def fields() -> dict[str, FieldInfo]:
    return {str(field.alias): field for each in CLASSES for field in each.model_fields.values()}


def test_every_setting_is_documented_and_the_reverse() -> None:
    assert set(documented()) - OUTSIDE == set(fields())


@pytest.mark.parametrize("name", sorted(set(fields()) - EXAMPLES))
def test_documented_default_is_the_default(name: str) -> None:
    default = fields()[name].default
    if default is PydanticUndefined:
        return  # set per node: the file shows an example
    shown = documented()[name]
    assert shown == ("" if default is None else f"{default:g}" if isinstance(default, float) else str(default))


def test_two_variables_never_share_a_name_with_two_defaults() -> None:
    seen: dict[str, object] = {}
    for each in CLASSES:
        for field in each.model_fields.values():
            assert seen.setdefault(str(field.alias), field.default) == field.default
