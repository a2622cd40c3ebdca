"""fill-mask: the tokens that are hidden in a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import exp
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.analysis.substitutions import substitutions
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.metrics import generation
from finetune_trainer.model_folder import ModelFolder, Part
from finetune_trainer.tasks import augments, pretrained, texts, writing
from finetune_trainer.tasks.base import MOST_ERRORS, Batch, Better, Example, Examples, Goal, Report, TaskKind, wrong_row

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from finetune_trainer.training.world import World

SHARE = 0.15
"""Of a text's tokens that are to be found. In BERT's way 8 of 10 are masked, one is another token, one stays."""
MASKED, REPLACED = 0.8, 0.9
BEST = 5
"""Fillings that are given for a mask."""
BASELINE_ROWS = 10_000


@dataclass(frozen=True)
class Hidden:
    """A token that was to be found at a place of its row, and the one that was read there instead."""

    place: int
    token: int
    read: int


@dataclass(frozen=True)
class Guess:
    """What was guessed for a hidden token, and how surprised the model was by the right one (nats)."""

    hidden: Hidden
    token: int
    surprise: float

    @property
    def right(self) -> bool:
        return self.token == self.hidden.token


class FillMask(TaskKind):
    """The loss is the cross-entropy of hidden tokens, counted in them. A row hides others in every epoch; evaluation
    always hides the same.
    """

    roles = Roles({"text": columns.text}, needed=(("text",),))
    inputs = ("text",)
    auto_classes = ("AutoModelForMaskedLM",)
    parts = (Part.TOKENIZER,)
    augments = {"text": augments.WORDS}
    reworded_roles = ("text",)
    goal = Goal("loss", Better.LOWER)
    usage = """\
from transformers import pipeline

