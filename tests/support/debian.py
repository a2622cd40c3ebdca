"""Programs that tests need and that Debian has."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def ensure(program: str) -> None:
    """Install the package of this name from the distribution where the program is missing, as root can."""
    if shutil.which(program):
        return
    if os.geteuid() != 0:
        raise RuntimeError(f"{program} is missing: install it with apt-get install {program}")
    with Path(tempfile.gettempdir(), f"finetune-{program}.lock").open("w") as lock:
        # Of several workers that begin together one installs it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shutil.which(program):
            for command in (["update"], ["install", "-y", "--no-install-recommends", program]):
                subprocess.run(["apt-get", *command], check=True, capture_output=True)
