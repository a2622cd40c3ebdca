"""Attention as transformers calls it, over texts one behind the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from finetune_trainer.training.draws import current
from finetune_trainer.training.dropout import Chance, drop_scaled
from finetune_trainer.training.padding_free.pattern import Group, Pattern

HALVES = (torch.float16, torch.bfloat16)
BIAS = 4
"""Dimensions of a bias by position; what stands there where there is none has fewer."""


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: query, key and value are (1, heads, tokens, size) where `attention_mask` is a
    Pattern, and the result is (1, tokens, heads, size).
    """
    if not isinstance(attention_mask, Pattern):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, position_bias=position_bias, **others
        )
    pattern = attention_mask
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    bias = position_bias if position_bias is not None and position_bias.ndim == BIAS else None
    if query.is_cuda and query.dtype in HALVES and bias is None and not dropout:
        return _of_any_lengths(query, key, value, pattern, scale), None
    heads, repeated = query.shape[1], query.shape[1] // key.shape[1]
    asked = [[_repeated(part, repeated) for part in pattern.spread("asked", states)] for states in (key, value)]
    groups = zip(pattern.every, pattern.spread("asking", query), *asked, strict=True)
    draws = current()
    if dropout and draws is not None and not query.is_cuda:
        chance = Chance.of(dropout)
        keeps = _keeps(draws.kept(_pairs(pattern, heads), chance), pattern, heads)
        said = [
            _weigh(q, k, v, _bias_of(bias, group), pattern.mask(group), keep, scale, chance.scale)
            for (group, q, k, v), keep in zip(groups, keeps, strict=True)
        ]
    else:
        said = [
            functional.scaled_dot_product_attention(
                q, k, v, _mask_of(pattern.mask(group), bias, group, q), dropout, scale=scale
            )
            for group, q, k, v in groups
        ]
    return pattern.gathered(said), None


def _of_any_lengths(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pattern: Pattern, scale: float
) -> torch.Tensor:
    """torch's own attention of texts one behind the other, on a GPU, without groups. Not run yet."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (tensor.transpose(1, 2)[0] for tensor in (query, key, value))
    said = varlen_attn(
        q,
        k,
        v,
        pattern.asking.ends,
        pattern.asked.ends,
        max(pattern.asking.lengths),
        max(pattern.asked.lengths),
        scale=scale,
        window_size=(-1, 0) if pattern.causal else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(said, torch.Tensor)
    return said[None]


def _repeated(states: torch.Tensor, times: int) -> torch.Tensor:
    """Each head of keys as often as there are heads of queries that ask it."""
    return states if times == 1 else states.repeat_interleave(times, 1)


def _pairs(pattern: Pattern, heads: int) -> list[int]:
    """Weights that attention computes of each cell."""
    return [sum(group.texts * heads * group.asking * group.asked for group in groups) for groups in pattern.groups]


def _keeps(kept: Sequence[torch.Tensor], pattern: Pattern, heads: int) -> Iterator[torch.Tensor]:
    """What was drawn for each cell as that of each group."""
    for own, groups in zip(kept, pattern.groups, strict=True):
        parts = torch.split(own, [group.texts * heads * group.asking * group.asked for group in groups])
        for part, group in zip(parts, groups, strict=True):
            yield part.view(group.texts, heads, group.asking, group.asked)


def _mask_of(
    mask: torch.Tensor | None, bias: torch.Tensor | None, group: Group, like: torch.Tensor
) -> torch.Tensor | None:
    """What torch's attention takes: a boolean mask, or one that is added."""
    own = _bias_of(bias, group)
    if own is None:
        return mask
    return own.to(like.dtype) if mask is None else own.to(like.dtype).masked_fill(~mask, float("-inf"))


def _bias_of(bias: torch.Tensor | None, group: Group) -> torch.Tensor | None:
    """The part of a bias by position that a group's texts are long enough for, (1, heads, asking, asked)."""
    return None if bias is None else bias[:, :, : group.asking, : group.asked]


class _Weighed(torch.autograd.Function):
    """Attention with dropout, of one group: softmax(q kᵀ · scale + bias) where `mask` lets it be, dropped, times v.

    Beside q, k and v it keeps the weights and one byte for each; torch's own keeps three numbers.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        bias: torch.Tensor | None,
        mask: torch.Tensor | None,
        keep: torch.Tensor,
        scale: float,
        kept_scale: float,
    ) -> torch.Tensor:
        with torch.autocast(q.device.type, enabled=False):
            scores = _product(q, k.transpose(2, 3), scale)
            if bias is not None:
                scores += bias
            if mask is not None:
                scores.masked_fill_(~mask, float("-inf"))
            weights = scores.softmax(-1, dtype=torch.float32)
            dropped = drop_scaled(weights, keep, kept_scale).to(v.dtype)
            ctx.save_for_backward(q, k, v, weights, keep)
            ctx.scales, ctx.kind = (scale, kept_scale), None if bias is None else bias.dtype
            return _product(dropped, v)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        q, k, v, weights, keep = ctx.saved_tensors
        scale, kept_scale = ctx.scales
        dropped = drop_scaled(weights, keep, kept_scale).to(v.dtype)
        by_v = _product(dropped.transpose(2, 3), gradient)
        by_weights = drop_scaled(_product(gradient, v.transpose(2, 3)).float(), keep, kept_scale)
        by_scores = torch._softmax_backward_data(by_weights, weights, -1, torch.float32)
        by_bias = by_scores.sum(0, keepdim=True).to(ctx.kind) if ctx.needs_input_grad[3] else None
        narrow = by_scores.to(q.dtype)
        by_q, by_k = _product(narrow, k, scale), _product(narrow.transpose(2, 3), q, scale)
        return by_q, by_k, by_v, by_bias, None, None, None, None


def _weigh(*given: Any) -> torch.Tensor:
    said: torch.Tensor = _Weighed.apply(*given)
    return said


def _product(one: torch.Tensor, other: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """one · other · scale for each text and head, in one call."""
    left, right = one.flatten(0, 1), other.flatten(0, 1)
    product = torch.baddbmm(left.new_empty(()), left, right, beta=0, alpha=scale)
    return product.view(*one.shape[:2], *product.shape[1:])
