"""The part of a model that reads tokens is given them without padding; what it says is padded again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from finetune_trainer.training.draws import current
from finetune_trainer.training.padding import STACKS
from finetune_trainer.training.padding_free.attention import attention
from finetune_trainer.training.padding_free.pattern import Pattern
from finetune_trainer.training.padding_free.texts import Texts, texts_in, texts_of

NAME = "padding-free"
"""By which transformers knows the attention of this module."""
PLAIN = "sdpa"
"""The attention that it stands in for, and which it is where nothing is laid out."""
LOOKED_AT = ("output_attentions", "output_hidden_states")
"""Of a model that is asked for these the inside is seen, where nothing is padded."""


def _mask_function(*arguments: Any, **named: Any) -> Any:
    """What transformers asks for a mask: a Pattern while a stack computes without padding."""
    stack = _computing
    if stack is None or stack.texts is None:
        return sdpa_mask(*arguments, **named)
    return stack.pattern(causal="allow_is_bidirectional_skip" not in named)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, _mask_function)
_computing: Stack | None = None


class Stack:
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
            read = texts_in(values.get("encoder_attention_mask"), states)
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


def stacks(model: nn.Module) -> list[PreTrainedModel]:
    return [
        module
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
        and type(module).__name__ in STACKS.get(module.config.model_type, ())
        and module.config._attn_implementation in (PLAIN, NAME)
    ]
