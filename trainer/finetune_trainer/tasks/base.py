"""What a task is: everything that differs between learning to classify and learning anything else.

A task file imports torch and transformers only where it computes, because the supervisor reads the upper half of it,
roles, model types and the check of the rows, in a process that has no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from finetune_api.job import Training
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sources import Roles
from finetune_trainer.data.split import Side
from finetune_trainer.model_folder import ModelFolder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Rows = Mapping[Side, Sequence[Row]]
Example = Mapping[str, Any]
"""One encoded row, as plain values."""


@dataclass(frozen=True)
class Batch:
    """Examples as tensors on the host.

    `count` is what the task divides the summed loss by (rows here), `tokens` the tokens that are not padding.
    """

    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor
    count: int
    tokens: int


@dataclass(frozen=True)
class Report:
    """How well predictions fit: finite numbers by name, a document for people, and the rows that went wrong."""

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)


class TaskKind(Protocol):
    """One task of DESIGN's table."""

    roles: ClassVar[Roles]
    inputs: ClassVar[tuple[str, ...]]
    """Roles that the model sees; rows that are equal in them stay on one side of a split."""
    target: ClassVar[str]
    model_types: ClassVar[frozenset[str]]
    """`model_type` in config.json of the architectures that can do it."""

    @classmethod
    def check(cls, rows: Rows) -> list[str]:
        """The labels in their order. Raises DataError if the rows cannot be learned from."""

    @classmethod
    def load(cls, source: ModelFolder, labels: Sequence[str], training: Training) -> Self:
        """The task with its tokenizer, from a model's folder."""

    def load_model(self, trust_remote_code: bool) -> tuple[PreTrainedModel, list[str]]:
        """The pre-trained model with this task's head in 32 bits, and the names of its new parameters."""

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        """Rows as examples, and how many of them were cut to the longest length."""

    def size(self, example: Example) -> int:
        """Tokens of an example."""

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Examples as one batch, padded to the longest of them."""

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """The loss summed over the batch, in 32 bits."""

    def predict(self, outputs: Any) -> torch.Tensor:
        """What the metrics need of each row: a tensor whose first dimension is the row."""

    def judge(self, rows: Sequence[Row], predictions: Any, baseline: Sequence[Row] | None) -> Report:
        """Metrics of `predictions`, an array over `rows`; beside them those of a guess from `baseline` alone."""

    def save(self, folder: Path) -> None:
        """Put what belongs to the model beside it: the tokenizer."""
