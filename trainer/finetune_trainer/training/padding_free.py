"""Texts without padding: a model computes the tokens of all texts of a batch one behind the other.

Only attention looks beyond a token, so only attention has to know where a text ends. There queries, keys and values are
laid out in groups of texts of about one length, each padded to its longest, and what attention says is read back. All
else, linear layers, norms, activations and dropout, sees (1, tokens, …). Around it nothing changes: what goes into the
model and what its layers of texts say is padded, (texts, longest, …), with zeros where a text has ended.

No model code is copied: transformers lets attention and its masks be registered by name. What stands for a mask here is
a `Pattern`; it goes through the model's layers as a mask would, so that they can also be computed again for a gradient.
Positions are given where a model takes them (RoBERTa's begin behind that of the padding token), and else put in the
place of those that it would count (BART); of T5's relative positions the bias is that of one text, not of all tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, cast

import numpy
import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from finetune_api.run import RunConfig
from finetune_api.training import Use
from finetune_trainer.errors import ConfigError
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.training.draws import Chance, current, drop_scaled
from finetune_trainer.training.padding import FIELD, STACKS, obstacle

NAME = "padding-free"
"""By which transformers knows the attention of this module."""
PLAIN = "sdpa"
"""The attention that it stands in for, and which it is where nothing is laid out."""
GROUP_COST = 3000
"""What another group costs, in pairs of tokens that attention looks at: the calls of a dozen small operations."""
LOOKED_AT = ("output_attentions", "output_hidden_states")
"""Of a model that is asked for these the inside is seen, where nothing is padded."""


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
        flat: torch.Tensor = _Taken.apply(values.flatten(0, 1), self.padded)
        return flat[None]

    def restored(self, values: torch.Tensor) -> torch.Tensor:
        """(1, tokens, …) as (texts, width, …), zero where a text has ended."""
        count = len(self.lengths) * self.width
        padded: torch.Tensor = _Put.apply(values[0], self.padded, count)
        return padded.view(len(self.lengths), self.width, *values.shape[2:])


class _Taken(torch.autograd.Function):
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


class _Spread(torch.autograd.Function):
    """values[there], where a place may be taken twice: once for itself, at `back`, and for padding, whose gradient is
    zero or without meaning.
    """

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, there: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back)
        return values.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (back,) = ctx.saved_tensors
        return gradient.index_select(0, back), None, None


@dataclass(frozen=True)
class Group:
    """Texts that attention computes together, from `first` to before `end`: so many tokens ask, so many are asked."""

    first: int
    end: int
    asking: int
    asked: int

    @property
    def texts(self) -> int:
        return self.end - self.first


class Pattern:
    """Which tokens attention looks at: those of the same text, or of what belongs to it; `causal`, no later ones.

    `cells` are the texts of each cell that draws its own random numbers: no group has texts of two cells.
    """

    def __init__(self, asking: Texts, asked: Texts, causal: bool, cells: Sequence[int]) -> None:
        self.asking = asking
        self.asked = asked
        self.causal = causal
        self.groups: list[list[Group]] = []
        first = 0
        for texts in cells:
            self.groups.append(grouped(asking.lengths, asked.lengths, first, first + texts))
            first += texts
        self._places: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._masks: dict[Group, torch.Tensor | None] = {}

    @cached_property
    def every(self) -> list[Group]:
        return [group for groups in self.groups for group in groups]

    def places(self, side: str, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each place of the groups, (texts, heads, width) one group after the other, is found among the tokens'
        heads, (tokens, heads); and where those stand in the groups. `side` is asking or asked.
        """
        key = (side, heads)
        if key not in self._places:
            texts = cast("Texts", getattr(self, side))
            widths = [getattr(group, side) for group in self.every]
            self._places[key] = _places(texts, self.every, widths, heads)
        return self._places[key]

    def spread(self, side: str, states: torch.Tensor) -> list[torch.Tensor]:
        """(1, heads, tokens, size) as (texts, heads, width, size) of each group."""
        heads, size = states.shape[1], states.shape[3]
        there, back = self.places(side, heads)
        flat = states.transpose(1, 2).reshape(-1, size)
        spread = _Spread.apply(flat, there, back)
        widths = [getattr(group, side) for group in self.every]
        shapes = [(group.texts, heads, width, size) for group, width in zip(self.every, widths, strict=True)]
        parts = spread.split([texts * heads * width for texts, _, width, _ in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def gathered(self, said: Sequence[torch.Tensor]) -> torch.Tensor:
        """What was said in the groups, (1, tokens, heads, size)."""
        heads, size = said[0].shape[1], said[0].shape[3]
        _, back = self.places("asking", heads)
        rows = [part.reshape(-1, size) for part in said]
        joined = rows[0] if len(rows) == 1 else torch.cat(rows)
        flat: torch.Tensor = _Taken.apply(joined, back)
        return flat.view(1, -1, heads, size)

    def mask(self, group: Group) -> torch.Tensor | None:
        """(texts or 1, 1, asking or 1, asked), whether to look; None if at everything.

        Under causal attention no token that is not padding comes to look at padding, which stands behind.
        """
        if group not in self._masks:
            self._masks[group] = self._mask(group)
        return self._masks[group]

    def _mask(self, group: Group) -> torch.Tensor | None:
        device = self.asked.device
        if self.causal:
            square = torch.ones(group.asking, group.asked, dtype=torch.bool, device=device)
            return square.tril()[None, None] if group.asking > 1 else None
        lengths = self.asked.lengths[group.first : group.end]
        if min(lengths) == group.asked:
            return None
        known = torch.tensor(lengths, device=device)[:, None]
        return (torch.arange(group.asked, device=device) < known)[:, None, None]


def _places(
    texts: Texts, groups: Sequence[Group], widths: Sequence[int], heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    device, lengths = texts.device, torch.tensor(texts.lengths, device=texts.device)
    every_head = torch.arange(heads, device=device)
    there, begins, steps, begin = [], [], [], 0
    for group, width in zip(groups, widths, strict=True):
        own = slice(group.first, group.end)
        # What stands for padding is the text's last token: any finite number will do.
        inside = torch.minimum(torch.arange(width, device=device), lengths[own, None] - 1) + texts.starts[own, None]
        there.append((inside[:, None, :] * heads + every_head[None, :, None]).flatten())
        begins += [begin + number * heads * width for number in range(group.texts)]
        steps += [width] * group.texts
        begin += group.texts * heads * width
    first, step = (torch.tensor(values, device=device)[texts.owners] for values in (begins, steps))
    back = (first + texts.positions)[:, None] + step[:, None] * every_head
    return torch.cat(there), back.flatten()


def grouped(asking: Sequence[int], asked: Sequence[int], first: int, end: int) -> list[Group]:
    """The texts from `first` to before `end`, which keep their order, in the groups that cost least.

    A group costs the pairs of tokens that are looked at when its texts are padded to its longest, and GROUP_COST.
    """
    ours, theirs = numpy.asarray(asking[first:end]), numpy.asarray(asked[first:end])
    count = len(ours)
    best, cut = numpy.zeros(count + 1), [0] * (count + 1)
    for stop in range(1, count + 1):
        widths = [numpy.maximum.accumulate(some[:stop][::-1])[::-1] for some in (ours, theirs)]
        costs = best[:stop] + numpy.arange(stop, 0, -1) * widths[0] * widths[1] + GROUP_COST
        cut[stop] = int(costs.argmin())
        best[stop] = costs[cut[stop]]
    groups, stop = [], count
    while stop:
        begin = cut[stop]
        widest = int(ours[begin:stop].max()), int(theirs[begin:stop].max())
        groups.append(Group(first + begin, first + stop, *widest))
        stop = begin
    return groups[::-1]


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
            _weigh(q, k, v, _additive(pattern.mask(group), bias, group, q), keep, scale, chance.scale)
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


HALVES = (torch.float16, torch.bfloat16)
BIAS = 4
"""Dimensions of a bias by position; what stands there where there is none has fewer."""


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


def _mask_of(mask: torch.Tensor | None, bias: torch.Tensor | None, group: Group, like: torch.Tensor) -> Any:
    """What torch's attention takes: a boolean mask, or one that is added."""
    return mask if bias is None else _additive(mask, bias, group, like)


def _additive(
    mask: torch.Tensor | None, bias: torch.Tensor | None, group: Group, like: torch.Tensor
) -> torch.Tensor | None:
    own = None if bias is None else bias[:, :, : group.asking, : group.asked].to(like.dtype)
    if mask is None:
        return own
    blocked = torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(~mask, float("-inf"))
    return blocked if own is None else own + blocked


class _Weighed(torch.autograd.Function):
    """Attention with dropout, of one group: softmax(q kᵀ · scale + added), dropped, times v.

    Beside q, k and v it keeps the weights and one byte for each; torch's own keeps three numbers.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        added: torch.Tensor | None,
        keep: torch.Tensor,
        scale: float,
        kept_scale: float,
    ) -> torch.Tensor:
        with torch.autocast(q.device.type, enabled=False):
            scores = _product(q, k.transpose(2, 3), scale)
            if added is not None:
                scores = scores + added
            weights = scores.softmax(-1, dtype=torch.float32)
            dropped = drop_scaled(weights, keep, kept_scale).to(v.dtype)
            ctx.save_for_backward(q, k, v, weights, keep, added if ctx.needs_input_grad[3] else None)
            ctx.scales = scale, kept_scale
            return _product(dropped, v)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        q, k, v, weights, keep, added = ctx.saved_tensors
        scale, kept_scale = ctx.scales
        dropped = drop_scaled(weights, keep, kept_scale).to(v.dtype)
        by_v = _product(dropped.transpose(2, 3), gradient)
        by_weights = drop_scaled(_product(gradient, v.transpose(2, 3)).float(), keep, kept_scale)
        by_scores = torch._softmax_backward_data(by_weights, weights, -1, torch.float32)
        by_added = None if added is None else by_scores.sum_to_size(added.shape).to(added.dtype)
        narrow = by_scores.to(q.dtype)
        return _product(narrow, k, scale), _product(narrow.transpose(2, 3), q, scale), by_v, by_added, None, None, None


def _weigh(*given: Any) -> torch.Tensor:
    said: torch.Tensor = _Weighed.apply(*given)
    return said


def _product(one: torch.Tensor, other: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """one · other · scale for each text and head, in one call."""
    left, right = one.flatten(0, 1), other.flatten(0, 1)
    product = torch.baddbmm(left.new_empty(()), left, right, beta=0, alpha=scale)
    return product.view(*one.shape[:2], *product.shape[1:])


def _mask_function(*arguments: Any, **named: Any) -> Any:
    """What transformers asks for a mask: a Pattern while a stack computes without padding."""
    stack = _computing
    if stack is None or stack.texts is None:
        return sdpa_mask(*arguments, **named)
    return stack.pattern(causal="allow_is_bidirectional_skip" not in named)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, _mask_function)
_computing: _Stack | None = None


class _Stack:
    """The part of a model that reads tokens and says a state for each; it is given what is not padded."""

    def __init__(self, module: PreTrainedModel) -> None:
        self.module = module
        self.compute: Callable[..., Any] = module.forward
        self.signature = inspect.signature(self.compute)
        self.texts: Texts | None = None
        self.read: Texts | None = None
        self._patterns: dict[bool, Pattern] = {}
        module.config._attn_implementation = NAME
        object.__setattr__(module, "forward", self._forward)
        self._adapt()

    def _adapt(self) -> None:
        """What in the module counts positions, or takes a text's first token."""
        for name, part in self.module.named_children():
            if name == "pooler":
                part.register_forward_pre_hook(self._first_tokens)
            if name == "embed_positions":
                object.__setattr__(part, "forward", self._counted(part.forward))
        for part in self.module.modules():
            if hasattr(part, "compute_bias"):
                part.register_forward_pre_hook(_with_bias, with_kwargs=True)

    def _first_tokens(self, module: nn.Module, arguments: Any) -> Any:  # noqa: ARG002
        """A pooler reads the first token of each text."""
        return arguments if self.texts is None else (arguments[0][0, self.texts.starts][:, None], *arguments[1:])

    def _counted(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """Embeddings of the positions in each text, instead of those among all tokens."""

        def forward(tokens: torch.Tensor, *arguments: Any, **named: Any) -> Any:
            if self.texts is None:
                return compute(tokens, *arguments, **named)
            return compute(tokens, position_ids=self.texts.positions)

        return forward

    def pattern(self, causal: bool) -> Pattern:
        """Of the attention in the texts or, in a decoder that is not asked for causal attention, to what was read."""
        if causal not in self._patterns:
            assert self.texts is not None
            asked = self.read if self.read is not None and not causal else self.texts
            draws = current()
            cells = [len(self.texts.lengths)] if draws is None else [cell.texts for cell in draws.cells]
            self._patterns[causal] = Pattern(self.texts, asked, causal, cells)
        return self._patterns[causal]

    def _forward(self, *arguments: Any, **named: Any) -> Any:
        given = self.signature.bind(*arguments, **named)
        values = {**given.arguments, **given.arguments.get("kwargs", {})}
        values.pop("kwargs", None)
        texts = texts_of(values)
        if texts is None or values.get("past_key_values") is not None or any(map(values.get, LOOKED_AT)):
            return self.compute(*arguments, **named)
        return self._computed(texts, values)

    def _computed(self, texts: Texts, values: dict[str, Any]) -> Any:
        global _computing
        self.texts, self.read = texts, None
        flat = self._flat(texts, values)
        outer, _computing = _computing, self
        try:
            outputs = self.compute(**flat)
        finally:
            _computing, self.texts, self.read = outer, None, None
            self._patterns.clear()
        outputs.last_hidden_state = texts.restored(outputs.last_hidden_state)
        return outputs

    def _flat(self, texts: Texts, values: dict[str, Any]) -> dict[str, Any]:
        """The arguments, of texts one behind the other."""
        tokens = values["input_ids"]
        flat = values | {"input_ids": texts.flat(tokens), "attention_mask": _ones(texts)}
        if values.get("token_type_ids") is not None:
            flat["token_type_ids"] = texts.flat(values["token_type_ids"])
        if "position_ids" in self.signature.parameters:
            flat["position_ids"] = self._positions(texts, tokens, values.get("position_ids"))
        if "use_cache" in self.signature.parameters:
            flat["use_cache"] = False
        if (states := values.get("encoder_hidden_states")) is not None:
            read = _texts_in(values.get("encoder_attention_mask"), states)
            self.read = read
            flat |= {"encoder_hidden_states": read.flat(states), "encoder_attention_mask": _ones(read)}
        if (draws := current()) is not None:
            draws.laid_out(texts)
        return flat

    def _positions(self, texts: Texts, tokens: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor:
        if given is not None:
            return texts.flat(given.expand(tokens.shape))
        embeddings: Any = getattr(self.module, "embeddings", None)
        if hasattr(embeddings, "create_position_ids_from_input_ids"):
            return texts.flat(embeddings.create_position_ids_from_input_ids(tokens, embeddings.padding_idx))
        return texts.positions[None]


def _with_bias(module: Any, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """T5's bias by relative positions is that of a text as long as the longest; all layers share it.

    Where a text is asked that was read before there is none; its place is kept by a number.
    """
    pattern = named.get("mask")
    if not isinstance(pattern, Pattern) or named.get("position_bias") is not None:
        return arguments, named
    if module.has_relative_attention_bias:
        bias = module.compute_bias(pattern.asking.width, pattern.asked.width)
    else:
        bias = module.q.weight.new_zeros(())
    return arguments, named | {"position_bias": bias}


def _ones(texts: Texts) -> torch.Tensor:
    return torch.ones((1, texts.tokens), dtype=torch.bool, device=texts.device)


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


def _texts_in(mask: torch.Tensor | None, states: torch.Tensor) -> Texts:
    count, width = states.shape[:2]
    lengths = [width] * count if mask is None else mask.sum(1).tolist()
    return Texts(tuple(lengths), width, states.device)


def removes_padding(config: RunConfig, folder: ModelFolder, model: nn.Module, device: torch.device) -> bool:
    """Whether the run's texts are not padded; Auto where they need not be, on a CPU. Raises ConfigError if they have to
    be, and may not.
    """
    wanted = config.training.padding_free
    if wanted is Use.NEVER or (wanted is Use.AUTO and device.type != "cpu") or obstacle(config, folder) is not None:
        return False
    if wanted is Use.ALWAYS and not _stacks(model):
        message = f"{FIELD}: Always is not possible: the model's attention is not one that could be replaced"
        raise ConfigError("NotSupported", message, "use Auto, which pads then")
    return bool(_stacks(model))


def remove_padding(model: nn.Module) -> None:
    """From now on `model` computes texts without padding."""
    for stack in _stacks(model):
        _Stack(stack)


def _stacks(model: nn.Module) -> list[PreTrainedModel]:
    return [
        module
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
        and type(module).__name__ in STACKS.get(module.config.model_type, ())
        and module.config._attn_implementation in (PLAIN, NAME)
    ]
