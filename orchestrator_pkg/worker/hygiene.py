"""Keeps a warm slot like a fresh process: what a task changed is put back, and what cannot be is a reason to recycle.

Restored after each task: working directory, umask, environment, signal handlers, torch's global switches. Seeded anew
from the system's entropy, as in a fresh process: the global generators of random, numpy and torch. Not restorable, so
that the process is replaced: threads and child processes that outlive the task, too much memory, GPU memory kept.

Modules, caches and connections stay: they are what makes a slot warm.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

# Threads whose name begins so belong to the process and not to a task: clients and pools that stay warm on purpose.
# "control-plane-client" is raft_service's; "_poll_wrapper" (in brackets after the thread's number) is grpc.aio's
# poller, one a process, which never ends.
KEPT_THREAD_PREFIXES = ("orchestrator", "control-plane-client")
KEPT_THREAD_MARKS = ("(_poll_wrapper)",)
# A thread that was told to stop may need a moment; more than this and the slot had better be replaced.
THREAD_END_S_MAX = 0.5
# A library's workspace (cuBLAS, cuDNN) stays allocated and is no leak; a forgotten tensor usually is larger.
GPU_MEMORY_KEPT_BYTES_MAX = 256 << 20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_TORCH_DEFAULTS: dict[str, Any] = {
    "default dtype": "torch.float32",
    "matmul precision": "highest",
    "matmul TF32": False,
    "cuDNN TF32": True,
    "cuDNN benchmark": False,
    "cuDNN deterministic": False,
    "deterministic algorithms": (False, False),
    "gradients": True,
    "anomaly detection": False,
}


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the process was like before the task."""

    cwd: str
    umask: int
    environ: Mapping[str, str]
    handlers: Mapping[int, Any]
    threads: frozenset[threading.Thread]
    children: frozenset[int]
    gpu_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What was put back, in words, and why the process must be replaced (empty: it need not)."""

    restored: tuple[str, ...]
    recycle: str
    memory_bytes: int


def take_baseline() -> Baseline:
    """Notes the state of the process before a task."""
    umask = os.umask(0o022)
    os.umask(umask)
    return Baseline(
        cwd=os.getcwd(),
        umask=umask,
        environ=dict(os.environ),
        handlers={number: signal.getsignal(number) for number in _catchable()},
        threads=frozenset(threading.enumerate()),
        children=frozenset(_child_pids()),
        gpu_memory_bytes=_gpu_memory_bytes(),
    )


def audit(before: Baseline, *, memory_max_bytes: int = 0) -> Audit:
    """Puts back what differs from `before` and tells what cannot be put back.

    Args:
        before: taken before the task.
        memory_max_bytes: resident memory above which the process is replaced; 0: no limit.
    """
    steps: tuple[Callable[[Baseline], list[str]], ...] = (
        _restore_cwd,
        _restore_umask,
        _restore_environ,
        _restore_handlers,
    )
    restored = [name for step in steps for name in step(before)]
    restored += _restore_torch(sys.modules.get("torch"))
    _reseed()
    reasons = [_surviving_threads(before), _surviving_children(before), _gpu_memory_kept(before)]
    memory_bytes = _memory_after_collection(memory_max_bytes)
    if memory_max_bytes and memory_bytes > memory_max_bytes:
        reasons.append(f"{memory_bytes} bytes of memory are more than WORKER_SLOT_MEMORY_MAX_BYTES={memory_max_bytes}")
    return Audit(restored=tuple(restored), recycle="; ".join(filter(None, reasons)), memory_bytes=memory_bytes)


def _catchable() -> list[int]:
    return sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def _restore_cwd(before: Baseline) -> list[str]:
    try:
        if os.getcwd() == before.cwd:
            return []
    except FileNotFoundError:
        pass  # The task removed the folder that it stood in; going back cures it.
    os.chdir(before.cwd)
    return ["working directory"]


def _restore_umask(before: Baseline) -> list[str]:
    return [] if os.umask(before.umask) == before.umask else ["umask"]


def _restore_environ(before: Baseline) -> list[str]:
    if os.environ == before.environ:
        return []
    for name in set(os.environ) - set(before.environ):
        del os.environ[name]
    os.environ.update(before.environ)
    return ["environment"]


def _restore_handlers(before: Baseline) -> list[str]:
    restored = []
    for number, handler in before.handlers.items():
        # None: installed from C code, which Python can neither compare nor install again.
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
            restored.append(signal.Signals(number).name)
    return restored


def _torch_switches(torch: Any) -> dict[str, tuple[Any, Callable[[Any], None]]]:
    """Each global switch of torch: its value now, and how to set it."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    strict, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    return {
        "default dtype": (
            str(torch.get_default_dtype()),
            lambda name: torch.set_default_dtype(getattr(torch, name.removeprefix("torch."))),
        ),
        "matmul precision": (torch.get_float32_matmul_precision(), torch.set_float32_matmul_precision),
        "matmul TF32": (cuda.allow_tf32, lambda value: setattr(cuda, "allow_tf32", value)),
        "cuDNN TF32": (cudnn.allow_tf32, lambda value: setattr(cudnn, "allow_tf32", value)),
        "cuDNN benchmark": (cudnn.benchmark, lambda value: setattr(cudnn, "benchmark", value)),
        "cuDNN deterministic": (cudnn.deterministic, lambda value: setattr(cudnn, "deterministic", value)),
        "deterministic algorithms": (
            (strict, warn_only),
            lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
        ),
        "gradients": (torch.is_grad_enabled(), torch.set_grad_enabled),
        "anomaly detection": (torch.is_anomaly_enabled(), torch.autograd.set_detect_anomaly),
    }


