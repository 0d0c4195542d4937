"""The ledger's record of one named lease."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator_proto import ledger_pb2 as pb


@dataclass(slots=True)
class Lease:
    """A name that one owner holds until a leader time. Changed by apply only; others read."""

    name: str
    owner: str
    # Leader time at which it runs out, unless renewed.
    expires_at_ms: int
    # Of the entry that granted it; stays the same while the owner renews.
    token: pb.Token

    def to_record(self) -> pb.LeaseRecord:
        """The record for a snapshot."""
        return pb.LeaseRecord(name=self.name, owner=self.owner, expires_at_ms=self.expires_at_ms, token=self.token)

    @classmethod
    def from_record(cls, record: pb.LeaseRecord) -> Lease:
        """A lease from a snapshot."""
        token = pb.Token(epoch=record.token.epoch, index=record.token.index)
        return cls(name=record.name, owner=record.owner, expires_at_ms=record.expires_at_ms, token=token)
