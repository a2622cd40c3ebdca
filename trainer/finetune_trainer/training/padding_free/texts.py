"""The texts of a batch, padded and one behind the other, and the way from one to the other and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch

from finetune_trainer.training.draws import current


@dataclass(frozen=True)
class Texts:
    """How long the texts of a batch are, one behind the other; and to how many places they were padded."""

    lengths: tuple[int, ...]
    width: int
    device: torch.device

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @cached_property
    def starts(self) -> torch.Tensor:
        """Where each text begins among the tokens."""
        return torch.tensor([0, *accumulate(self.lengths)][:-1], device=self.device)

    @cached_property
    def ends(self) -> torch.Tensor:
        """0, and where each text ends, as torch's attention of texts of any lengths wants them."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=self.device)

    @cached_property
    def owners(self) -> torch.Tensor:
        """Which text each token belongs to."""
        return torch.arange(len(self.lengths), device=self.device).repeat_interleave(
            torch.tensor(self.lengths, device=self.device), output_size=self.tokens
        )

    @cached_property
    def positions(self) -> torch.Tensor:
        """Of each token in its text, from 0."""
        return torch.arange(self.tokens, device=self.device) - self.starts[self.owners]

    @cached_property
    def padded(self) -> torch.Tensor:
        """Where each token stands in the padded batch, counted through."""
        return self.owners * self.width + self.positions

    def flat(self, values: torch.Tensor) -> torch.Tensor:
        """(texts, width, …) as (1, tokens, …)."""
        flat: torch.Tensor = Taken.apply(values.flatten(0, 1), self.padded)
        return flat[None]

    def restored(self, values: torch.Tensor) -> torch.Tensor:
        """(1, tokens, …) as (texts, width, …), zero where a text has ended."""
        count = len(self.lengths) * self.width
        padded: torch.Tensor = _Put.apply(values[0], self.padded, count)
        return padded.view(len(self.lengths), self.width, *values.shape[2:])


class Taken(torch.autograd.Function):
    """values[places]; no place is taken twice, so the way back needs no sums."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(values)
        return values.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (places,) = ctx.saved_tensors
        return gradient.new_zeros((ctx.count, *gradient.shape[1:])).index_copy_(0, places, gradient), None


class _Put(torch.autograd.Function):
    """Zeros but for `values` at `places`."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, places: torch.Tensor, count: int) -> torch.Tensor:
        ctx.save_for_backward(places)
        return values.new_zeros((count, *values.shape[1:])).index_copy_(0, places, values)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (places,) = ctx.saved_tensors
        return gradient.index_select(0, places), None, None


def texts_of(values: dict[str, Any]) -> Texts | None:
    """The texts that a model is given, or None if they are to be computed as they are."""
    tokens, mask = values.get("input_ids"), values.get("attention_mask")
    if tokens is None or mask is None or mask.shape != tokens.shape or values.get("inputs_embeds") is not None:
        return None
    lengths = mask.sum(1)
    behind = torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]
    told: list[list[int]] = torch.stack([lengths, (behind == mask.bool()).all(1).long()]).tolist()
    own, ordered = told
    if not all(ordered) or not all(own) or (min(own) == mask.shape[1] and current() is None):
        return None
    return Texts(tuple(own), mask.shape[1], tokens.device)


def texts_in(mask: torch.Tensor | None, states: torch.Tensor) -> Texts:
    count, width = states.shape[:2]
    lengths = [width] * count if mask is None else mask.sum(1).tolist()
    return Texts(tuple(lengths), width, states.device)