def _restore_torch(torch: ModuleType | None) -> list[str]:
    # A torch that is still being imported by a surviving thread has no switches yet; that thread recycles the slot.
    if torch is None or not hasattr(torch, "autograd"):
        return []
    restored = []
    for name, (value, restore) in _torch_switches(torch).items():
        if value != _TORCH_DEFAULTS[name]:
            restore(_TORCH_DEFAULTS[name])
            restored.append(f"torch's {name}")
    return restored


def _reseed() -> None:
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "default_generator"):
        torch.default_generator.seed()
        if torch.cuda.is_initialized():
            torch.cuda.seed_all()


def _is_kept(thread: threading.Thread) -> bool:
    # Threads that C code made and that have only passed through Python, such as torch's backward threads: their library
    # keeps them for the life of the process.
    if isinstance(thread, threading._DummyThread):
        return True
    return thread.name.startswith(KEPT_THREAD_PREFIXES) or thread.name.endswith(KEPT_THREAD_MARKS)


def _surviving_threads(before: Baseline) -> str:
    deadline = time.monotonic() + THREAD_END_S_MAX
    new = [thread for thread in threading.enumerate() if thread not in before.threads and not _is_kept(thread)]
    for thread in new:
        thread.join(max(0.0, deadline - time.monotonic()))
    names = [thread.name for thread in new if thread.is_alive()]
    return f"threads outlive the task: {', '.join(names)}" if names else ""


def _child_pids() -> list[int]:
    """Living children of all threads of this process; orphans of children are among them (child subreaper)."""
    pids: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            pids.update(int(pid) for pid in listing.read_text().split())
        except FileNotFoundError:
            continue  # That thread has just ended; its children moved to another one.
    return sorted(pids)


def _surviving_children(before: Baseline) -> str:
    known = before.children | {_resource_tracker_pid()}
    pids = [pid for pid in _child_pids() if pid not in known and not _reaped(pid)]
    for pid in pids:
        # Also those that made a session of their own, which the agent's kill of the group would miss.
        os.kill(pid, signal.SIGKILL)
    return f"child processes outlive the task: {', '.join(map(str, pids))}" if pids else ""


def _reaped(pid: int) -> bool:
    """True when the child had ended already and only its status was left to fetch."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _resource_tracker_pid() -> int | None:
    """multiprocessing's helper: one a process, kept for its life, harmless."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    return None if module is None else module._resource_tracker._pid


def _gpu_memory_bytes() -> int:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.memory_allocated(device) for device in range(torch.cuda.device_count()))


def _gpu_memory_kept(before: Baseline) -> str:
    kept = _gpu_memory_bytes() - before.gpu_memory_bytes
    if kept > GPU_MEMORY_KEPT_BYTES_MAX:
        gc.collect()
        kept = _gpu_memory_bytes() - before.gpu_memory_bytes
    if kept > GPU_MEMORY_KEPT_BYTES_MAX:
        return f"{kept} bytes of GPU memory outlive the task"
    return ""


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def _memory_after_collection(memory_max_bytes: int) -> int:
    used = resident_bytes()
    # Collecting a heap with Dagster in it takes tens of milliseconds, so only when it decides something.
    if memory_max_bytes and used > memory_max_bytes:
        gc.collect()
        used = resident_bytes()
    return used
