"""An orchestrator that dies at any event is replaced by one that loses nothing and repeats nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

FOLDER = Path(__file__).resolve().parents[1] / "dagster"


@pytest.mark.parametrize(("job", "stride"), [("skip", 1), ("retry", 3), ("dynamic", 5)])
def test_death_at_the_nth_event(tmp_path: Path, job: str, stride: int) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    command = [sys.executable, str(FOLDER / "death_at_event.py"), str(tmp_path), str(tmp_path), job, str(stride)]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-500:]}{done.stderr[-3000:]}"
    assert "died and went on" in done.stdout
