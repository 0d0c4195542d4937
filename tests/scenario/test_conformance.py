"""Runs data files of etcd-io/raft, which the project does not contain, against the core.

CONFORMANCE_DATA names a folder: a checkout of etcd-io/raft, or one with `quorum`, `confchange` and `interaction`.
Everything but the wording of logs is compared: the same messages, in the same order, in the same Readies.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from raft_scenario_env import Interpreter, without_log_lines
from raft_scenario_file import run_file
from raft_scenario_pure import ConfChangeRunner, run_quorum

if not os.environ.get("CONFORMANCE_DATA"):
    pytest.skip("CONFORMANCE_DATA names no folder with the data files of etcd-io/raft", allow_module_level=True)

# What the core leaves out on purpose; the reason is printed with the skip.
LEFT_OUT = {
    "async_storage_writes.txt": "asynchronous storage messages are not a part of this core",
    "forget_leader_read_only_lease_based.txt": "reads by a leader's lease are left out: they trust clocks",
    "async_storage_writes_append_aba_race.txt": "asynchronous storage messages are not a part of this core",
}


def _files(kind: str, checkout_folder: str) -> list[Path]:
    root = Path(os.environ["CONFORMANCE_DATA"])
    for folder in (checkout_folder, kind, f"etcd-raft/{kind}"):
        files = sorted((root / folder).glob("*.txt"))
        if files:
            return files
    return []


QUORUM = _files("quorum", "quorum/testdata")
CONFCHANGE = _files("confchange", "confchange/testdata")
INTERACTION = _files("interaction", "testdata")


def test_data_is_there() -> None:
    assert QUORUM
    assert CONFCHANGE
    assert INTERACTION


@pytest.mark.parametrize("path", QUORUM, ids=lambda path: path.stem)
def test_quorum(path: Path) -> None:
    differences = run_file(path, run_quorum)
    assert not differences, differences[0]


@pytest.mark.parametrize("path", CONFCHANGE, ids=lambda path: path.stem)
def test_confchange(path: Path) -> None:
    differences = run_file(path, ConfChangeRunner().handle)
    assert not differences, differences[0]


@pytest.mark.parametrize("path", INTERACTION, ids=lambda path: path.stem)
def test_interaction(path: Path) -> None:
    if path.name in LEFT_OUT:
        pytest.skip(LEFT_OUT[path.name])
    differences = run_file(path, Interpreter().handle, keep=without_log_lines)
    assert not differences, differences[0]
