"""spec.evaluation: when the held-out rows are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.base import Document, Rule, present
from finetune_api.dataset import DataFormat, Dataset, Source
from finetune_api.fields import SOURCE_SCHEMES, Reference, SourceUri, Word
from finetune_api.gate import Bound


class EvaluationStrategy(StrEnum):
    EPOCH = "Epoch"
    STEPS = "Steps"
    NEVER = "Never"


class CrossValidation(Document):
    """The training rows in parts; each is tested on by a run that trains on the others."""

    folds: int = Field(5, ge=2, le=20, description="In how many parts.")


class EarlyStopping(Document):
    """When a run ends before its last step."""

    patience: int = Field(3, ge=1, le=1000, description="Evaluations in a row that may bring nothing better.")
    threshold: float = Field(0.0, ge=0, description="How much better than the best an evaluation has to be.")


class Forgetting(Document):
    """Rows of what the model could do before, evaluated before training and after it."""

    uri: SourceUri = Field(description=f"Where the rows lie: {SOURCE_SCHEMES}.")
    format: DataFormat = Field(DataFormat.AUTO, description="How to read it; Auto goes by a file's ending.")
    split: Word | None = Field(None, description="Split of a hub data set or a folder, `train` if absent.")
    revision: Word | None = Field(None, description="Commit, tag or branch of a hub data set.")
    secret_ref: Reference | None = Field(None, description="Secret whose keys (HF_TOKEN, AWS_…) reach the trainer.")
    columns: Annotated[dict[str, Word], Field(max_length=16)] | None = Field(
        None, description="Role to column; as in spec.dataset.columns if absent."
    )

    @property
    def source(self) -> Source:
        """The same as a source of a data set."""
        return Source(
            uri=self.uri, format=self.format, split=self.split, revision=self.revision, secret_ref=self.secret_ref
        )


class Evaluation(Document):
    """When the validation rows are looked at, and what follows from it."""

    strategy: EvaluationStrategy = Field(EvaluationStrategy.EPOCH, description="After each epoch, or by steps.")
    steps: int | None = Field(None, ge=1, description="Steps between two evaluations.")
    cross_validation: CrossValidation | None = Field(None, description="Estimate mean and spread over folds as well.")
    metric_for_best_model: Word | None = Field(
        None,
        description="Metric of the validation rows that says which weights are the best; the task's own if absent.",
    )
    early_stopping: EarlyStopping | None = Field(None, description="End the run when evaluations bring nothing better.")
    forgetting: Forgetting | None = Field(None, description="Rows of what the model could do before training.")
    gate: Annotated[list[Bound], Field(max_length=32)] = Field(
        [], description="What the test metrics have to reach; otherwise the run fails and keeps its model."
    )
    slices: Annotated[list[Word], Field(max_length=16)] = Field(
        [],
        description="Columns by whose values the test rows are also measured apart, beside length, label and source.",
    )
    constraints: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"(has(self.strategy) && self.strategy == 'Steps') == {present('steps')}",
            lambda evaluation: (evaluation.strategy == EvaluationStrategy.STEPS) == (evaluation.steps is not None),
            "set steps when, and only when, strategy is Steps",
        ),
        Rule(
            f"!(has(self.strategy) && self.strategy == 'Never' && {present('earlyStopping')})",
            lambda evaluation: evaluation.strategy != EvaluationStrategy.NEVER or evaluation.early_stopping is None,
            "earlyStopping needs evaluations: let strategy be Epoch or Steps",
        ),
    )


def sources_of(dataset: Dataset, evaluation: Evaluation) -> Iterator[tuple[str, Source]]:
    """Every source of rows with its field's path in a manifest."""
    yield from dataset.sources()
    if evaluation.forgetting is not None:
        yield "spec.evaluation.forgetting", evaluation.forgetting.source
