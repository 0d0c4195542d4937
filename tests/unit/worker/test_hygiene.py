"""What a task leaves behind is put back, or named as the reason to replace the process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator_pkg.worker import hygiene


def test_a_clean_task_leaves_nothing() -> None:
    before = hygiene.take_baseline()
    audit = hygiene.audit(before)
    assert (audit.restored, audit.recycle) == ((), "")
    assert audit.memory_bytes > 1_000_000


def test_the_working_directory_is_restored(tmp_path: Path) -> None:
    before = hygiene.take_baseline()
    os.chdir(tmp_path)
    assert hygiene.audit(before).restored == ("working directory",)
    assert os.getcwd() == before.cwd


def test_a_removed_working_directory_is_left(tmp_path: Path) -> None:
    before = hygiene.take_baseline()
    folder = tmp_path / "gone"
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()
    assert hygiene.audit(before).restored == ("working directory",)
    assert os.getcwd() == before.cwd


def test_the_environment_is_restored() -> None:
    before = hygiene.take_baseline()
    os.environ["HYGIENE_NEW"] = "1"
    os.environ["PATH"] = "/nowhere"
    assert hygiene.audit(before).restored == ("environment",)
    assert "HYGIENE_NEW" not in os.environ
    assert os.environ["PATH"] == before.environ["PATH"]


def test_signal_handlers_and_umask_are_restored() -> None:
    before = hygiene.take_baseline()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    os.umask(0o077)
    assert set(hygiene.audit(before).restored) == {"umask", "SIGUSR1"}
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert os.umask(before.umask) == before.umask


def test_random_numbers_do_not_repeat_after_a_seed() -> None:
    before = hygiene.take_baseline()
    random.seed(7)
    repeated = random.random()
    random.seed(7)
    hygiene.audit(before)
    assert random.random() != repeated


def test_a_surviving_thread_recycles(monkeypatch: pytest.MonkeyPatch) -> None:
    before = hygiene.take_baseline()
    monkeypatch.setattr(hygiene, "THREAD_END_S_MAX", 0.01)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-behind", daemon=True)
    thread.start()
    try:
        assert hygiene.audit(before).recycle == "threads outlive the task: left-behind"
    finally:
        stop.set()
        thread.join()


def test_a_thread_that_is_about_to_end_is_waited_for() -> None:
    before = hygiene.take_baseline()
    stop = threading.Event()
    threading.Thread(target=stop.wait).start()
    threading.Timer(0.05, stop.set).start()
    assert hygiene.audit(before).recycle == ""


@pytest.mark.parametrize("name", ["orchestrator-fetch-1", "control-plane-client", "Thread-3 (_poll_wrapper)"])
def test_threads_of_the_process_may_stay(name: str) -> None:
    before = hygiene.take_baseline()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name=name, daemon=True)
    thread.start()
    try:
        assert hygiene.audit(before).recycle == ""
    finally:
        stop.set()
        thread.join()


def test_a_surviving_child_recycles_and_is_killed() -> None:
    before = hygiene.take_baseline()
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    assert hygiene.audit(before).recycle == f"child processes outlive the task: {child.pid}"
    assert child.wait(timeout=10) == -signal.SIGKILL


def test_an_ended_child_is_only_reaped() -> None:
    before = hygiene.take_baseline()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert hygiene.audit(before).recycle == ""
    assert pid not in hygiene._child_pids()


def test_too_much_memory_recycles() -> None:
    before = hygiene.take_baseline()
    assert "WORKER_SLOT_MEMORY_MAX_BYTES=1" in hygiene.audit(before, memory_max_bytes=1).recycle
    assert hygiene.audit(before, memory_max_bytes=1 << 50).recycle == ""


def test_torch_is_as_fresh_after_a_task_that_changed_all_its_switches() -> None:
    """In a process of its own: torch must not enter the test runner, and must be loaded by the task itself."""
    code = """
from orchestrator_pkg.worker import hygiene
before = hygiene.take_baseline()
import torch
assert not [n for n, (v, _) in hygiene._torch_switches(torch).items() if v != hygiene._TORCH_DEFAULTS[n]], "defaults"
torch.set_default_dtype(torch.float64)
torch.backends.cuda.matmul.allow_tf32 = True
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
torch.use_deterministic_algorithms(True, warn_only=True)
torch.set_grad_enabled(False)
torch.autograd.set_detect_anomaly(True)
torch.manual_seed(7); repeated = torch.rand(1).item(); torch.manual_seed(7)
audit = hygiene.audit(before)
changed = {name.removeprefix("torch's ") for name in audit.restored}
assert changed >= set(hygiene._TORCH_DEFAULTS) - {"matmul precision"}, audit
left = {n: v for n, (v, _) in hygiene._torch_switches(torch).items() if v != hygiene._TORCH_DEFAULTS[n]}
assert not left, left
assert torch.rand(1).dtype == torch.float32
torch.set_default_dtype(torch.float64)
assert torch.rand(1).item() != repeated
torch.set_default_dtype(torch.float32)
assert hygiene.audit(before).restored == (), "a second audit finds nothing"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
