"""text-regression: a number for a text or for a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.analysis.residuals import residuals
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import DataError
from finetune_trainer.metrics import regression
from finetune_trainer.model_folder import ModelFolder, Part
from finetune_trainer.tasks import augments, pretrained, texts
from finetune_trainer.tasks.base import MOST_ERRORS, Batch, Better, Example, Goal, Report, Rows, TaskKind, wrong_row

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


class TextRegression(TaskKind):
    """The loss is the squared error in the targets' own unit, counted in rows."""

    roles = Roles(
        {"text": columns.text, "textPair": columns.text, "label": columns.number},
        needed=(("text", "label"),),
        targets=("label",),
    )
    inputs = ("text", "textPair")
    auto_classes = ("AutoModelForSequenceClassification",)
    parts = (Part.TOKENIZER,)
    augments = {"text": augments.WORDS}
    reworded_roles = ("text", "textPair")
    goal = Goal("mse", Better.LOWER)
    usage = """\
from transformers import pipeline

estimate = pipeline("text-classification", "model", function_to_apply="none")
estimate("A text.")[0]["score"]"""

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        self.tokenizer = pretrained.load_tokenizer(source)

    @classmethod
    def check(cls, rows: Rows, config: RunConfig) -> list[str]:  # noqa: ARG003
        values = (row.values["label"] for row in rows[Side.TRAIN])
        first = next(values)
        if all(value == first for value in values):
            message = f"all {len(rows[Side.TRAIN])} training rows have the number {first:g}"
            raise DataError("OneValue", message, "give rows with other numbers; see spec.dataset.columns.label")
        return []

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        name = self.config.dataset.columns.get("label", "label")
        head = {"num_labels": 1, "id2label": {0: name}, "label2id": {name: 0}, "problem_type": "regression"}
        return texts.load_classifier(self.source, self.config, self.tokenizer, head)

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        limit = texts.longest(self.source, self.tokenizer, self.config)
        inputs, cut = texts.encode(self.tokenizer, rows, limit, self.training.truncation)
        if "label" not in rows[0].values:
            return list(inputs), cut
        return [{**item, "label": row.values["label"]} for item, row in zip(inputs, rows, strict=True)], cut

    def size(self, example: Example) -> int:
        return len(example["input_ids"])

    def collate(self, examples: Sequence[Example]) -> Batch:
        import torch

        tokens = sum(self.size(example) for example in examples)
        labels = [example["label"] for example in examples if "label" in example]
        targets = {"labels": torch.tensor(labels, dtype=torch.float32)} if labels else {}
        return Batch(texts.pad(self.tokenizer, examples), targets, len(examples), tokens)

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        from torch.nn import functional

        return functional.mse_loss(_values(outputs), batch.targets["labels"], reduction="sum")

    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[float]:  # noqa: ARG002
        values: list[float] = _values(outputs).tolist()
        return values

    def judge(self, rows: Sequence[Row], predictions: Sequence[float], baseline: Sequence[Row] | None) -> Report:
        import numpy

        truth = numpy.array([row.values["label"] for row in rows])
        guesses = numpy.array(predictions)
        values = regression.numbers(truth, guesses)
        if baseline is not None:
            mean = fmean(row.values["label"] for row in baseline)
            values["baseline_mse"] = float(((truth - mean) ** 2).mean())
        worst = numpy.argsort(-abs(truth - guesses), kind="stable")[:MOST_ERRORS]
        return Report(values, errors=[self._error(rows[place], predictions[place]) for place in worst])

    def _error(self, row: Row, guess: float) -> dict[str, Any]:
        off = self.present(guess - row.values["label"])["value"]
        return wrong_row(row, prediction=self.present(guess)["value"], error=off)

    def group(self, row: Row) -> Any:
        return row.values["label"]

    def analyse(self, rows: Sequence[Row], predictions: Sequence[float]) -> dict[str, Any]:
        import numpy

        found = residuals(numpy.array([row.values["label"] for row in rows]), numpy.array(predictions))
        return {"residuals": found} if found else {}

    def present(self, prediction: float) -> dict[str, Any]:
        return {"value": float(f"{prediction:.6g}") if isfinite(prediction) else None}

    def save(self, folder: Path) -> None:
        pretrained.save_tokenizer(self.tokenizer, folder)


def _values(outputs: Any) -> torch.Tensor:
    """The model's numbers in 32 bits, shape (rows,)."""
    values: torch.Tensor = outputs.logits.float().squeeze(-1)
    return values
