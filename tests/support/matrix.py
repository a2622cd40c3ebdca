"""The table of tasks and architectures, as cases of one promise: it learns, loads, resumes, and adds up right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_trainer.data.rows import Row
from support import zoo
from support.corpora.files import write_json_lines
from support.runs import ARun, a_run

Corpus = Callable[[Path], list[dict[str, Any]]]
Says = Callable[[Path, Sequence[Row]], list[Any]]


@dataclass(frozen=True)
class Bar:
    """What the held-out metric has to pass, far above what a guess gets."""

    metric: str
    least: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True)
class Case:
    """One architecture at one task.

    `corpus` makes the rows, with media files in the folder that it is given; `texts` picks what the tokenizer is
    trained on. `ecosystem` asks the saved model in a folder about rows the way that DESIGN's table says, with nothing
    of ours; `said` reduces a line of predictions.jsonl to the same; `asked` a line of `finetune predict`, where that
    answers more than an evaluation asks, and `question` makes what it is asked of a row, where that is not the row
    itself. `model` names one of the zoo's kinds, or is a folder's maker.
    """

    id: str
    task: str
    model: str | Callable[[Path, Sequence[str]], Mapping[str, Any]]
    corpus: Corpus
    bar: Bar
    ecosystem: Says
    said: Callable[[Mapping[str, Any]], Any]
    asked: Callable[[Mapping[str, Any]], Any] | None = None
    question: Callable[[Path, Row], Mapping[str, Any]] | None = None
    texts: Callable[[Mapping[str, Any]], Sequence[str]] = lambda row: [str(value) for value in row.values()]
    dataset: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 2e-3
    """Of numbers in what is said."""
    float_error: float = 1e-5
    """What cutting a step may change in its gradient, as a share of the largest value."""

    def run(self, root: Path, **training: Any) -> ARun:
        """The case as a run below `root`, its data and its model included."""
        folder = root / "data"
        folder.mkdir(parents=True)
        rows = self.corpus(folder)
        data = write_json_lines(folder / "rows.jsonl", rows)
        model = self._model(root / "model", [text for row in rows for text in self.texts(row)])
        run = a_run(root, data.as_uri(), "", **dict(self.training) | training)
        run = ARun(root, {**run.config, "task": self.task, "model": model})
        return run.with_("dataset", **self.dataset)

    def _model(self, folder: Path, texts: Sequence[str]) -> Mapping[str, Any]:
        if callable(self.model):
            return self.model(folder, texts)
        return {"uri": zoo.save(self.model, folder, texts).as_uri()}
