"""What this machine has to offer: slots, memory, GPUs."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path

import psutil

from orchestrator_pkg.config import WorkerSettings
from orchestrator_proto import ledger_pb2

logger = logging.getLogger(__name__)

# Any of them must exist before torch can see a GPU: NVIDIA, AMD, Windows' subsystem for Linux. Looking costs nothing,
# importing torch costs seconds.
GPU_DEVICE_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
# Importing torch from a cold disk and starting CUDA takes up to about 30 s.
PROBE_TIMEOUT_S = 120
# Runs in a process of its own: a CUDA context would cost the agent hundreds of megabytes of every GPU.
_PROBE = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps([torch.cuda.get_device_properties(i).total_memory for i in range(count)]))
"""


def gpu_memory_sizes() -> list[int]:
    """Memory of each GPU that torch sees, in bytes; empty without torch or GPU. Blocks for seconds if there is one."""
    if not any(Path(file).exists() for file in GPU_DEVICE_FILES) or importlib.util.find_spec("torch") is None:
        return []
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True
        )
        sizes: list[int] = json.loads(probe.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        words = getattr(error, "stderr", None) or str(error)
        logger.warning("GPUs cannot be probed, so none is offered: %s", str(words).strip().splitlines()[-1:])
        return []
    return sizes


def capacity_of(settings: WorkerSettings) -> ledger_pb2.Resources:
    """The resources to register. Blocks while GPUs are probed.

    A number of GPUs that the settings give is taken at its word; their memory is that of the first ones torch sees.
    """
    sizes = [] if settings.gpus == 0 else gpu_memory_sizes()
    gpus = len(sizes) if settings.gpus < 0 else settings.gpus
    return ledger_pb2.Resources(
        run_slots=settings.run_slots,
        step_slots=settings.step_slots,
        gpus=gpus,
        gpu_memory_bytes=sum(sizes[:gpus]),
        memory_bytes=settings.memory_bytes or psutil.virtual_memory().total,
        pools=settings.pool_amounts,
    )
