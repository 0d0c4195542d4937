"""Scenario files: a command, a dashed line, the expected output; the format of cockroachdb's datadriven tests.

    # a comment
    command arg key=value key=(v1, v2)
    optional input lines
    ----
    expected output, up to the next blank line

Where the output itself has blank lines, the dashed line is doubled and two more dashed lines end it. With the
environment variable REWRITE=1 the expectations are rewritten from the outputs; commit only a difference that you
understand.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SEPARATOR = "----"
_ARGUMENT = re.compile(r"([^\s=]+)(?:=(\([^)]*\)|[^\s(]\S*))?")


@dataclass(frozen=True)
class Argument:
    """One `key`, `key=value` or `key=(v1, v2)`."""

    key: str
    values: tuple[str, ...] = ()


@dataclass
class Command:
    """One command of a file with what it shall print."""

    name: str
    args: list[Argument]
    input: str
    expected: str
    line: int

    def plain(self) -> list[str]:
        """Arguments without a value."""
        return [arg.key for arg in self.args if not arg.values]

    def values(self, key: str) -> list[str]:
        """Values of `key`, all its occurrences joined; empty without it."""
        return [value for arg in self.args if arg.key == key for value in arg.values]

    def has(self, key: str) -> bool:
        """True when `key` is given with values."""
        return any(arg.key == key and arg.values for arg in self.args)

    def one(self, key: str, default: str = "") -> str:
        """The only value of `key`."""
        values = self.values(key)
        return values[0] if values else default


def parse_command(line: str) -> tuple[str, list[Argument]]:
    """Name and arguments of a command line."""
    name, _, rest = line.strip().partition(" ")
    arguments = []
    for key, value in _ARGUMENT.findall(rest):
        inner = value[1:-1] if value.startswith("(") else value
        values = tuple(part.strip() for part in inner.split(",") if part.strip()) if value else ()
        arguments.append(Argument(key, values))
    return name, arguments


def read_commands(path: Path) -> list[Command]:
    """All commands of a file. Raises ValueError with the place of one that has no dashed line."""
    lines = path.read_text().split("\n")
    commands: list[Command] = []
    position = 0
    while position < len(lines):
        line = lines[position]
        if not line.strip() or line.startswith("#"):
            position += 1
            continue
        name, args = parse_command(line)
        start = position
        position += 1
        first_input = position
        while position < len(lines) and lines[position] != SEPARATOR:
            if not lines[position].strip():
                raise ValueError(f"{path.name}:{start + 1}: no '{SEPARATOR}' after the command")
            position += 1
        given = "\n".join(lines[first_input:position])
        position += 1
        expected, position = _read_expected(lines, position)
        commands.append(Command(name, args, given, expected, start + 1))
    return commands


def _read_expected(lines: list[str], position: int) -> tuple[str, int]:
    if position < len(lines) and lines[position] == SEPARATOR:
        start = position + 1
        position = start
        while lines[position : position + 2] != [SEPARATOR, SEPARATOR]:
            position += 1
        return "\n".join(lines[start:position]), position + 2
    start = position
    while position < len(lines) and lines[position].strip():
        position += 1
    return "\n".join(lines[start:position]), position


def run_file(
    path: Path,
    handle: Callable[[Command], str],
    *,
    keep: Callable[[str], str] = lambda text: text,
    may_rewrite: bool = False,
) -> list[str]:
    """Run every command; returns one text for each that printed something else than expected.

    `keep` reduces expected and actual output to what shall be compared. With `may_rewrite` and REWRITE=1 the file's
    expectations are replaced instead.
    """
    differences = []
    outputs: dict[int, str] = {}
    for command in read_commands(path):
        actual = handle(command).rstrip("\n")
        outputs[command.line] = actual
        if keep(actual) != keep(command.expected):
            differences.append(
                f"{path.name}:{command.line}: {command.name}\n--- expected\n{keep(command.expected)}\n"
                f"--- actual\n{keep(actual)}\n"
            )
    if may_rewrite and differences and os.environ.get("REWRITE") == "1":
        _rewrite(path, outputs)
        return []
    return differences


def _rewrite(path: Path, outputs: dict[int, str]) -> None:
    lines = path.read_text().split("\n")
    for command in reversed(read_commands(path)):
        start = command.line - 1
        while lines[start] != SEPARATOR:
            start += 1
        _, end = _read_expected(lines, start + 1)
        output = outputs[command.line].split("\n")
        if "" in output:
            output = [SEPARATOR, *output, SEPARATOR, SEPARATOR]
        lines[start + 1 : end] = output
    path.write_text("\n".join(lines))
