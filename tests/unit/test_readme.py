"""What README.md shows is true: its blocks parse and run, its variables exist, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml
from dagster._core.launcher import RunLauncher

import orchestrator_pkg
from orchestrator_pkg.cli import main as cli
from orchestrator_pkg.worker.command import worker_command
from raft_service.server import main as node_command

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.S | re.M)
    return [text for written, text in fenced if written == language]


def test_yaml_block_names_a_launcher_that_exists() -> None:
    (block,) = blocks("yaml")
    launcher = yaml.safe_load(block)["run_launcher"]
    assert launcher["module"] == "orchestrator_pkg"
    assert issubclass(getattr(orchestrator_pkg, launcher["class"]), RunLauncher)


def test_python_block_runs() -> None:
    (block,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["defs"].executor is orchestrator_pkg.orchestrator_executor  # type: ignore[attr-defined]


def shown_commands() -> list[list[str]]:
    lines = [line.split("#")[0].strip() for block in blocks("") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("orchestrator ")]


@pytest.mark.parametrize("words", shown_commands(), ids=" ".join)
def test_shown_command_exists(words: list[str]) -> None:
    command: click.Command = cli.commands[words[1]]
    command = {"node": node_command, "worker": worker_command}.get(words[1], command)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_shown_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets


def test_shown_variables_are_documented() -> None:
    documented = (ROOT / ".env.example").read_text()
    shown = set(re.findall(r"`((?:RAFT|WORKER|ORCHESTRATOR|MINIO|STORE|METRICS|DEBUG)_[A-Z_]+)", README))
    assert shown
    assert not {name for name in shown if f"{name}=" not in documented}


def test_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_two_commands_stand_in_the_first_lines() -> None:
    head = "\n".join(README.splitlines()[:25])
    assert "make demo" in head
    assert "make test" in head
    assert "Everything materialized and every check passed." in head