fill = pipeline("fill-mask", "model")
fill(f"A {fill.tokenizer.mask_token} in a text.")"""

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        self.tokenizer = pretrained.load_tokenizer(source)
        if self.tokenizer.mask_token is None:
            message = "spec.model.uri: its tokenizer has no mask token"
            raise ConfigError("NoMaskToken", message, "use a model that learned to fill masks, such as BERT")
        self.limit = texts.longest(source, self.tokenizer, config)
        self.special = frozenset(self.tokenizer.all_special_ids)
        self.ordinary = [token for token in range(len(self.tokenizer)) if token not in self.special]

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        from transformers import AutoModelForMaskedLM

        config = pretrained.load_config(self.source, self.config)
        return pretrained.load_weights(AutoModelForMaskedLM, self.source, self.config, config)

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        encoded, cut = texts.encode(self.tokenizer, rows, self.limit, self.training.truncation)
        return [{**item, "place": row.place} for item, row in zip(encoded, rows, strict=True)], cut

    def prepare(self, model: nn.Module, examples: Examples, world: World) -> Examples:  # noqa: ARG002
        for example in chain.from_iterable(examples.values()):
            if self.special.issuperset(example["input_ids"]):
                message = f"{example['place']}: the model knows none of the text's words"
                raise DataError("NothingToMask", message, "remove the row, or use a model with another tokenizer")
        return examples

    def size(self, example: Example) -> int:
        return len(example["input_ids"])

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Examples that draw nothing, those to predict, are read as they are."""
        hidden = [self._hide(example) if "draw" in example else [] for example in examples]
        read = [_with_hidden(example, own) for example, own in zip(examples, hidden, strict=True)]
        inputs = texts.pad(self.tokenizer, read)
        tokens, places = (
            [[item.token for item in own] for own in hidden],
            [[item.place for item in own] for own in hidden],
        )
        targets = writing.aims(tokens, places, inputs["input_ids"].shape[1])
        return Batch(inputs, targets, sum(map(len, hidden)), sum(map(self.size, examples)), hidden)

    def _hide(self, example: Example) -> list[Hidden]:
        """The tokens of a text that the model has to find."""
        import torch

        draw = torch.Generator().manual_seed(example["draw"])
        tokens = example["input_ids"]
        known = [place for place, token in enumerate(tokens) if token not in self.special]
        count = min(len(known), max(1, round(SHARE * len(known))))
        places = torch.randperm(len(known), generator=draw)[:count].tolist()
        fates = torch.rand(count, generator=draw).tolist()
        others = torch.randint(len(self.ordinary), (count,), generator=draw).tolist()
        return [
            Hidden(known[place], tokens[known[place]], self._instead(tokens[known[place]], fate, self.ordinary[other]))
            for place, fate, other in zip(places, fates, others, strict=True)
        ]

    def _instead(self, token: int, fate: float, other: int) -> int:
        """What is read where a token is hidden."""
        if fate < MASKED:
            return int(self.tokenizer.mask_token_id)
        return other if fate < REPLACED else token

    @property
    def token_loss(self) -> writing.TokenLoss:
        return writing.TokenLoss()

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        return writing.loss(outputs, batch, label_smoothing=0.0)

    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[list[Guess]]:  # noqa: ARG002
        best, surprises = writing.likeliest(outputs, batch).tolist(), writing.surprises(outputs, batch).tolist()
        guesses = map(Guess, chain.from_iterable(batch.notes), best, surprises)
        return [list(islice(guesses, len(hidden))) for hidden in batch.notes]

    def judge(self, rows: Sequence[Row], predictions: Sequence[list[Guess]], baseline: Sequence[Row] | None) -> Report:
        guesses = list(chain.from_iterable(predictions))
        values = generation.perplexity([guess.surprise for guess in guesses], [1] * len(guesses))
        values["masked_accuracy"] = fmean(guess.right for guess in guesses)
        if baseline is not None:
            usual = self._usual(baseline)
            values["baseline_masked_accuracy"] = fmean(guess.hidden.token == usual for guess in guesses)
        return Report(values, errors=self._errors(rows, predictions))

    def _usual(self, rows: Sequence[Row]) -> int:
        """The most frequent token of the first rows."""
        examples, _ = self.encode(rows[:BASELINE_ROWS])
        counts = Counter(token for example in examples for token in example["input_ids"] if token not in self.special)
        usual: int = counts.most_common(1)[0][0]
        return usual

    def _errors(self, rows: Sequence[Row], predictions: Sequence[list[Guess]]) -> list[dict[str, Any]]:
        """Rows with a wrong guess, those with the greatest surprise first."""
        wrong = [place for place, guesses in enumerate(predictions) if not all(guess.right for guess in guesses)]
        wrong.sort(key=lambda place: -max(guess.surprise for guess in predictions[place]))
        return [self._error(rows[place], predictions[place]) for place in wrong[:MOST_ERRORS]]

    def _error(self, row: Row, guesses: list[Guess]) -> dict[str, Any]:
        """The prediction is what was guessed for each hidden token, in the order of `hidden`."""
        shown, worst = self.present(guesses), max(guess.surprise for guess in guesses)
        said = [guess["guess"] for guess in shown["hidden"]]
        return wrong_row(row, prediction=said, surprise=round(worst, 4), **shown)

    @property
    def compared(self) -> str:
        return "perplexity"

    def analyse(self, rows: Sequence[Row], predictions: Sequence[list[Guess]]) -> dict[str, Any]:  # noqa: ARG002
        """Which tokens are most often guessed for others."""
        guesses = chain.from_iterable(predictions)
        wrong = Counter((guess.hidden.token, guess.token) for guess in guesses if not guess.right)
        return substitutions({(self._name(known), self._name(said)): count for (known, said), count in wrong.items()})

    def _name(self, token: int) -> str:
        name: str = self.tokenizer.convert_ids_to_tokens([token])[0]
        return name

    def present(self, prediction: list[Guess]) -> dict[str, Any]:
        return {"hidden": [self._presented(guess) for guess in prediction]}

    def _presented(self, guess: Guess) -> dict[str, Any]:
        """`position` counts the text's tokens, special ones included, from 0; tokens have their vocabulary's names."""
        hidden = guess.hidden
        names = self.tokenizer.convert_ids_to_tokens([hidden.token, hidden.read, guess.token])
        said = dict(zip(("token", "read", "guess"), names, strict=True))
        return {"position": hidden.place, **said, "probability": round(exp(-guess.surprise), 4)}

    def answer(self, model: nn.Module, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """The best fillings of each mask of a text."""
        batch = self.collate(examples).to(next(model.parameters()).device)
        logits = model(**batch.inputs).logits
        return [self._fill(example, row) for example, row in zip(examples, logits, strict=True)]

    def _fill(self, example: Example, logits: torch.Tensor) -> dict[str, Any]:
        mask = self.tokenizer.mask_token
        places = [place for place, token in enumerate(example["input_ids"]) if token == self.tokenizer.mask_token_id]
        if not places:
            message = f"{example['place']}: there is no {mask} among the first {self.limit} tokens of the text"
            raise DataError("NoMask", message, f"write {mask} where something is to be filled in")
        best = logits[places].float().softmax(-1).topk(BEST)
        return {
            "masks": [self._fillings(*pair) for pair in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
        }

    def _fillings(self, scores: list[float], tokens: list[int]) -> list[dict[str, Any]]:
        return [
            {"token": self.tokenizer.decode([token]), "score": round(score, 4)}
            for token, score in zip(tokens, scores, strict=True)
        ]

    def save(self, folder: Path) -> None:
        pretrained.save_tokenizer(self.tokenizer, folder)


def _with_hidden(example: Example, hidden: Sequence[Hidden]) -> Example:
    """The example with its tokens as the model reads them."""
    tokens = list(example["input_ids"])
    for item in hidden:
        tokens[item.place] = item.read
    return {**example, "input_ids": tokens}
