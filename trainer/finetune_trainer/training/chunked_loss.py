"""Cross-entropy of a linear layer's scores, some thousand tokens at a time.

So no tensor of all tokens and words exists, forward or backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers.utils.generic import ModelOutput

SCORES = {"cpu": 2**24, "cuda": 2**28}
"""Scores of words that are computed at once: 64 MiB on a CPU, 1 GiB on a GPU, in 32 bits."""


@dataclass
class Said(ModelOutput):
    """What a model says of the tokens that it should say, in 32 bits.

    `loss` is the sum over them; `nll`, in nats, and `likeliest` are of each, (tokens,). In training there is what the
    task's gradient needs: `loss`, or `nll` where the task weighs each token. In evaluation there is everything.
    """

    loss: torch.Tensor | None = None
    nll: torch.Tensor | None = None
    likeliest: torch.Tensor | None = None


def summed_loss(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy of `labels`, (tokens,), summed, of a linear layer's scores for `hidden`, (tokens, width).

    As torch's `cross_entropy` with label smoothing, in 32 bits. The gradient of each part is computed with the part,
    so that nothing is computed twice; in 16 bits with a scaled loss it would vanish, so there it is `token_losses`'.
    """
    if _type(weight) is torch.float16:
        return token_losses(hidden, weight, bias, labels, smoothing).sum()
    loss: torch.Tensor = _Summed.apply(hidden, weight, bias, labels, smoothing)
    return loss


def token_losses(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """The same of each token, (tokens,). What each counts is known only backward, so scores are computed again."""
    losses: torch.Tensor = _Each.apply(hidden, weight, bias, labels, smoothing)
    return losses


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        smoothing: float,
    ) -> torch.Tensor:
        layer, total = _Layer(hidden, weight, bias), torch.zeros((), device=hidden.device)
        gradients = _Gradients(layer, ctx.needs_input_grad)
        for part in _parts(len(labels), weight):
            shares = layer.log_shares(part)
            total += _losses(shares, labels[part], smoothing).sum()
            gradients.add(part, _by_scores(shares, labels[part], smoothing))
        ctx.save_for_backward(*gradients.found())
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # A loss is mostly taken as it is; on a GPU that cannot be known without waiting for it.
        if gradient.device.type == "cpu" and gradient.item() == 1.0:
            return (*ctx.saved_tensors, None, None)
        return (*(None if own is None else own * gradient.to(own.dtype) for own in ctx.saved_tensors), None, None)


class _Each(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        smoothing: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight, bias, labels)
        ctx.smoothing, ctx.type = smoothing, _type(weight)
        layer, found = _Layer(hidden, weight, bias), torch.zeros(len(labels), device=hidden.device)
        for part in _parts(len(labels), weight):
            found[part] = _losses(layer.log_shares(part), labels[part], smoothing)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        layer = _Layer(hidden, weight, bias, ctx.type)
        gradients = _Gradients(layer, ctx.needs_input_grad)
        for part in _parts(len(labels), weight):
            scores = _by_scores(layer.log_shares(part), labels[part], ctx.smoothing)
            gradients.add(part, scores.mul_(gradient[part, None]))
        return (*gradients.found(), None, None)


def evaluated_loss(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, smoothing: float
) -> Said:
    """Everything, without a gradient."""
    layer, loss = _Layer(hidden, weight, bias), torch.zeros((), device=hidden.device)
    nll, likeliest = torch.zeros(len(labels), device=hidden.device), torch.zeros_like(labels)
    for part in _parts(len(labels), weight):
        shares = layer.log_shares(part)
        nll[part], likeliest[part] = _losses(shares, labels[part], 0.0), shares.argmax(-1)
        loss += _losses(shares, labels[part], smoothing).sum()
    return Said(loss, nll, likeliest)


def _type(weight: torch.Tensor) -> torch.dtype:
    """What matrix products are computed in: autocast's type, if it is on."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _parts(tokens: int, weight: torch.Tensor) -> Iterator[slice]:
    """Ranges of tokens whose scores are computed together."""
    size = max(1, SCORES["cpu" if weight.device.type == "cpu" else "cuda"] // len(weight))
    return (slice(start, start + size) for start in range(0, tokens, size))


class _Layer:
    """A linear layer in the type that matrix products are computed in, whatever autocast says inside."""

    def __init__(
        self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, kind: torch.dtype | None = None
    ) -> None:
        kind = kind or _type(weight)
        self.given = (hidden, weight, bias)
        self.hidden, self.weight = hidden.detach().to(kind), weight.detach().to(kind)
        self.bias = None if bias is None else bias.detach().to(kind)

    def log_shares(self, part: slice) -> torch.Tensor:
        """Log-probability of each word, (tokens, vocabulary), in 32 bits."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return functional.linear(self.hidden[part], self.weight, self.bias).float().log_softmax(-1)


class _Gradients:
    """By hidden states, weight and bias, as far as they are wanted; summed up part by part in the weights' own type."""

    def __init__(self, layer: _Layer, wanted: Sequence[bool]) -> None:
        hidden, weight, bias = layer.given
        self.layer = layer
        self.hidden = torch.empty_like(hidden, memory_format=torch.contiguous_format) if wanted[0] else None
        self.weight = torch.zeros_like(weight) if wanted[1] else None
        self.bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None

    def add(self, part: slice, scores: torch.Tensor) -> None:
        """`scores` has the gradient by the scores of a part, (tokens, vocabulary), in 32 bits."""
        if self.bias is not None:
            self.bias += scores.sum(0)
        scores = scores.to(self.layer.weight.dtype)
        with torch.autocast(scores.device.type, enabled=False):
            if self.hidden is not None:
                self.hidden[part] = scores @ self.layer.weight
            if self.weight is not None:
                _add_product(self.weight, scores.t(), self.layer.hidden[part])

    def found(self) -> tuple[torch.Tensor | None, ...]:
        return self.hidden, self.weight, self.bias


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if total.dtype is left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _losses(shares: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Of each token, (tokens,): `smoothing` of the target is spread over all words (Szegedy et al. 2016)."""
    nll = -shares.gather(1, labels[:, None]).squeeze(1)
    return nll if not smoothing else (1 - smoothing) * nll - smoothing * shares.mean(-1)


def _by_scores(shares: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """The losses' gradient by the scores, in the memory of `shares`: the model's probabilities less the target's."""
    scores = shares.exp_()
    if smoothing:
        scores -= smoothing / shares.shape[1]
    scores[torch.arange(len(labels), device=labels.device), labels] -= 1 - smoothing
    return scores
