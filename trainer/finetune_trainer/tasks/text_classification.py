"""text-classification: one label for a text, or for a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from finetune_api.job import Training
from finetune_trainer.data.rows import Row
from finetune_trainer.data.sources import Roles
from finetune_trainer.data.split import Side
from finetune_trainer.errors import ConfigError, DataError, nearest
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.tasks.base import Batch, Example, Report, Rows

if TYPE_CHECKING:
    import numpy
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class TextClassification:
    """Encoders with a classification head; the loss is cross-entropy, counted in rows."""

    roles: ClassVar[Roles] = Roles(required=("text", "label"), optional=("textPair",))
    inputs: ClassVar[tuple[str, ...]] = ("text", "textPair")
    target: ClassVar[str] = "label"
    model_types: ClassVar[frozenset[str]] = frozenset({"bert", "distilbert", "roberta"})

    def __init__(
        self,
        source: ModelFolder,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        training: Training,
    ) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self.labels = list(labels)
        self.training = training
        self._number = {label: number for number, label in enumerate(labels)}

    @classmethod
    def check(cls, rows: Rows) -> list[str]:
        """The labels, sorted as numbers where all are."""
        labels = {row.values[cls.target] for row in rows[Side.TRAIN]}
        for row in rows[Side.TRAIN]:
            if row.values[cls.target].strip().lower() == "nan":
                raise DataError("EmptyValue", f"{row.place}: the label is NaN", "fill the cell or remove the row")
        if len(labels) < 2:
            message = f"all {len(rows[Side.TRAIN])} training rows have the label {min(labels)!r}"
            raise DataError("OneLabel", message, "give rows of at least two labels; see spec.dataset.columns.label")
        for side in (Side.VALIDATION, Side.TEST):
            for row in rows.get(side, ()):
                if row.values[cls.target] not in labels:
                    message = f"{row.place}: no training row has the label {row.values[cls.target]!r}"
                    raise DataError("UnknownLabel", message, nearest(row.values[cls.target], labels, "labels"))
        return _sorted(labels)

    @classmethod
    def load(cls, source: ModelFolder, labels: Sequence[str], training: Training) -> Self:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source.path))
        except (OSError, ValueError) as error:
            message = f"spec.model.uri: its tokenizer does not load: {error}"
            raise ConfigError("TokenizerUnreadable", message, "give a folder with tokenizer.json") from error
        return cls(source, tokenizer, labels, training)

    def load_model(self, trust_remote_code: bool) -> tuple[PreTrainedModel, list[str]]:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModelForSequenceClassification

        config = AutoConfig.from_pretrained(
            str(self.source.path),
            num_labels=len(self.labels),
            id2label=dict(enumerate(self.labels)),
            label2id=self._number,
            problem_type="single_label_classification",
            trust_remote_code=trust_remote_code,
        )
        _set_dropout(config, self.training.dropout)
        try:
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                str(self.source.path),
                config=config,
                dtype=torch.float32,
                attn_implementation="sdpa",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=trust_remote_code,
            )
        except (OSError, SafetensorError) as error:
            message = f"spec.model.uri: its weights do not load: {error}"
            raise ConfigError("ModelUnreadable", message, "give a whole model.safetensors") from error
        new = {*loading["missing_keys"], *(str(key[0]) for key in loading["mismatched_keys"])}
        return model, sorted(new)

    @property
    def max_length(self) -> int:
        """Most tokens that the model takes, or that the manifest allows."""
        limits = (self.training.max_length, self.source.positions, self.tokenizer.model_max_length)
        return min(limit for limit in limits if limit is not None)

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        texts = [row.values["text"] for row in rows]
        pairs = [row.values["textPair"] for row in rows] if "textPair" in rows[0].values else None
        encoded = self.tokenizer(texts, pairs, truncation=True, max_length=self.max_length)
        cut = sum(1 for encoding in encoded.encodings or () if encoding.overflowing)
        names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
        targets = [self._number[row.values[self.target]] for row in rows]
        values = zip(*(encoded[name] for name in names), strict=True)
        return [
            dict(zip(names, value, strict=True)) | {"label": target}
            for value, target in zip(values, targets, strict=True)
        ], cut

    def size(self, example: Example) -> int:
        return len(example["input_ids"])

    def collate(self, examples: Sequence[Example]) -> Batch:
        import torch

        inputs = [{name: value for name, value in example.items() if name != "label"} for example in examples]
        padded = self.tokenizer.pad(inputs, return_tensors="pt")
        targets = torch.tensor([example["label"] for example in examples])
        return Batch(dict(padded), targets, len(examples), sum(self.size(example) for example in examples))

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        return functional.cross_entropy(
            outputs.logits.float(), targets, reduction="sum", label_smoothing=self.training.label_smoothing
        )

    def predict(self, outputs: Any) -> torch.Tensor:
        probabilities: torch.Tensor = outputs.logits.float().softmax(-1)
        return probabilities

    def judge(self, rows: Sequence[Row], predictions: Any, baseline: Sequence[Row] | None) -> Report:
        import numpy
        from sklearn import metrics  # type: ignore[import-untyped]

        truth = numpy.array([self._number[row.values[self.target]] for row in rows])
        guess = predictions.argmax(-1)
        numbers = list(range(len(self.labels)))
        table = metrics.classification_report(
            truth, guess, labels=numbers, target_names=self.labels, output_dict=True, zero_division=0.0
        )
        values = {
            "accuracy": float(metrics.accuracy_score(truth, guess)),
            "precision_macro": table["macro avg"]["precision"],
            "recall_macro": table["macro avg"]["recall"],
            "f1_macro": table["macro avg"]["f1-score"],
        } | _area_under_curve(truth, predictions)
        if baseline is not None:
            values["baseline_accuracy"] = self._baseline(truth, baseline)
        details = {
            "labels": self.labels,
            "perClass": {label: _plain(table[label]) for label in self.labels},
            "confusion": metrics.confusion_matrix(truth, guess, labels=numbers).tolist(),
        }
        return Report(values, details, self._errors(rows, truth, guess, predictions))

    def _baseline(self, truth: numpy.ndarray, rows: Sequence[Row]) -> float:
        """Accuracy of always saying the label that most of `rows` have."""
        counts = Counter(self._number[row.values[self.target]] for row in rows)
        return float((truth == counts.most_common(1)[0][0]).mean())

    def _errors(
        self, rows: Sequence[Row], truth: numpy.ndarray, guess: numpy.ndarray, predictions: numpy.ndarray
    ) -> list[dict[str, Any]]:
        """The rows that went wrong, the surest first."""
        wrong = sorted((guess != truth).nonzero()[0], key=lambda index: -predictions[index].max())
        return [
            {
                **rows[index].values,
                "prediction": self.labels[guess[index]],
                "score": round(float(predictions[index].max()), 4),
                "source": rows[index].source,
                "row": rows[index].number,
            }
            for index in wrong
        ]

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(str(folder))


def _sorted(labels: set[str]) -> list[str]:
    numeric = all(label.removeprefix("-").isdecimal() for label in labels)
    return sorted(labels, key=int) if numeric else sorted(labels)


def _set_dropout(config: PreTrainedConfig, dropout: float | None) -> None:
    """Replace every dropout probability that the architecture has a field for."""
    if dropout is None:
        return
    for name in config.to_dict():
        if name == "dropout" or name.endswith("_dropout") or name.endswith("_dropout_prob"):
            setattr(config, name, dropout)


def _plain(scores: dict[str, float]) -> dict[str, float | int]:
    return {
        "precision": round(scores["precision"], 4),
        "recall": round(scores["recall"], 4),
        "f1": round(scores["f1-score"], 4),
        "rows": int(scores["support"]),
    }


def _area_under_curve(truth: numpy.ndarray, probabilities: numpy.ndarray) -> dict[str, float]:
    """One-against-rest mean; nothing where a label has no row, since the curve is not defined there."""
    from sklearn import metrics

    classes = probabilities.shape[1]
    if len(set(truth.tolist())) < classes:
        return {}
    if classes == 2:
        return {"roc_auc": float(metrics.roc_auc_score(truth, probabilities[:, 1]))}
    return {"roc_auc": float(metrics.roc_auc_score(truth, probabilities, multi_class="ovr"))}
