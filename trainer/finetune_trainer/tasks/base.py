"""What a task is: everything that differs between learning to classify and learning anything else.

A task file imports torch and transformers only where it computes, because the supervisor reads its upper half, the
roles, the architectures and the check of the rows, in a process that has no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from finetune_api.run import RunConfig
from finetune_trainer.data.augment.words import Rewording
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.media import plain
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import DataError
from finetune_trainer.model_folder import ModelFolder, Needs, Part, read_folder

if TYPE_CHECKING:
    import numpy
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from finetune_trainer.tasks.writing import TokenLoss
    from finetune_trainer.training.world import World

Rows = Mapping[Side, Sequence[Row]]
Example = Mapping[str, Any]
"""One encoded row, as plain values. In training and evaluation it also has `draw`, the seed of its random numbers."""
Examples = Mapping[Side, Sequence[Example]]
TRAINING = "training"
"""Key of an example that is learned from: only such a one is changed by augmentation, and weighed by its class."""
CHANGED = "augment"
"""Key of the seed that its images and clips are to be changed by."""
MOST_ERRORS = 300
"""Rows that a report shows where nearly every row is wrong by something."""


@dataclass(frozen=True)
class Batch:
    """Examples as tensors: what the model's forward takes, and what the loss takes.

    `count` is what the task divides the summed loss by, `tokens` the positions that are not padding, `notes` what a
    prediction needs beside the model's outputs; it stays on the host.
    """

    inputs: dict[str, torch.Tensor]
    targets: dict[str, torch.Tensor]
    count: float
    tokens: int
    notes: Any = None

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        targets = {name: tensor.to(device, non_blocking=True) for name, tensor in self.targets.items()}
        return replace(self, inputs=inputs, targets=targets)

    def pinned(self) -> Batch:
        """The same in page-locked memory, from which a GPU copies while it computes."""
        inputs = {name: tensor.pin_memory() for name, tensor in self.inputs.items()}
        return replace(
            self, inputs=inputs, targets={name: tensor.pin_memory() for name, tensor in self.targets.items()}
        )


@dataclass(frozen=True)
class Report:
    """How well predictions fit: finite numbers by name, a document for people, and the rows that went wrong."""

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)


def wrong_row(row: Row, **said: Any) -> dict[str, Any]:
    """A row that went wrong as errors.jsonl has it: its values, what was `said` of it, where it stands.

    Its `source` is where it was read from; a text that plays that role is its `input`.
    """
    values = {"input" if role == "source" else role: plain(value) for role, value in row.values.items()}
    return {**values, **said, "source": row.source, "row": row.number}


class Better(Enum):
    """Which of two values of a metric is the better one."""

    HIGHER = 1
    LOWER = -1


@dataclass(frozen=True)
class Goal:
    """The metric that says which evaluation was the best."""

    metric: str
    better: Better = Better.HIGHER

    def improves(self, value: float, best: float) -> bool:
        return (value - best) * self.better.value > 0


class TaskKind(ABC):
    """One task of DESIGN's table."""

    roles: ClassVar[Roles]
    inputs: ClassVar[tuple[str, ...]]
    """Roles that the model sees; rows that are equal in them stay on one side of a split."""
    target: ClassVar[str | None] = None
    """Role with the classes whose shares a split keeps; None where there are none."""
    auto_classes: ClassVar[tuple[str, ...]]
    """Auto classes of transformers, the preferred first; an architecture that one of them loads can do the task."""
    parts: ClassVar[tuple[Part, ...]]
    """What must lie beside the weights."""
    encoders: ClassVar[Mapping[str, Part]] = {}
    """Where several encoders are joined: the modalities, and what must lie beside each encoder's weights."""
    class_name: ClassVar[str | None] = None
    """What people call the classes that can be weighed: label or tag; None where there are none."""
    augments: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The changes of training rows that make sense, by modality: fields of spec.dataset.augment."""
    reworded_roles: ClassVar[tuple[str, ...]] = ()
    """Roles whose words may be changed."""
    goal: Goal
    usage: ClassVar[str]
    """Python lines that load and use the saved model in the folder `model`."""
    whole_batch: ClassVar[bool] = False
    """The loss compares all rows of an optimizer step: see `embed` and `contrast`."""
    evaluation_rows: ClassVar[int] = 64
    """Rows that an evaluation computes at once."""
    cpu_rows: ClassVar[int] = 8
    """Rows of a micro-batch on a CPU: few enough that rows of like length meet, enough for the matrix products. A step
    of 32 short texts with a small encoder on two threads took 0.90 s in one batch, 0.68 in 16s, 0.77 in 8s, 1.10 in 4s.
    """

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        self.source = source
        self.labels = list(labels)
        self.numbers = {label: number for number, label in enumerate(labels)}
        self.config = config
        self.training = config.training
        self.augment = config.dataset.augment
        self.rewording = Rewording(self.augment.text) if self.augment and self.augment.text else None
        self.class_weights: Mapping[str, float] = {}
        """How much each class counts in the loss of training; empty where all count alike."""

    @property
    def pads(self) -> bool:
        """Whether the model's result for a row is the same beside longer rows."""
        return True

    @classmethod
    def check(cls, rows: Rows, config: RunConfig) -> list[str]:  # noqa: ARG003
        """The labels in their order, none for most tasks. Raises DataError if the rows cannot be learned from."""
        return []

    @classmethod
    def classes(cls, row: Row) -> Sequence[str]:  # noqa: ARG003
        """The classes that a row is an example of, as often as it is one."""
        return ()

    @classmethod
    def load(cls, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> TaskKind:
        """The task with its tokenizer or processor, from a model's folder."""
        return cls(source, labels, config)

    @classmethod
    def saved(cls, folder: Path, labels: Sequence[str], config: RunConfig) -> TaskKind:
        """The task of a model that a run saved in `folder`."""
        return cls.load(read_folder(folder, str(folder), Needs(cls.auto_classes, cls.parts)), labels, config)

    @abstractmethod
    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        """The pre-trained model with this task's head in 32 bits, and the names of its new parameters."""

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        """Rows as examples, and how many of them were cut to the longest length. Rows to predict lack the target."""

    @abstractmethod
    def size(self, example: Example) -> int:
        """What an example costs beside others: tokens, audio samples; 1 where all cost the same."""

    def pieces(self, example: Example) -> int:  # noqa: ARG002
        """How many inputs of the model an example is."""
        return 1

    def prepare(self, model: nn.Module, examples: Examples, world: World) -> Examples:  # noqa: ARG002
        """A last look at the model before training begins; returns the examples to train and evaluate on."""
        return examples

    def reworded(self, row: Row, example: Example, seed: int) -> Example:
        """The example of a row with other words; of one that cannot be learned from like this, the example as it is."""
        if self.rewording is None:
            return example
        try:
            return {**example, **self.encode_words(self.rewording.row(row, self.reworded_roles, seed))}
        except DataError:
            return example

    def encode_words(self, row: Row) -> Example:
        """What of a row's example follows from its words."""
        (example,), _ = self.encode([row])
        return example

    def augmented(self, example: Example, seed: int) -> Example:
        """The example with the seed that its images and clips are changed by when they are put together."""
        return {**example, CHANGED: seed}

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Batch:
        """Examples as one batch, padded to the longest of them."""

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The loss summed over the batch, in 32 bits; to be divided by the counts of all batches."""
        raise NotImplementedError

    @property
    def token_loss(self) -> TokenLoss | None:
        """How the loss counts the tokens that the model should say, at `places` of its rows; None if it says none."""
        return None

    def embed(self, outputs: Any) -> tuple[torch.Tensor, ...]:
        """With `whole_batch`: what of each row is compared with all others, tensors of shape (rows, …)."""
        raise NotImplementedError

    def contrast(self, model: nn.Module, *embeddings: torch.Tensor) -> torch.Tensor:
        """With `whole_batch`: the loss summed over all rows of an optimizer step."""
        raise NotImplementedError

    def shared_parameters(self, model: nn.Module) -> list[nn.Parameter]:  # noqa: ARG002
        """With `whole_batch`: parameters that `contrast` itself reads."""
        return []

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[Any]:
        """What the metrics need of each row, on the host."""

    def scores(self, rows: Sequence[Row], predictions: Sequence[Any]) -> tuple[numpy.ndarray, numpy.ndarray] | None:  # noqa: ARG002
        """Of a task with one label a row: the number of each row's, and what each label gets, (rows, labels)."""
        return None

    @abstractmethod
    def judge(self, rows: Sequence[Row], predictions: Sequence[Any], baseline: Sequence[Row] | None) -> Report:
        """Metrics of `predictions` over `rows`; beside them those of a guess from `baseline`, the training rows."""

    def measure_part(
        self, rows: Sequence[Row], predictions: Sequence[Any], places: Sequence[int]
    ) -> Mapping[str, float]:
        """Metrics of the rows at `places` alone, which are compared with those at others."""
        own = [rows[place] for place in places]
        return self.judge(own, [predictions[place] for place in places], None).metrics

    @property
    def compared(self) -> str:
        """The metric of `measure_part` that parts of the rows are compared by."""
        return self.goal.metric

    def group(self, row: Row) -> Any:  # noqa: ARG002
        """What its answer makes a row alike to: its label, or labels as a tuple, or a number; None for most tasks."""
        return None

    def analyse(self, rows: Sequence[Row], predictions: Sequence[Any]) -> dict[str, Any]:  # noqa: ARG002
        """What went wrong in the test rows, by the names that docs/evaluation.md has for it."""
        return {}

    @abstractmethod
    def present(self, prediction: Any) -> dict[str, Any]:
        """A prediction as people read it, in JSON values."""

    def answer(self, model: nn.Module, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """What `finetune predict` says of each example; the model is in evaluation mode."""
        batch = self.collate(examples).to(next(model.parameters()).device)
        return [self.present(prediction) for prediction in self.predict(model, batch, model(**batch.inputs))]

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Put what belongs to the model beside it: tokenizer or processor."""
