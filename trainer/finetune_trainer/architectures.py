"""Which architectures transformers' auto classes load, written to a file that can be read without importing it.

`python -m finetune_trainer.architectures FILE` writes it; a test compares it with the installed transformers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def known() -> dict[str, list[str]]:
    """Auto class to the model types that it loads, for every auto class that a task names."""
    import transformers

    from finetune_trainer.tasks import TASKS

    names = sorted({name for task in TASKS.values() for name in task.auto_classes})
    return {name: sorted(map(str, getattr(transformers, name)._model_mapping._model_mapping)) for name in names}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(known(), indent=1) + "\n", encoding="utf-8")
