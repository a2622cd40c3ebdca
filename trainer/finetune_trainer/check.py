"""`finetune check --data`: what a run would read, as one JSON document, without torch and without the model.

Run as `python -m finetune_trainer.check CONFIG`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer import handover
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.profile import profile
from finetune_trainer.data.remote import ENV_DOWNLOADS
from finetune_trainer.errors import RunError
from finetune_trainer.preflight import load_run_config
from finetune_trainer.tasks import TASKS


def main(arguments: Sequence[str]) -> int:
    """Print what the rows of a run are like; returns the exit code."""
    try:
        with tempfile.TemporaryDirectory(prefix="finetune-check-") as scratch:
            os.environ[ENV_DOWNLOADS] = scratch
            config = load_run_config(Path(arguments[0])).model_copy(update={"folder": scratch})
            print(json.dumps(checked(config), ensure_ascii=False))
    except RunError as error:
        print(f"{error.message}" + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return ExitCode.DONE


def checked(config: RunConfig) -> dict[str, Any]:
    """The profile of the rows, and what preparing them did, as run.json would have it.

    Raises ConfigError, DataError or Unavailable.
    """
    data, task = load_data(config), TASKS[config.task]
    return {**profile(data.sides, task.inputs, task.target), "data": data.record()}


if __name__ == "__main__":
    os.environ.update(handover.quiet_environment(os.environ))
    sys.exit(main(sys.argv[1:]))
