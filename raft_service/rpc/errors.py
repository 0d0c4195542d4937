"""What a client of the control plane may have to tell its user: nobody answers, or the request is refused."""

from __future__ import annotations

from collections.abc import Sequence

import grpc


class ControlPlaneError(Exception):
    """Base of the errors of a client; the message is one sentence with the cure."""


class ControlPlaneUnavailable(ControlPlaneError):
    """No node that leads answered in time; what was asked may or may not have happened, and may be asked again."""


class RequestRefused(ControlPlaneError):
    """The request itself is wrong; asking again will not help."""


def nobody_answered(endpoints: Sequence[str], *, within_s: float, last: str) -> ControlPlaneUnavailable:
    """The error for a deadline that passed."""
    return ControlPlaneUnavailable(
        f"No control plane answered at {', '.join(endpoints)} within {within_s:g} s "
        f"(last: {last or 'no answer'}); start it or correct ORCHESTRATOR_ADDR."
    )


def in_words(error: grpc.aio.AioRpcError) -> str:
    """A gRPC error for people: its code and the first line of its details."""
    details = (error.details() or "").strip().splitlines()
    code = error.code().name.lower().replace("_", " ")
    return f"{code}: {details[0]}" if details else code
