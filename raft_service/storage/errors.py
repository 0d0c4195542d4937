"""What can go wrong with the data directory: each class is one cure."""

from __future__ import annotations

# A member that forgot its votes must not come back under its old id: it could vote twice, and undo what is committed.
REJOIN = "remove this node from the cluster, empty its RAFT_DATA_DIR and add it again as a new member"


class StorageError(Exception):
    """Base of all; the message is a sentence with the cure."""


class DataDirLocked(StorageError):
    """Another process works in this data directory."""


class ForeignData(StorageError):
    """The data directory belongs to another node, cluster or format."""


class DamagedLog(StorageError):
    """Records that were once durable cannot be read any more; going on could lose acknowledged work."""


class DiskFull(StorageError):
    """No room for the next segment. Nothing was written: the same call may be made again once there is space."""


class DiskFailed(StorageError):
    """A write or fsync failed. What the disk holds is unknown from now on, so the process must end, not retry."""
