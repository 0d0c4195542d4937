"""Logging of a process: one line of key=value on stderr for each record."""

from __future__ import annotations

import logging
import sys
import time

LEVELS = ("debug", "info", "warning", "error")


class KeyValueFormatter(logging.Formatter):
    """`time=... level=info node=cp-1 at=raft_service.driver msg="this node leads; term=3"`"""

    # In UTC, so that the lines of machines in different places can be merged.
    converter = staticmethod(time.gmtime)

    def __init__(self, *, role: str, name: str) -> None:
        """`role=name` stands in every line."""
        super().__init__()
        self._origin = f"{role}={name}"

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it if there is one."""
        at = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"
        message = record.getMessage().replace('"', "'")
        line = f'time={at} level={record.levelname.lower()} {self._origin} at={record.name} msg="{message}"'
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(*, role: str, name: str, level: str = "info") -> None:
    """Sets up the root logger of this process.

    Args:
        role: "node" or "worker".
        name: which one.
        level: how much to say; one of LEVELS.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter(role=role, name=name))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # gRPC and uvicorn say at INFO what we say ourselves.
    for noisy in ("grpc", "uvicorn", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
