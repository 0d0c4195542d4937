"""Two requests to the Linux kernel that tie processes together: die with the parent, and adopt orphans."""

from __future__ import annotations

import ctypes
import os
import signal

# From <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(parent_pid: int) -> None:
    """Lets the kernel kill this process when the parent ends. Ends it now when the parent has ended already.

    The parent-death signal belongs to the *thread* that started us; the agent starts slots on its main thread.

    Raises:
        OSError: the kernel refused.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the request; then no signal will come any more.
    if os.getppid() != parent_pid:
        os._exit(1)


def adopt_orphans() -> None:
    """Makes grandchildren whose parent ended children of this process, so that none escapes an audit.

    Raises:
        OSError: the kernel refused.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
