"""`make demo` as a person runs it: to its end, and stopped in the middle by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PROJECT = Path(__file__).resolve().parents[2]
WAIT_S = 120.0


def start_demo(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "orchestrator_pkg.demo", "--folder", str(folder), *options]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (folder.parent / "said.txt").open("wb") as said:
        return subprocess.Popen(command, cwd=PROJECT, env=env, stdout=said, stderr=subprocess.STDOUT)


def said(folder: Path) -> str:
    return (folder.parent / "said.txt").read_text()


def left_behind(folder: Path) -> list[str]:
    """Processes that still have the demo's folder in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder / "dagster_home") == process.environ().get("DAGSTER_HOME"):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue  # ended while we looked, or not ours to read
    return found


def ours(commands: list[str]) -> list[str]:
    return [command for command in commands if "dagster api grpc" not in command]


def wait_for(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def test_demo_ends_well_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo = start_demo(folder)
    assert demo.wait(WAIT_S) == 0, said(folder)
    text = said(folder)
    assert "Everything materialized and every check passed." in text
    assert "7 of 7 passed" in text
    assert "ms without a leader" in text
    assert (PROJECT / "data/processed/demo/lineitem_pricing_summary.csv").read_text().count("\n") == 5
    assert not left_behind(folder)


def test_keep_leaves_it_running_until_ctrl_c(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo = start_demo(folder, "--keep")
    wait_for(lambda: "Press Ctrl-C" in said(folder) or demo.poll() is not None, lambda: said(folder))
    assert demo.poll() is None, said(folder)
    assert len(left_behind(folder)) >= 5
    demo.send_signal(signal.SIGINT)
    assert demo.wait(WAIT_S) == 0, said(folder)
    assert "Traceback" not in said(folder)
    assert not left_behind(folder)


@pytest.mark.parametrize("moment", ["Object store", "the leader, with"])
def test_ctrl_c_cleans_up(tmp_path: Path, moment: str) -> None:
    folder = tmp_path / "demo"
    demo = start_demo(folder)
    wait_for(lambda: moment in said(folder) or demo.poll() is not None, lambda: said(folder))
    assert demo.poll() is None, said(folder)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(WAIT_S) == 130, said(folder)
    assert "Traceback" not in said(folder)
    wait_for(lambda: not left_behind(folder), lambda: "\n".join(left_behind(folder)))


def test_a_killed_demo_takes_its_cluster_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo = start_demo(folder)
    wait_for(lambda: "Workers:" in said(folder) or demo.poll() is not None, lambda: said(folder))
    assert demo.poll() is None, said(folder)
    demo.kill()
    demo.wait()
    # Dagster's own code server notices within a minute that its webserver is gone.
    wait_for(lambda: not ours(left_behind(folder)), lambda: "\n".join(left_behind(folder)))


def test_elsewhere_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator_pkg.demo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "definitions.py is not here" in done.stderr
    assert "Traceback" not in done.stderr
