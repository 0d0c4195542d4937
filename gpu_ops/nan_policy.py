"""What to do with NaN: refuse it, leave it out, or let it spread.

The policy `raise` does not stop the device to look: a partial carries the number of NaN seen, and the error comes when
the partial is guarded (end of a range) or presented. So one policy costs no more than another on a stream.
"""

from __future__ import annotations

from enum import StrEnum

import torch

from gpu_ops.errors import BadSetting, NaNFound


class NanPolicy(StrEnum):
    """`raise` refuses NaN, `omit` leaves those values out, `propagate` makes the result NaN."""

    RAISE = "raise"
    OMIT = "omit"
    PROPAGATE = "propagate"


def policy_of(value: str | NanPolicy) -> NanPolicy:
    """Turn a word into a policy; raises BadSetting for an unknown word."""
    try:
        return NanPolicy(value)
    except ValueError as cause:
        raise BadSetting("nan_policy", repr(value), "'raise', 'omit' or 'propagate'") from cause


def refuse_nan(column: str, nan_count: torch.Tensor, policy: NanPolicy) -> None:
    """Raise NaNFound if the policy is `raise` and any NaN was counted. Waits for the device."""
    if policy is NanPolicy.RAISE and (count := int(nan_count.sum())):
        raise NaNFound(column, count)
