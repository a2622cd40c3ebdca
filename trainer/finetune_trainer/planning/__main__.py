"""`finetune plan`: what a run will need, as one JSON document. No weight is downloaded, and nothing is computed.

    python -m finetune_trainer.planning CONFIG [--gpu-memory GIB]
    python -m finetune_trainer.planning CONFIG --after SCRATCH

The second is for a supervisor whose ranks ran out of memory: with the rows and the model that they had.
"""

from __future__ import annotations

import argparse
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
from finetune_trainer.data.remote import ENV_DOWNLOADS
from finetune_trainer.errors import RunError
from finetune_trainer.log import quiet_libraries
from finetune_trainer.methods.limits import check_method, check_positions
from finetune_trainer.model_folder import check_max_length
from finetune_trainer.objective import check_smoothing
from finetune_trainer.preflight import find_model, load_run_config
from finetune_trainer.tasks import TASKS


def main(arguments: Sequence[str]) -> int:
    """Print the plan; returns the exit code."""
    options = _options(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="finetune-plan-") as scratch:
            os.environ[ENV_DOWNLOADS] = scratch
            config = load_run_config(options.config)
            if options.after is not None:
                found = _after(config, options.after)
            else:
                found = _plan(config.model_copy(update={"folder": scratch}), options.gpu_memory)
            print(json.dumps(found, ensure_ascii=False))
    except RunError as error:
        print(f"{error.message}" + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return ExitCode.DONE


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m finetune_trainer.planning")
    parser.add_argument("config", type=Path)
    parser.add_argument("--gpu-memory", type=float)
    parser.add_argument("--after", type=Path)
    return parser.parse_args(arguments)


def _plan(config: RunConfig, gpu_memory: float | None) -> dict[str, Any]:
    """Raises ConfigError, DataError or Unavailable, as a run would before it trains."""
    check_method(config, config.resources.gpus_per_node)
    model = find_model(config, TASKS[config.task], weights=False)
    check_max_length(config.training.max_length, model)
    check_positions(config, model)
    check_smoothing(config, model)
    data = load_data(config)
    # These import torch, which takes seconds; what is wrong is told before.
    from finetune_trainer.planning.plan import Planner, plan
    from finetune_trainer.planning.room import room_of

    return plan(Planner(config, data, model, room_of(config.resources, gpu_memory)))


def _after(config: RunConfig, scratch: Path) -> dict[str, Any]:
    from finetune_trainer.planning.shortage import shortage

    return shortage(config, handover.read_facts(scratch))


if __name__ == "__main__":
    os.environ.update(handover.quiet_environment(os.environ))
    quiet_libraries()
    sys.exit(main(sys.argv[1:]))
