"""The device that does the work: choose it, describe it, wait for it."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass

import torch

from gpu_ops.errors import BadSetting


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What to record beside a result: equal bits are promised within one device class and torch version."""

    kind: str  # "cuda" or "cpu"
    name: str
    memory_bytes: int  # 0 on the CPU: the machine's memory is not ours to count
    capability: str  # "9.0" on Hopper; vector instructions on the CPU
    torch_version: str
    thread_count: int

    def as_dict(self) -> dict[str, str | int]:
        """The same as plain JSON values."""
        return asdict(self)


def best_device(name: str | torch.device | None = None) -> torch.device:
    """The named device, or CUDA when there is one, or the CPU. Raises BadSetting for a device that is not there."""
    if name is None:
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as cause:
        raise BadSetting("device", repr(name), "'cpu', 'cuda' or 'cuda:N'") from cause
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadSetting("device", repr(str(name)), "'cpu' on this machine, which has no CUDA device")
    if device.type not in {"cpu", "cuda"}:
        raise BadSetting("device", repr(str(name)), "'cpu', 'cuda' or 'cuda:N'")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def describe(device: torch.device) -> DeviceFacts:
    """Facts of a device, for metadata and logs."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        capability = f"{properties.major}.{properties.minor}"
        name, memory_bytes = properties.name, properties.total_memory
    else:
        name, memory_bytes = platform.processor() or platform.machine(), 0
        capability = torch.backends.cpu.get_cpu_capability()
    return DeviceFacts(
        kind=device.type,
        name=name,
        memory_bytes=memory_bytes,
        capability=capability,
        torch_version=torch.__version__,
        thread_count=torch.get_num_threads(),
    )


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was asked to do. Nothing to wait for on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Most bytes that tensors held on the device since the start; 0 on the CPU, where torch does not count."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
