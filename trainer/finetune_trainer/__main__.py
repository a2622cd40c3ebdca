"""`python -m finetune_trainer [RUN_CONFIG]`: carries out one run, and exits with a code of DESIGN's table."""

from __future__ import annotations

import os
import sys

from finetune_trainer.gang import spawn
from finetune_trainer.supervisor import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ, spawn))
