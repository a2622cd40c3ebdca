"""question-answering: the span of a context that answers a question, or that there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.analysis.spans import spans
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Answer, Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.metrics import reading
from finetune_trainer.model_folder import ModelFolder, Part
from finetune_trainer.tasks import pretrained, texts
from finetune_trainer.tasks.base import MOST_ERRORS, Batch, Example, Goal, Report, Rows, TaskKind, wrong_row

if TYPE_CHECKING:
    import numpy
    import torch
    from torch import nn
    from transformers import PreTrainedModel

UNANSWERABLE = ["answerable", "unanswerable"]
"""Kinds of questions, where there are both: the task's labels."""
STRIDE = 128
"""Most tokens that two windows of a context share."""
SHORTEST = 32
"""Tokens that a window must hold at least: a question, and enough of a context that windows can overlap."""
LONGEST_ANSWER = 30
"""Most tokens of an answer that is given."""
COUNTING = "count the characters of answer_start from 0, in the context as it is in the file"


@dataclass(frozen=True)
class Found:
    """What is said of a question: the answer, empty if there is none; the character of the context that it starts at;
    and how probable the model holds it in the window where it was found.
    """

    text: str
    start: int | None
    score: float


class QuestionAnswering(TaskKind):
    """The loss is the cross-entropy of start and of end, counted as two for each window.

    A context that is too long for the model is read in windows that overlap. Those without the answer point to the
    first token. Only where training had questions without an answer may an answer be empty.
    """

    roles = Roles(
        {"question": columns.text, "context": columns.text, "answers": columns.answers},
        needed=(("question", "context", "answers"),),
        targets=("answers",),
    )
    inputs = ("question", "context")
    auto_classes = ("AutoModelForQuestionAnswering",)
    parts = (Part.TOKENIZER,)
    goal = Goal("f1")
    usage = """\
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("model")
model = AutoModelForQuestionAnswering.from_pretrained("model").eval()
inputs = tokenizer("Who wrote it?", "Ann wrote it in May.", truncation="only_second", return_tensors="pt")
outputs = model(**inputs)
start, end = outputs.start_logits.argmax(), outputs.end_logits.argmax()
tokenizer.decode(inputs["input_ids"][0, start : end + 1])"""

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        self.tokenizer = pretrained.load_tokenizer(source)
        texts.check_offsets(self.tokenizer)
        self.limit = texts.longest(source, self.tokenizer, config)
        if self.limit < SHORTEST:
            message = f"spec.training.maxLength: {self.limit} tokens are too few for a question and its context"
            raise ConfigError("TooShort", message, f"use {SHORTEST} or more")

    @classmethod
    def check(cls, rows: Rows, config: RunConfig) -> list[str]:  # noqa: ARG003
        """The kinds of questions, if training has both."""
        for row in chain.from_iterable(rows.values()):
            for answer in _answers(row):
                _check_answer(answer, row)
        answered = {bool(_answers(row)) for row in rows[Side.TRAIN]}
        if answered == {False}:
            message = f"none of {len(rows[Side.TRAIN])} training rows has an answer"
            raise DataError("NoAnswers", message, f"write {columns.ANSWERS}; see spec.dataset.columns.answers")
        return UNANSWERABLE if len(answered) == 2 else []

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        from transformers import AutoModelForQuestionAnswering

        # The head has a number for the start and one for the end, whatever labels the model had before.
        config = pretrained.load_config(self.source, self.config, num_labels=2)
        return pretrained.load_weights(AutoModelForQuestionAnswering, self.source, self.config, config)

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        """Cut is a question that leaves too little room for its context, and an answer that no window holds whole."""
        questions = self._questions(rows)
        examples: list[Example] = []
        cut = 0
        for row, question, windows in zip(rows, questions, self._windows(rows, questions), strict=True):
            answer = next(iter(_answers(row)), None) if "answers" in row.values else None
            targets = [_target(window, answer) for window in windows]
            if question != row.values["question"] or (answer is not None and not any(map(any, targets))):
                cut += 1
                if not self.training.truncation:
                    raise texts.too_long(row, self.limit)
            examples.append({"windows": windows, "targets": targets, "context": row.values["context"]})
        return examples, cut

    def _questions(self, rows: Sequence[Row]) -> list[str]:
        """The questions, cut to half of what the model reads."""
        questions = [row.values["question"] for row in rows]
        encodings = self.tokenizer(questions, add_special_tokens=False, verbose=False).encodings or ()
        most = self.limit // 2
        return [
            question if len(encoding) <= most else question[: encoding.offsets[most - 1][1]]
            for question, encoding in zip(questions, encodings, strict=True)
        ]

    def _windows(self, rows: Sequence[Row], questions: Sequence[str]) -> list[list[Example]]:
        """What the model reads for each row: tokens, where the context begins among them, and its tokens' spans."""
        import numpy

        encoded = self.tokenizer(
            questions,
            [row.values["context"] for row in rows],
            truncation="only_second",
            max_length=self.limit,
            stride=min(STRIDE, self.limit // 4),
            return_overflowing_tokens=True,
        )
        windows: list[list[Example]] = [[] for _ in rows]
        inputs = texts.examples_of(encoded)
        for item, encoding, row in zip(
            inputs, encoded.encodings or (), encoded["overflow_to_sample_mapping"], strict=True
        ):
            inside = numpy.array([part == 1 for part in encoding.sequence_ids])
            spans = numpy.array(encoding.offsets, dtype=numpy.int32)[inside]
            windows[row].append({**item, "first": int(inside.argmax()), "spans": spans})
        return windows

    def size(self, example: Example) -> int:
        return sum(len(window["input_ids"]) for window in example["windows"])

    def pieces(self, example: Example) -> int:
        return len(example["windows"])

    def collate(self, examples: Sequence[Example]) -> Batch:
        import torch

        windows = [window for example in examples for window in example["windows"]]
        targets = torch.tensor([target for example in examples for target in example["targets"]])
        inputs = texts.pad(self.tokenizer, windows)
        tokens = sum(self.size(example) for example in examples)
        return Batch(inputs, {"spans": targets}, 2 * len(windows), tokens, examples)

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        from torch.nn import functional

        starts, ends = _log_probabilities(outputs, batch)
        return functional.nll_loss(starts, batch.targets["spans"][:, 0], reduction="sum") + functional.nll_loss(
            ends, batch.targets["spans"][:, 1], reduction="sum"
        )

    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[Found]:  # noqa: ARG002
        starts, ends = (values.cpu().numpy() for values in _log_probabilities(outputs, batch))
        pairs = iter(zip(starts, ends, strict=True))
        return [self._found(example, [next(pairs) for _ in example["windows"]]) for example in batch.notes]

    def _found(self, example: Example, pairs: Sequence[tuple[numpy.ndarray, numpy.ndarray]]) -> Found:
        """The most probable span of all windows."""
        windows = zip(example["windows"], pairs, strict=True)
        found = [self._found_in(window, *pair, example["context"]) for window, pair in windows]
        return max(found, key=lambda item: item[0])[1]

    def _found_in(
        self, window: Example, starts: numpy.ndarray, ends: numpy.ndarray, context: str
    ) -> tuple[float, Found]:
        """How probable (as a logarithm) the best span of a window is, and what the window says then."""
        first, spans = window["first"], window["spans"]
        if not len(spans):
            return float("-inf"), Found("", None, 0.0)
        inside = slice(first, first + len(spans))
        start, end, value = best_span(starts[inside], ends[inside])
        nothing = float(starts[0] + ends[0])
        if self.labels and nothing > value:
            return value, Found("", None, exp(nothing))
        begin, text = int(spans[start, 0]), context[spans[start, 0] : spans[end, 1]]
        return value, Found(text.strip(), begin + len(text) - len(text.lstrip()), exp(value))

    def judge(self, rows: Sequence[Row], predictions: Sequence[Found], baseline: Sequence[Row] | None) -> Report:
        references = [_texts(row) for row in rows]
        values = reading.answers([found.text for found in predictions], references)
        if baseline is not None:
            usual = Counter(next(iter(_texts(row)), reading.NO_ANSWER) for row in baseline).most_common(1)[0][0]
            values["baseline_f1"] = reading.answers([usual] * len(rows), references)["f1"]
        return Report(values, errors=self._errors(rows, predictions))

    def group(self, row: Row) -> Any:
        """Whether it has an answer, where some have none."""
        answerable, unanswerable = UNANSWERABLE
        return answerable if _answers(row) else unanswerable

    def analyse(self, rows: Sequence[Row], predictions: Sequence[Found]) -> dict[str, Any]:
        said = [None if found.start is None else (found.text, found.start) for found in predictions]
        return {"spans": spans(said, [[(known.text, known.start) for known in _answers(row)] for row in rows])}

    def _errors(self, rows: Sequence[Row], predictions: Sequence[Found]) -> list[dict[str, Any]]:
        """Answers that are not exactly right, those with the fewest right words first, then the surest."""
        scores = [reading.answers([found.text], [_texts(row)]) for row, found in zip(rows, predictions, strict=True)]
        wrong = [place for place, score in enumerate(scores) if not score["exact_match"]]
        wrong.sort(key=lambda place: (scores[place]["f1"], -predictions[place].score))
        return [self._error(rows[place], predictions[place], scores[place]["f1"]) for place in wrong[:MOST_ERRORS]]

    def _error(self, row: Row, found: Found, f1: float) -> dict[str, Any]:
        return wrong_row(row, prediction=found.text, f1=round(f1, 4), score=round(found.score, 4))

    def present(self, prediction: Found) -> dict[str, Any]:
        return {"answer": prediction.text, "start": prediction.start, "score": round(prediction.score, 4)}

    def save(self, folder: Path) -> None:
        pretrained.save_tokenizer(self.tokenizer, folder)


def best_span(starts: numpy.ndarray, ends: numpy.ndarray) -> tuple[int, int, float]:
    """First and last token of the best span that is not too long, and its value: that of its start and its end."""
    import numpy

    padded = numpy.pad(ends, (0, LONGEST_ANSWER - 1), constant_values=-numpy.inf)
    values = starts[:, None] + numpy.lib.stride_tricks.sliding_window_view(padded, LONGEST_ANSWER)
    start, further = divmod(int(values.argmax()), LONGEST_ANSWER)
    return start, start + further, float(values[start, further])


def _log_probabilities(outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """That the answer starts, and ends, at each token of a window, shape (windows, tokens); padding has none."""
    padding = batch.inputs["attention_mask"] == 0
    starts, ends = (
        logits.float().masked_fill(padding, float("-inf")).log_softmax(-1)
        for logits in (outputs.start_logits, outputs.end_logits)
    )
    return starts, ends


def _target(window: Example, answer: Answer | None) -> tuple[int, int]:
    """First and last token of the answer; twice the window's first token if the window does not hold it whole."""
    import numpy

    spans = window["spans"]
    if answer is None or not len(spans):
        return 0, 0
    text = answer.text.strip()
    begin = answer.start + answer.text.index(text)
    end = begin + len(text)
    if begin < spans[0, 0] or spans[-1, 1] < end:
        return 0, 0
    first = numpy.searchsorted(spans[:, 1], begin, side="right")
    last = numpy.searchsorted(spans[:, 0], end, side="left") - 1
    return int(window["first"] + first), int(window["first"] + last)


def _answers(row: Row) -> tuple[Answer, ...]:
    answers: tuple[Answer, ...] = row.values["answers"]
    return answers


def _texts(row: Row) -> list[str]:
    return [answer.text for answer in _answers(row)]


def _check_answer(answer: Answer, row: Row) -> None:
    context = row.values["context"]
    there = context[answer.start : answer.start + len(answer.text)]
    if not answer.text.strip():
        message = f"{row.place} has an answer without text"
        raise DataError("EmptyValue", message, "write empty lists where the context has no answer")
    if answer.start + len(answer.text) > len(context):
        message = (
            f"{row.place}: the answer {answer.text!r} at character {answer.start} goes beyond its context, which has"
            f" {len(context)} characters"
        )
        raise DataError("AnswerOutside", message, COUNTING)
    if there != answer.text:
        message = f"{row.place}: the answer is {answer.text!r}, but from character {answer.start} on is {there!r}"
        raise DataError("AnswerElsewhere", message, COUNTING)
