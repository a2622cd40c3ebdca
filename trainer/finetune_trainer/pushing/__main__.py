"""Push what a run's folder holds: `python -m finetune_trainer.pushing RUN_CONFIG FAILURE`.

FAILURE is the file that gets the reason if it fails; the exit code is that of the trainer.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer import files, handover
from finetune_trainer.errors import CodeError, RunError
from finetune_trainer.log import set_up_logging
from finetune_trainer.parent import end_with_parent
from finetune_trainer.pushing.delivery import ENV_PATIENCE, PATIENCE, push_missing

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """The exit code of the push that the arguments name."""
    end_with_parent(signal.SIGKILL, int(os.environ[handover.ENV_SUPERVISOR]))
    set_up_logging()
    try:
        config = RunConfig.model_validate_json(Path(arguments[0]).read_bytes())
        push_missing(config, float(os.environ.get(ENV_PATIENCE) or PATIENCE))
    except RunError as error:
        return _failed(error, Path(arguments[1]))
    except Exception as error:
        log.exception("the push failed")
        hint = "its traceback is in the log; the next attempt pushes without training again"
        return _failed(CodeError(type(error).__name__, str(error), hint), Path(arguments[1]))
    return ExitCode.DONE


def _failed(error: RunError, path: Path) -> int:
    files.write_json(path, error.failure().to_dict())
    return error.exit_code


if __name__ == "__main__":
    os.environ.update(handover.quiet_environment(os.environ))
    sys.exit(main(sys.argv[1:]))
