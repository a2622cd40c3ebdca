"""Not outliving the parent: a rank without its supervisor would go on writing where a later attempt writes."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals, parent: int) -> None:
    """Let the kernel send us `number` when our parent, the process `parent`, ends; send it now if that is over."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
