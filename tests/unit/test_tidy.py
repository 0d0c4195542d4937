"""House rules that a program can see; each failure names the place and the replacement."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("raft_service", "gpu_ops", "orchestrator_pkg")
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500
TEST_FILE_LINES_MAX = 900

# Calls that make the pure ring impure, and what to use instead.
BANNED_IN_PURE = {
    "time": "an argument with the time",
    "random": "an injected randrange",
    "datetime": "an argument with the time",
    "os": "an adapter",
    "asyncio": "an adapter",
    "threading": "an adapter",
    "socket": "an adapter",
}


def tracked(pattern: str) -> list[Path]:
    """Files that git tracks or would track, so that a build folder is not judged."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]


def sources() -> list[Path]:
    return [path for path in tracked("*.py") if path.relative_to(ROOT).parts[0] in CODE]


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def found(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {what}"


def test_functions_are_short() -> None:
    long = []
    for path in sources():
        for node in functions(ast.parse(path.read_text())):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                long.append(found(path, node.lineno, f"{node.name} has {lines} lines; split it"))
    assert not long, "\n".join(long)


def test_files_hold_one_noun() -> None:
    long = []
    for path in tracked("*.py"):
        lines = len(path.read_text().splitlines())
        if lines > (TEST_FILE_LINES_MAX if "tests" in path.parts else FILE_LINES_MAX):
            long.append(found(path, 1, f"{lines} lines; which noun can move out?"))
    assert not long, "\n".join(long)


def test_modules_say_what_they_are() -> None:
    mute = [found(path, 1, "no docstring") for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not mute, "\n".join(mute)


def test_functions_are_typed() -> None:
    untyped = []
    for path in sources():
        for node in functions(ast.parse(path.read_text())):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            if node.returns is None or bare:
                untyped.append(found(path, node.lineno, f"{node.name} lacks types: {bare or 'its return'}"))
    assert not untyped, "\n".join(untyped)


@pytest.mark.parametrize("folder", ["raft_service/raft", "raft_service/scheduler"])
def test_pure_ring_is_pure(folder: str) -> None:
    impure = []
    for path in sorted((ROOT / folder).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                cure = BANNED_IN_PURE.get(name.split(".")[0])
                if cure:
                    impure.append(found(path, node.lineno, f"imports {name}; use {cure}"))
    assert not impure, "\n".join(impure)


def test_exceptions_are_not_swallowed() -> None:
    """A handler that only passes says why in a comment on one of its lines."""
    silent = []
    for path in sources():
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ExceptHandler) and len(node.body) == 1 and isinstance(node.body[0], ast.Pass):
                written = lines[node.lineno - 1 : (node.body[0].end_lineno or node.lineno)]
                if not any("#" in line for line in written):
                    silent.append(found(path, node.lineno, "swallows an exception without a reason"))
    assert not silent, "\n".join(silent)


def test_no_unfinished_work() -> None:
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|raise NotImplemented" + r"Error")
    unfinished = []
    for path in tracked("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if marks.search(line):
                unfinished.append(found(path, number, line.strip()))
    assert not unfinished, "\n".join(unfinished)


def test_tests_do_not_sleep() -> None:
    """Tests wait for a condition; a short pause inside such a wait is the only sleep."""
    sleeping = []
    for path in tracked("tests/*.py"):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            match = re.search(r"\bsleep\(\s*([0-9.]+)", line)
            if match and float(match[1]) >= 0.5 and "# not waited for" not in line:
                sleeping.append(found(path, number, "sleeps; wait for a condition with a deadline"))
    assert not sleeping, "\n".join(sleeping)


def test_every_field_of_the_protocol_is_explained() -> None:
    """Each message field has a comment right above it or behind it; the members of a oneof explain themselves."""
    bare = []
    field = re.compile(r"(repeated |optional )?(map<[^>]*>|[\w.]+) \w+ = \d+;(.*)")
    for path in sorted((ROOT / "proto").glob("*.proto")):
        above, scope = "", ""
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            text = line.strip()
            opened = re.match(r"(message|enum|oneof|service)\b", text)
            scope = opened[1] if opened else "message" if text == "}" else scope
            match = field.fullmatch(text)
            if match and scope == "message" and not above.startswith("//") and "//" not in match[3]:
                bare.append(found(path, number, text))
            above = text
    assert not bare, "\n".join(bare)


def test_stubs_are_not_committed() -> None:
    assert not [path for path in tracked("*.py") if path.name.endswith(("_pb2.py", "_pb2_grpc.py"))]
