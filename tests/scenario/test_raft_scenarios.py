"""Runs the scenario files of the Raft core; REWRITE=1 rewrites what they expect."""

from __future__ import annotations

from pathlib import Path

import pytest
from raft_scenario_env import Interpreter
from raft_scenario_file import Argument, parse_command, read_commands, run_file

FILES = sorted((Path(__file__).parent / "raft").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    differences = run_file(path, Interpreter().handle, may_rewrite=True)
    assert not differences, differences[0]


def test_there_are_scenarios() -> None:
    assert len(FILES) >= 4


def test_command_lines() -> None:
    assert parse_command("deliver-msgs 1 drop=(2, 3) type=MsgApp") == (
        "deliver-msgs",
        [Argument("1"), Argument("drop", ("2", "3")), Argument("type", ("MsgApp",))],
    )


def test_a_wrong_expectation_is_found_and_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "wrong.txt"
    path.write_text(
        "# kept\n\nadd-nodes 1 voters=(1) index=2\n----\nok\n\nraft-state\n----\nwrong\n\nstatus 1\n----\nok\n"
    )
    monkeypatch.delenv("REWRITE", raising=False)
    (difference,) = run_file(path, Interpreter().handle, may_rewrite=True)
    assert difference.startswith("wrong.txt:7: raft-state")
    monkeypatch.setenv("REWRITE", "1")
    assert run_file(path, Interpreter().handle, may_rewrite=True) == []
    assert "1: StateFollower (Voter) Term:0 Lead:0" in path.read_text()
    assert path.read_text().startswith("# kept\n")
    monkeypatch.delenv("REWRITE")
    assert run_file(path, Interpreter().handle) == []


def test_a_command_without_dashes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text("raft-state\n\nstatus 1\n----\nok\n")
    with pytest.raises(ValueError, match=r"bad\.txt:1"):
        read_commands(path)
