"""The gradient of one optimizer step is that of the mean loss over its rows, however they are cut and shared.

The reference is written with plain torch and transformers: one forward over the whole batch, one backward. The
trainer's gradient is read from the optimizer in its checkpoint: after a step AdamW's first moment is a tenth of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.sampler import Sampler
from finetune_trainer.data.split import Side
from support.models import LABELS, save_model
from support.runs import ARun, WarmTrainer, a_run

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.torch
FIRST_MOMENT = 0.1
SMOOTHING = 0.1


def reference_gradient(run: ARun, model_folder: Path) -> list[torch.Tensor]:
    """Gradients of the mean loss over the first step's rows, clipped to norm 1, in the order of the parameters."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    config = RunConfig.model_validate(run.config)
    rows = load_data(config).sides[Side.TRAIN]
    training = config.training
    chosen = [rows[index] for index in Sampler(len(rows), training.train_batch_size, training.seed).indices(0)]
    torch.manual_seed(training.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        model_folder, num_labels=len(LABELS), dtype=torch.float32
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    inputs = tokenizer([row.values["text"] for row in chosen], padding=True, return_tensors="pt")
    targets = torch.tensor([LABELS.index(row.values["label"]) for row in chosen])
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    criterion(model(**inputs).logits, targets).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return [parameter.grad for parameter in model.parameters()]


def trained_gradient(run: ARun) -> list[torch.Tensor]:
    """The gradient of the only step of a finished run, in the order of the parameters."""
    import torch

    state = torch.load(run.checkpoints / "step-1" / "optimizer.pt", weights_only=True)
    order = [number for group in state["param_groups"] for number in group["params"]]
    return [state["state"][number]["exp_avg"] / FIRST_MOMENT for number in order]


@pytest.fixture(scope="module")
def still_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model without dropout, made once for each architecture."""
    made: dict[str, Path] = {}

    def model(kind: str) -> Path:
        return made.setdefault(kind, save_model(tmp_path_factory.mktemp(kind), kind, dropout=0.0))

    return model


@pytest.mark.parametrize(
    ("kind", "batch", "processes"),
    [
        pytest.param("bert", 8, 1, id="bert, one micro-batch"),
        pytest.param("bert", 32, 1, id="bert, four micro-batches"),
        pytest.param("bert", 32, 2, id="bert, two processes"),
        pytest.param("bert", 20, 3, id="bert, three processes, uneven"),
        pytest.param("bert", 2, 3, id="bert, a process without rows"),
        pytest.param("roberta", 20, 2, id="roberta"),
        pytest.param("distilbert", 20, 2, id="distilbert"),
    ],
)
def test_gradient(
    kind: str,
    batch: int,
    processes: int,
    trainer: WarmTrainer,
    still_model: Callable[[str], Path],
    rows: Path,
    tmp_path: Path,
) -> None:
    import torch

    folder = still_model(kind)
    run = a_run(
        tmp_path, rows.as_uri(), folder.as_uri(), maxSteps=1, trainBatchSize=batch, labelSmoothing=SMOOTHING
    ).with_processes(processes)
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    expected = reference_gradient(run, folder)
    decayed, others = ([item for item in expected if (item.ndim > 1) is wanted] for wanted in (True, False))
    for ours, theirs in zip(trained_gradient(run), decayed + others, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
