"""The package as such: it imports on a bare machine, exports what it says, and does not change torch's settings."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import gpu_ops
from gpu_ops import BadSetting, Precision, best_device, describe
from gpu_ops.precision import matmul_settings

BARE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"dagster", "grpc", "boto3", "botocore", "pyarrow", "google", "safetensors"}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Refuse())
import importlib, pkgutil, gpu_ops
for module in pkgutil.iter_modules(gpu_ops.__path__):
    importlib.import_module("gpu_ops." + module.name)
print("imported", len(gpu_ops.__all__))
"""


def test_imports_on_a_bare_machine() -> None:
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("imported")


def test_every_export_exists() -> None:
    assert [name for name in gpu_ops.__all__ if not hasattr(gpu_ops, name)] == []


def test_every_error_is_one_sentence_with_a_cure() -> None:
    errors = [
        gpu_ops.EmptyDataset("The mean"),
        gpu_ops.NotNumeric("x", torch.bool),
        gpu_ops.NaNFound("x", 3),
        gpu_ops.ShapeMismatch("The shape", 1, 2, "reshape it"),
        gpu_ops.ColumnMissing("x", []),
        gpu_ops.BadSetting("depth", 1, "2 or more"),
        gpu_ops.CodeOutOfRange(2, ["k"]),
        gpu_ops.SumOverflow("x"),
        gpu_ops.LawBroken("identity", "bits differ"),
        gpu_ops.DeviceMemoryFull(10, torch.device("cpu")),
    ]
    for error in errors:
        text = str(error)
        assert text.endswith(".")
        assert "\n" not in text
        assert len(text.split()) >= 6


def test_device_is_chosen_and_described() -> None:
    facts = describe(best_device("cpu"))
    assert (facts.kind, facts.torch_version) == ("cpu", torch.__version__)
    assert facts.as_dict()["thread_count"] >= 1
    assert best_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(BadSetting, match="'cpu', 'cuda' or 'cuda:N'"):
        best_device("meta")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_device_is_named() -> None:
    with pytest.raises(BadSetting, match="no CUDA device"):
        best_device("cuda")


@pytest.mark.parametrize("is_allowed", [True, False])
def test_tf32_is_set_inside_only(is_allowed: bool) -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    with matmul_settings(Precision(is_tf32_allowed=is_allowed)):
        assert torch.backends.cuda.matmul.allow_tf32 is is_allowed
    assert torch.backends.cuda.matmul.allow_tf32 is before
