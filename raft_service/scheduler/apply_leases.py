"""Handlers of the named leases: hold, release, expire."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator_proto import ledger_pb2 as pb

from .lease import Lease
from .outcomes import LeaseOutcome
from .stage import Handler, Stage
from .transitions import cancel_trees


def hold_lease(stage: Stage, command: pb.HoldLeaseCommand) -> LeaseOutcome:
    """Takes or renews a lease; refused while another owner holds it unexpired.

    Taking over a lease that ran out cancels what its former owner had, as ExpireLease would have done. An owner that
    renews late but first keeps its hold.
    """
    if not command.name or not command.owner or not command.ttl_ms:
        return LeaseOutcome(granted=False, owner=_owner(stage, command.name))
    lease = stage.books.leases.get(command.name)
    if lease is not None and lease.owner != command.owner:
        if lease.expires_at_ms > stage.now_ms:
            return LeaseOutcome(granted=False, owner=lease.owner)
        _end_hold(stage, lease, "ran out")
        lease = None
    if lease is None:
        lease = Lease(name=command.name, owner=command.owner, expires_at_ms=0, token=stage.token())
        stage.books.leases[command.name] = lease
    # Never shortened: a renewal that was overtaken by a later, longer one must not undo it.
    lease.expires_at_ms = max(lease.expires_at_ms, stage.now_ms + command.ttl_ms)
    return LeaseOutcome(granted=True, owner=lease.owner, token=lease.token)


def release_lease(stage: Stage, command: pb.ReleaseLeaseCommand) -> LeaseOutcome:
    """Ends the asker's hold and cancels its tasks; nothing happens when somebody else holds the lease."""
    lease = stage.books.leases.get(command.name)
    if lease is not None and lease.owner == command.owner:
        _end_hold(stage, lease, "was released")
    return LeaseOutcome(granted=True, owner=_owner(stage, command.name))


def expire_lease(stage: Stage, command: pb.ExpireLeaseCommand) -> LeaseOutcome:
    """Ends a hold that ran out and cancels its tasks; void when it was renewed or is another hold."""
    lease = stage.books.leases.get(command.name)
    if lease is None:
        return LeaseOutcome(granted=True, owner="")
    is_same_hold = lease.owner == command.owner and lease.token == command.token
    if not is_same_hold or lease.expires_at_ms > stage.now_ms:
        return LeaseOutcome(granted=False, owner=lease.owner)
    _end_hold(stage, lease, "ran out")
    return LeaseOutcome(granted=True, owner="")


def _end_hold(stage: Stage, lease: Lease, what: str) -> None:
    del stage.books.leases[lease.name]
    owned = stage.books.unfinished_of_owner(lease.name)
    cancel_trees(stage, owned, f"lease {lease.name} of its owner {what}")


def _owner(stage: Stage, name: str) -> str:
    lease = stage.books.leases.get(name)
    return lease.owner if lease is not None else ""


HANDLERS: Mapping[str, Handler] = {
    "hold_lease": hold_lease,
    "release_lease": release_lease,
    "expire_lease": expire_lease,
}
