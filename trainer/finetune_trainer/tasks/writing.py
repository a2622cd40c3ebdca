"""Writing: the tokens that a model is trained to say, how surely it says them, and what it says by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune_trainer.data.rows import Row
from finetune_trainer.errors import ConfigError, DataError
from finetune_trainer.metrics import generation
from finetune_trainer.tasks.base import MOST_ERRORS, Batch, Report, wrong_row

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenLoss:
    """How a task counts the tokens that its model should say: cross-entropy with this label smoothing, summed; or of
    each token, where the task weighs them.
    """

    smoothing: float = 0.0
    summed: bool = True


@dataclass(frozen=True)
class Score:
    """How a model takes what it should say: the summed negative log-likelihood in nats, of how many tokens, and how
    many of them were the likeliest; `likeliest` has those that were, each after the right ones before it.
    """

    nll: float
    tokens: int
    correct: int
    likeliest: Sequence[int] = field(default=(), compare=False, repr=False)

    def plain(self) -> dict[str, Any]:
        accuracy = round(self.correct / max(self.tokens, 1), 4)
        return {"nll": round(self.nll, 4), "tokens": self.tokens, "accuracy": accuracy}


def aims(said: Sequence[Sequence[int]], places: Sequence[Sequence[int]], width: int) -> dict[str, torch.Tensor]:
    """What the loss takes: `labels`, the tokens to say, one row after the other, and `places`, where their logits
    stand in those of the batch, (rows * width, vocabulary). `places` has the place in its own row of each token.
    """
    import numpy
    import torch

    flat = [numpy.asarray(own, dtype="int64") + row * width for row, own in enumerate(places)]
    labels = [numpy.asarray(tokens, dtype="int64") for tokens in said]
    return {name: torch.from_numpy(numpy.concatenate(rows)) for name, rows in (("labels", labels), ("places", flat))}


def logits_of(outputs: Any, batch: Batch) -> torch.Tensor:
    """The logits of the tokens to say, (tokens, vocabulary), in 32 bits; the others are never copied."""
    logits: torch.Tensor = outputs.logits.flatten(0, 1)[batch.targets["places"]].float()
    return logits


def loss(outputs: Any, batch: Batch, label_smoothing: float) -> torch.Tensor:
    """Cross-entropy summed over the tokens to say."""
    from torch.nn import functional

    from finetune_trainer.training.chunked_loss import Said

    if isinstance(outputs, Said):
        assert outputs.loss is not None
        return outputs.loss
    return functional.cross_entropy(
        logits_of(outputs, batch), batch.targets["labels"], reduction="sum", label_smoothing=label_smoothing
    )


def surprises(outputs: Any, batch: Batch) -> torch.Tensor:
    """Negative log-likelihood in nats of each token to say, (tokens,)."""
    from torch.nn import functional

    from finetune_trainer.training.chunked_loss import Said

    if isinstance(outputs, Said):
        assert outputs.nll is not None
        return outputs.nll
    return functional.cross_entropy(logits_of(outputs, batch), batch.targets["labels"], reduction="none")


def likeliest(outputs: Any, batch: Batch) -> torch.Tensor:
    """The token with the highest score in the place of each token to say, (tokens,)."""
    from finetune_trainer.training.chunked_loss import Said

    if isinstance(outputs, Said):
        assert outputs.likeliest is not None
        return outputs.likeliest
    return logits_of(outputs, batch).argmax(-1)


def scores(outputs: Any, batch: Batch, counts: Sequence[int]) -> list[Score]:
    """Each row's score; `counts` has the tokens that each has to say."""
    import torch

    lengths, nll, best = list(counts), surprises(outputs, batch).double().cpu(), likeliest(outputs, batch)
    correct, said = (best == batch.targets["labels"]).cpu(), best.int().cpu()
    rows = zip(*(torch.split(values, lengths) for values in (nll, correct, said)), lengths, strict=True)
    return [Score(float(one.sum()), count, int(hits.sum()), own.numpy().copy()) for one, hits, own, count in rows]


def report(rows: Sequence[Row], found: Sequence[Score], tokenizer: PreTrainedTokenizerBase) -> Report:
    """perplexity and token_accuracy over all tokens; the rows that surprise most per token.

    Their prediction is the text of the likeliest tokens: of each token, given what should stand before it.
    """
    tokens = sum(score.tokens for score in found)
    values = generation.perplexity([score.nll for score in found], [score.tokens for score in found])
    if tokens:
        values["token_accuracy"] = sum(score.correct for score in found) / tokens
    order = sorted(range(len(rows)), key=lambda place: -found[place].nll / max(found[place].tokens, 1))
    return Report(values, {}, [_error(rows[place], found[place], tokenizer) for place in order[:MOST_ERRORS]])


def _error(row: Row, score: Score, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    said = tokenizer.decode(list(score.likeliest), skip_special_tokens=True)
    return wrong_row(row, prediction=said, **score.plain())


def nothing_to_learn(row: Row, max_length: int) -> DataError:
    message = f"{row.place}: none of its first {max_length} tokens is to be learned"
    hint = "raise spec.training.maxLength, shorten what comes first, or remove the row"
    return DataError("NothingToLearn", message, hint)


def check_end(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ConfigError if a text cannot be ended."""
    if tokenizer.eos_token_id is None:
        message = "spec.model.uri: its tokenizer has no end-of-text token"
        raise ConfigError("NoEndToken", message, "set eos_token in its tokenizer_config.json")


def set_lengths(model: nn.Module, pad: int, longest: int, shortest: int = 0, ends: Collection[int] = ()) -> None:
    """Let the model write up to `longest` tokens, also wherever it is loaded; with `ends`, further tokens end it.

    A least length that it brings stays if it is not above `shortest`.
    """
    found: Any = model.generation_config
    found.max_new_tokens, found.max_length = longest, None
    found.min_length = min(found.min_length or 0, shortest)
    found.pad_token_id = pad if found.pad_token_id is None else found.pad_token_id
    known = found.eos_token_id if isinstance(found.eos_token_id, list) else [found.eos_token_id]
    every = sorted({*ends, *(end for end in known if end is not None)})
    found.eos_token_id = every[0] if len(every) == 1 else every or None


def write(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> list[list[int]]:
    """What the model writes for each row, as its generation_config says but without drawing at random."""
    generate: Any = model.generate
    written: list[list[int]] = generate(**inputs, do_sample=False).tolist()
    return written
