"""preference-optimization: of two answers the better one becomes likelier (DPO, Rafailov et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Roles
from finetune_trainer.data.examples import Changed
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import DataError
from finetune_trainer.tasks import chat, writing
from finetune_trainer.tasks.base import MOST_ERRORS, Batch, Example, Examples, Goal, Report, Rows, wrong_row
from finetune_trainer.tasks.causal import CausalLanguageModel

if TYPE_CHECKING:
    import torch
    from torch import nn

    from finetune_trainer.training.world import World

ANSWERS = ("chosen", "rejected")


@dataclass(frozen=True)
class Rewards:
    """Summed log-likelihood in nats of both answers, and by how much, times beta, it is above the reference's."""

    chosen_logp: float
    rejected_logp: float
    chosen_reward: float
    rejected_reward: float

    @property
    def margin(self) -> float:
        return self.chosen_reward - self.rejected_reward

    def plain(self) -> dict[str, Any]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


class PreferenceOptimization(CausalLanguageModel):
    """The loss is -log sigmoid(beta * margin), counted in pairs; the reference is the model before training."""

    roles = Roles(
        {"prompt": columns.text, "chosen": columns.text, "rejected": columns.text},
        needed=(("prompt", "chosen", "rejected"),),
        targets=ANSWERS,
    )
    inputs = ("prompt",)
    goal = Goal("reward_accuracy")
    usage = """\
from transformers import pipeline

write = pipeline("text-generation", "model")
write("A prompt", do_sample=False)"""

    @classmethod
    def check(cls, rows: Rows, config: RunConfig) -> list[str]:  # noqa: ARG003
        for row in (row for some in rows.values() for row in some):
            if row.values["chosen"] == row.values["rejected"]:
                message = f"{row.place}: chosen and rejected are the same text"
                raise DataError("NoPreference", message, "change one of them, or remove the row")
        return []

    def encode(self, rows: Sequence[Row]) -> tuple[list[Example], int]:
        if not all(answer in rows[0].values for answer in ANSWERS):
            return [{"row": row} for row in rows], 0
        found = [self._pair(row) for row in rows]
        return [example for example, _ in found], sum(cut for _, cut in found)

    def _pair(self, row: Row) -> tuple[Example, bool]:
        """Both answers after the same part of the prompt, its end, and whether anything was cut.

        What is too long loses the prompt's beginning, down to half of what the model takes, then the answers' ends.
        """
        import numpy

        pair = [chat.completed(self.tokenizer, row.values["prompt"], row.values[answer]) for answer in ANSWERS]
        start, longest = pair[0].learned[0], max(len(tokens.ids) for tokens in pair)
        if longest > self.limit:
            self.refuse(row)
        dropped = max(0, start - max(self.limit - (longest - start), self.limit // 2))
        kept = [numpy.asarray(tokens.ids[dropped:][: self.limit], dtype="int32") for tokens in pair]
        return {"row": row, "start": start - dropped, **dict(zip(ANSWERS, kept, strict=True))}, longest > self.limit

    def size(self, example: Example) -> int:
        return sum(len(example[answer]) for answer in ANSWERS if answer in example)

    def prepare(self, model: nn.Module, examples: Examples, world: World) -> Examples:
        """With what the model says of each pair before it has learned anything."""
        longest = max(len(example[answer]) - example["start"] for example in examples[Side.TRAIN] for answer in ANSWERS)
        self.set_lengths(model, longest)
        return {side: self._with_reference(model, some, world) for side, some in examples.items()}

    def _with_reference(self, model: nn.Module, examples: Sequence[Example], world: World) -> Sequence[Example]:
        from finetune_trainer.training.evaluate import evaluation_batches
        from finetune_trainer.training.sharded import dealt

        own: dict[int, tuple[float, ...]] = {}
        for indices, is_own in dealt(evaluation_batches(self, examples), model, world):
            if indices is not None:
                found = self._log_likelihoods(model, [examples[index] for index in indices])
                own |= zip(indices, found, strict=True) if is_own else ()
        known = {index: values for part in world.all_gather(own) for index, values in part.items()}
        return Changed(examples, lambda index, example: {**example, "reference": known[index]})

    def _log_likelihoods(self, model: nn.Module, examples: Sequence[Example]) -> list[tuple[float, ...]]:
        """Of both answers of each example."""
        import torch

        from finetune_trainer.training.aiming import outputs_of

        with torch.no_grad():
            batch = self.collate(examples).to(next(model.parameters()).device)
            both = _log_likelihoods(outputs_of(model, batch), batch).cpu().chunk(2)
        return list(zip(*(half.tolist() for half in both), strict=True))

    def collate(self, examples: Sequence[Example]) -> Batch:
        """First all chosen answers, then all rejected ones."""
        import torch

        sequences = [example[answer] for answer in ANSWERS for example in examples]
        starts = [example["start"] for _ in ANSWERS for example in examples]
        said = [ids[start:] for ids, start in zip(sequences, starts, strict=True)]
        inputs = self.pad(sequences)
        before = [range(start - 1, len(ids) - 1) for ids, start in zip(sequences, starts, strict=True)]
        targets = writing.aims(said, before, inputs["input_ids"].shape[1])
        if "reference" in examples[0]:
            known = [example["reference"][place] for place in range(len(ANSWERS)) for example in examples]
            targets["reference"] = torch.tensor(known)
        return Batch(inputs, targets, len(examples), sum(map(len, sequences)), [len(ids) for ids in said])

    @property
    def token_loss(self) -> writing.TokenLoss:
        return writing.TokenLoss(summed=False)

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        from torch.nn import functional

        chosen, rejected = self._rewards(_log_likelihoods(outputs, batch), batch).chunk(2)
        return -functional.logsigmoid(chosen - rejected).sum()

    def _rewards(self, log_likelihoods: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.training.beta * (log_likelihoods - batch.targets["reference"])

    def predict(self, model: nn.Module, batch: Batch, outputs: Any) -> list[Any]:  # noqa: ARG002
        found = _log_likelihoods(outputs, batch)
        halves = [*found.cpu().chunk(2), *self._rewards(found, batch).cpu().chunk(2)]
        return [Rewards(*values) for values in zip(*(half.tolist() for half in halves), strict=True)]

    def present(self, prediction: Any) -> dict[str, Any]:
        said: dict[str, Any] = prediction.plain()
        return said

    def answer(self, model: nn.Module, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """What the model writes, and how likely it holds the answers of rows that have them."""
        written = self.continued(model, examples)
        if "chosen" not in examples[0]:
            return written
        known = self._log_likelihoods(model, examples)
        names = [f"{answer}_logp" for answer in ANSWERS]
        return [
            text | {name: round(value, 4) for name, value in zip(names, values, strict=True)}
            for text, values in zip(written, known, strict=True)
        ]

    def judge(self, rows: Sequence[Row], predictions: Sequence[Any], baseline: Sequence[Row] | None) -> Report:
        values = {
            "reward_accuracy": fmean(found.margin > 0 for found in predictions),
            "reward_margin": fmean(found.margin for found in predictions),
        }
        if baseline is not None:
            values["baseline_reward_accuracy"] = fmean(map(_longer, rows))
        wrong = [place for place, found in enumerate(predictions) if found.margin <= 0]
        wrong.sort(key=lambda place: float(predictions[place].margin))
        return Report(values, {}, [_error(rows[place], predictions[place]) for place in wrong[:MOST_ERRORS]])


def _log_likelihoods(outputs: Any, batch: Batch) -> torch.Tensor:
    """Of each answer, (2 * pairs,): the chosen, then the rejected."""
    import torch

    nll = torch.split(writing.surprises(outputs, batch), batch.notes)
    return -torch.stack([part.sum() for part in nll])


def _error(row: Row, found: Rewards) -> dict[str, Any]:
    """The prediction is the answer that the model prefers: here the one that was rejected."""
    return wrong_row(row, prediction=row.values["rejected"], margin=round(found.margin, 4), **found.plain())


def _longer(row: Row) -> float:
    """How well it goes to prefer the longer answer."""
    chosen, rejected = (len(row.values[answer]) for answer in ANSWERS)
    return 0.5 if chosen == rejected else float(chosen > rejected)
