"""Turns errors that a user can cure into Dagster failures of one sentence, without a wall of traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import Failure

from gpu_ops.errors import GpuOpsError
from orchestrator_pkg.blocks import BlockFormatError
from orchestrator_pkg.config import ConfigError
from orchestrator_pkg.dataset import ManifestError
from orchestrator_pkg.store import PreconditionFailed, StoreError, StoreUnreachable


class BadInput(ValueError):
    """Data or configuration that a pipeline cannot use; the message is one sentence with the cure."""


# All messages of these are written for users.
CURABLE = (BadInput, BlockFormatError, ConfigError, GpuOpsError, ManifestError, StoreError)
# Trying again may help with these alone; the same bad data stay bad.
TRANSIENT = (StoreUnreachable, PreconditionFailed)


@contextmanager
def plain_failures() -> Iterator[None]:
    """Inside assets and I/O managers: raises `dagster.Failure` with the sentence of a curable error."""
    try:
        yield
    except CURABLE as error:
        raise Failure(description=str(error), allow_retries=isinstance(error, TRANSIENT)) from None
