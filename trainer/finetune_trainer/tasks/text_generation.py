"""text-generation: texts to go on with, prompts with their completions, or conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import DataError
from finetune_trainer.tasks import chat, writing
from finetune_trainer.tasks.base import Batch, Better, Example, Examples, Goal, Report, Rows
from finetune_trainer.tasks.causal import CausalLanguageModel
from finetune_trainer.tasks.chat import Tokens

if TYPE_CHECKING:
    import torch
    from torch import nn

    from finetune_trainer.training.world import World


class TextGeneration(CausalLanguageModel):
    """The loss is cross-entropy counted in the tokens to learn: all of a text, a completion, or the assistant's."""

    roles = Roles(
        {"text": columns.text, "prompt": columns.text, "completion": columns.text, "messages": columns.messages},
        needed=(("text",), ("prompt", "completion"), ("messages",)),
        targets=("completion",),
    )
    inputs = ("text", "prompt", "messages")
    goal = Goal("loss", Better.LOWER)
    usage = """\
from transformers import pipeline

write = pipeline("text-generation", "model")
write("A text to go on with", do_sample=False)"""

    @classmethod
    def check(cls, rows: Rows, config: RunConfig) -> list[str]:  # noqa: ARG003
        for row in (row for some in rows.values() for row in some):
            if not chat.has_answer(row.values):
                message = f"{row.place}: no message is the assistant's, so there is nothing to learn"
                raise DataError("NothingToLearn", message, 'add one with the role "assistant", or remove the row')
        return []

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        if any("messages" in row.values for row in rows):
            chat.check_template(self.tokenizer)
        found = [chat.encode(self.tokenizer, row) for row in rows]
        examples = [self._example(row, tokens) for row, tokens in zip(rows, found, strict=True)]
        return examples, sum(len(tokens.ids) > self.limit for tokens in found)

    def _example(self, row: Row, tokens: Tokens) -> Example:
        import numpy

        if len(tokens.ids) > self.limit:
            self.refuse(row)
        kept = tokens.cut(self.limit)
        if chat.has_answer(row.values) and not kept.learned:
            raise writing.nothing_to_learn(row, self.limit)
        ids, learned = (numpy.asarray(numbers, dtype="int32") for numbers in (kept.ids, kept.learned))
        return {"input_ids": ids, "learned": learned, "row": row}

    def size(self, example: Example) -> int:
        return len(example["input_ids"])

    def prepare(self, model: nn.Module, examples: Examples, world: World) -> Examples:  # noqa: ARG002
        known = examples[Side.TRAIN]
        self.set_lengths(model, max(len(example["learned"]) for example in known), self._turn_ends(known))
        return examples

    def _turn_ends(self, examples: Sequence[Example]) -> list[int]:
        """Special tokens that the assistant ends its turns with."""
        known = self.tokenizer.added_tokens_decoder.items()
        special, ends = {number for number, token in known if token.special}, set()
        for example in examples:
            if "messages" in example["row"].values:
                said = [token for token in example["input_ids"][example["learned"]].tolist() if token in special]
                ends |= set(said[-1:])
        return sorted(ends)

    def collate(self, examples: Sequence[Example]) -> Batch:
        ids, learned = zip(*((example["input_ids"], example["learned"]) for example in examples), strict=True)
        inputs, counts = self.pad(ids), [len(places) for places in learned]
        said = [tokens[places] for tokens, places in zip(ids, learned, strict=True)]
        targets = writing.aims(said, [places - 1 for places in learned], inputs["input_ids"].shape[1])
        return Batch(inputs, targets, sum(counts), sum(map(len, ids)), counts)

    @property
    def token_loss(self) -> writing.TokenLoss:
        return writing.TokenLoss(self.training.label_smoothing)

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        return writing.loss(outputs, batch, self.training.label_smoothing)

    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[Any]:  # noqa: ARG002
        """How surely the model says what it should."""
        return writing.scores(outputs, batch, batch.notes)

    def present(self, prediction: Any) -> dict[str, Any]:
        said: dict[str, Any] = prediction.plain()
        return said

    def answer(self, model: nn.Module, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """What the model writes, and for rows that say what it should have written, how surely it would."""
        written = self.continued(model, examples)
        if not any(len(example["learned"]) for example in examples):
            return written
        scores = super().answer(model, examples)
        return [text | (score if score["tokens"] else {}) for text, score in zip(written, scores, strict=True)]

    def judge(self, rows: Sequence[Row], predictions: Sequence[Any], baseline: Sequence[Row] | None) -> Report:  # noqa: ARG002
        return writing.report(rows, predictions, self.tokenizer)

    @property
    def compared(self) -> str:
        return "perplexity"
