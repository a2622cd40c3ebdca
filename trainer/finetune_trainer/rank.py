"""`python -m finetune_trainer.rank`: one rank of a run, which can tell where it stands before torch is imported."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from pathlib import Path

from finetune_trainer import handover, heartbeat, stacks
from finetune_trainer.parent import end_with_parent


def main() -> int:
    """The rank that RANK says; returns the exit code."""
    end_with_parent(signal.SIGKILL, int(os.environ[handover.ENV_SUPERVISOR]))
    faulthandler.enable()
    scratch = Path(os.environ[handover.ENV_SCRATCH])
    stacks.answer(scratch, int(os.environ["RANK"]))
    heartbeat.PULSE.join(scratch / heartbeat.BEATS, int(os.environ["LOCAL_RANK"]))
    from finetune_trainer import worker  # takes seconds: it imports torch

    heartbeat.beat()
    return worker.main()


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # Threads of the communication libraries may wait for peers that are gone.
    os._exit(code)
