"""Models with batch norms learn the same whatever the number of processes: in groups of 32 rows, in the rows' order.

What a group of rows is normalized by is part of what is computed, so it follows from nothing but the manifest.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer.data.media import open_image
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sampler import Sampler
from finetune_trainer.data.split import Side
from support.cases_media import CASES
from support.corpora import pictures
from support.matrix import Case
from support.runs import ARun, WarmTrainer
from support.step_gradients import Tensors, step_gradients

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.torch
GROUP = 32
SMALL = {
    case.model: replace(case, corpus=partial(pictures.digits, count=160))
    for case in CASES
    if case.id.startswith("image-classification")
}
each_kind = pytest.mark.parametrize("kind", ["resnet", "efficientnet"])


def a_step(case: Case, root: Path, batch: int) -> ARun:
    return case.run(root, trainBatchSize=batch, maxSteps=1)


def reference(run: ARun) -> Tensors:
    """One step in plain torch: gradients of the mean loss, and the buffers after the groups in their order."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder, training = run.config["model"]["uri"].removeprefix("file://"), run.config["training"]
    data = load_data(RunConfig.model_validate(run.config))
    rows = data.sides[Side.TRAIN]
    torch.manual_seed(training["seed"])
    model = AutoModelForImageClassification.from_pretrained(folder, num_labels=len(data.labels)).train()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    step = Sampler(len(rows), training["trainBatchSize"], training["seed"]).indices(0)
    for start in range(0, len(step), GROUP):
        group = [rows[index] for index in step[start : start + GROUP]]
        logits = model(**processor(images=[opened(row) for row in group], return_tensors="pt")).logits
        labels = torch.tensor([data.labels.index(row.values["label"]) for row in group])
        (cross_entropy(logits, labels, reduction="sum") / len(step)).backward()
    gradients = {name: item.grad for name, item in model.named_parameters() if item.grad is not None}
    return gradients | {name: item for name, item in model.named_buffers() if item.is_floating_point()}


def opened(row: Row) -> Any:
    return open_image(row.values["image"], row.place)


@each_kind
@pytest.mark.parametrize(
    ("batch", "processes"),
    [
        pytest.param(16, 2, id="less than a group, a process without rows"),
        pytest.param(64, 1, id="two groups"),
        pytest.param(64, 2, id="two groups, two processes"),
        pytest.param(80, 2, id="three groups, the last one small"),
    ],
)
def test_one_step(kind: str, batch: int, processes: int, trainer: WarmTrainer, tmp_path: Path) -> None:
    """Gradients and running averages."""
    run = a_step(SMALL[kind], tmp_path, batch)
    same(step_gradients(trainer, run, micro_batch=4, processes=processes), reference(run))


def same(found: Tensors, expected: Tensors) -> None:
    import torch

    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@each_kind
def test_a_whole_run(kind: str, trainer: WarmTrainer, tmp_path: Path) -> None:
    """Weights, running averages and predictions after six steps of one process, and of two."""
    runs = [run_of(SMALL[kind], tmp_path / str(processes), processes, trainer) for processes in (1, 2)]
    first, second = (saved(run) for run in runs)
    same(first, second)
    counted = {int(value) for name, value in first.items() if name.endswith("num_batches_tracked")}
    assert counted == {groups(runs[0], steps=6)}
    alone, shared = (run.lines("predictions.jsonl") for run in runs)
    assert [line["label"] for line in alone] == [line["label"] for line in shared]
    assert [line["score"] for line in alone] == pytest.approx([line["score"] for line in shared], abs=1e-3)


def groups(run: ARun, steps: int) -> int:
    """How many groups of rows went by."""
    training, rows = run.config["training"], len(load_data(RunConfig.model_validate(run.config)).sides[Side.TRAIN])
    sampler = Sampler(rows, training["trainBatchSize"], training["seed"])
    return sum(-(-len(sampler.indices(step)) // GROUP) for step in range(steps))


def run_of(case: Case, root: Path, processes: int, trainer: WarmTrainer) -> ARun:
    run = case.run(root, trainBatchSize=64, maxSteps=6, learningRate=1e-3).with_processes(processes)
    run = run.with_("evaluation", strategy="Never")
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    return run


def saved(run: ARun) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run.folder / "model" / "model.safetensors")
