"""The memory that steps of a run really take, measured by the kernel in a process of their own."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.runs import ARun, WarmTrainer

PATIENCE = 240.0
STEPS = 3


def enlarged(small: Path, folder: Path, auto_class: str, shape: Mapping[str, Any]) -> Path:
    """A model's folder again, with another shape and new weights."""
    import transformers

    shutil.copytree(small, folder)
    config = transformers.AutoConfig.from_pretrained(small, **shape)
    getattr(transformers, auto_class).from_config(config).save_pretrained(folder)
    return folder


def measured_peak(trainer: WarmTrainer, small: ARun, run: ARun) -> int:
    """Most bytes that lie in memory during a few steps, beside what the libraries take, as a `small` run loads them."""
    process = trainer.fork(_measure, (str(small.write()), str(run.write()), str(run.root / "peak.json")))
    process.join(PATIENCE)
    assert process.exitcode == 0, process.exitcode
    peak: int = json.loads((run.root / "peak.json").read_text())
    return peak


def _measure(small: str, path: str, said: str) -> None:
    import torch

    from support.methods import built, take_steps

    torch.set_num_threads(1)
    take_steps(built(ARun(Path(small).parent, json.loads(Path(small).read_text()))), 1)
    gc.collect()
    before = _status("VmRSS")
    run = built(ARun(Path(path).parent, json.loads(Path(path).read_text())))
    Path("/proc/self/clear_refs").write_text("5")  # from now on the peak is counted anew
    take_steps(run, STEPS)
    Path(said).write_text(json.dumps(_status("VmHWM") - before))


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
