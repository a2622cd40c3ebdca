"""The loss of models that say tokens, computed only where there is something to say, and never for all of it at once.

A language model's last layer gives a score to each word of its vocabulary at each position: (rows, length, vocabulary),
mostly the largest tensor of a step, and computed in vain where the text is a prompt, padding, or a word that is not
hidden. `aim` lets that layer see the positions with a target alone. Where the model hands on the layer's result as it
is, the layer also computes the loss itself, some thousand positions at a time, so that no tensor of all positions and
words exists, forward or backward. Where the model changes it first (soft-capping, scaling), or the layer is not a plain
linear one (LoRA on it), the scores of the targets are computed together.

Nothing of this happens without targets: generation and prediction get logits as always.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from finetune_trainer.training.chunked_loss import Said, evaluated_loss, summed_loss, token_losses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finetune_trainer.tasks.base import Batch
    from finetune_trainer.tasks.writing import TokenLoss

log = logging.getLogger(__name__)
AIM = "_finetune_aim"
"""Attribute of a module that is aimed."""
MATRIX = 2
UNCHANGED, CHANGED = "unchanged", "changed"


def aim(module: nn.Module, token_loss: TokenLoss | None) -> None:
    """Let the model in `module` compute its scores where `outputs_of` has targets; of other models nothing changes."""
    model = None if token_loss is None else _speaker(module)
    head = None if model is None else _head(model)
    if model is None or head is None or token_loss is None:
        return
    found = _survival(model, head)
    if found is None:
        log.info("the model computes scores for all positions: its last layer cannot be asked for some alone")
        return
    plain = type(head) is nn.Linear and found == UNCHANGED
    aimed = _Aim(token_loss, head, model, chunked=plain)
    model.register_forward_pre_hook(aimed.before, with_kwargs=True)
    model.register_forward_hook(aimed.after)
    head.forward = aimed.forward
    setattr(module, AIM, aimed)


def outputs_of(model: nn.Module, batch: Batch) -> Any:
    """The model's outputs for a batch; Said if the model is aimed and the batch has targets."""
    aimed: _Aim | None = getattr(model.module if isinstance(model, DistributedDataParallel) else model, AIM, None)
    if aimed is None or "places" not in batch.targets:
        return model(**batch.inputs)
    aimed.target = _Target(batch.targets["places"], batch.targets["labels"], _width(batch.inputs))
    try:
        return model(**batch.inputs)
    finally:
        aimed.target = None


def _width(inputs: Mapping[str, torch.Tensor]) -> int:
    """Tokens of each row, with padding, of what the scores stand for."""
    return (inputs["decoder_input_ids"] if "decoder_input_ids" in inputs else inputs["input_ids"]).shape[1]


def _speaker(module: nn.Module) -> PreTrainedModel | None:
    """The outermost model in it that has a layer which says tokens; what an adapter wraps, for example."""
    models = (part for part in module.modules() if isinstance(part, PreTrainedModel))
    return next((part for part in models if _head(part) is not None), None)


def _head(model: PreTrainedModel) -> nn.Module | None:
    """The layer that says tokens."""
    found: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return found


@torch.no_grad()
def _survival(model: PreTrainedModel, head: nn.Module) -> str | None:
    """What becomes of the last layer's result in the model: UNCHANGED, CHANGED one by one, or None if it must have its
    shape. Found out with numbers that every known change would show in, at two tokens, without random numbers.
    """
    words, original, training = _words(head), head.forward, model.training
    if words is None:
        return None
    said = torch.linspace(-60.0, 60.0, 3 * words, device=model.device).reshape(1, 3, words)
    head.forward = lambda *_: said
    try:
        model.train(False)
        logits = model(**_two_tokens(model)).logits
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return None
    finally:
        head.forward = original
        model.train(training)
    if logits is None or logits.shape != said.shape:
        return None
    return UNCHANGED if torch.equal(logits, said + _added(model, said)) else CHANGED


def _words(head: nn.Module) -> int | None:
    """Size of the vocabulary; None if the layer has no matrix of it."""
    weight = getattr(head, "weight", None)
    return weight.shape[0] if isinstance(weight, torch.Tensor) and weight.dim() == MATRIX else None


def _two_tokens(model: PreTrainedModel) -> dict[str, Any]:
    """The smallest inputs; a model of two parts is given what its encoder would say."""
    ids = torch.ones(1, 2, dtype=torch.long, device=model.device)
    if not model.config.is_encoder_decoder:
        return {"input_ids": ids}
    width = model.config.get_text_config().hidden_size
    encoded = torch.zeros(1, 2, width, device=model.device, dtype=model.dtype)
    return {"encoder_outputs": (encoded,), "decoder_input_ids": ids}


def _added(model: nn.Module, like: torch.Tensor) -> torch.Tensor:
    """What the model adds to each word's score afterwards, (vocabulary,): BART and its kin keep such numbers."""
    added = getattr(model, "final_logits_bias", None)
    return like.new_zeros(()) if added is None else added.flatten().to(like.device)


@dataclass(frozen=True)
class _Target:
    """Flat places of the tokens to say among (rows * width), and the tokens."""

    places: torch.Tensor
    labels: torch.Tensor
    width: int


@dataclass
class _Aim:
    """Stands in the place of the last layer's forward, and hands its finding past the model's own result."""

    token_loss: TokenLoss
    head: nn.Module
    model: nn.Module
    chunked: bool
    target: _Target | None = None
    said: Said | None = None
    picked: bool = False

    def __post_init__(self) -> None:
        self.original = self.head.forward
        self.caches = "use_cache" in inspect.signature(self.model.forward).parameters

    def before(self, model: nn.Module, inputs: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:  # noqa: ARG002
        """Keys and values are kept for generation alone: each layer would copy its own."""
        if self.target is None or not self.caches or options.get("past_key_values") is not None:
            return None
        return inputs, {**options, "use_cache": False}

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.target is None:
            return cast("torch.Tensor", self.original(hidden))
        picked, self.picked = _pick(hidden, self.target), True
        if not self.chunked or isinstance(self.head.weight, DTensor):
            return cast("torch.Tensor", self.original(picked[None]))
        self.said = self._say(picked, self.target.labels)
        return hidden.new_zeros(1, 1, 1)

    def after(self, model: nn.Module, inputs: Any, outputs: Any) -> Any:  # noqa: ARG002
        """What the model returns instead of its outputs."""
        if self.target is None or not self.picked:
            return outputs
        said, self.said, self.picked = self.said, None, False
        return self._judge(outputs.logits[0].float(), self.target.labels) if said is None else said

    def _say(self, picked: torch.Tensor, labels: torch.Tensor) -> Said:
        weight, bias = cast("torch.Tensor", self.head.weight), self._bias()
        smoothing = self.token_loss.smoothing
        if not torch.is_grad_enabled():
            return evaluated_loss(picked, weight, bias, labels, smoothing)
        if not self.token_loss.summed:
            return Said(nll=token_losses(picked, weight, bias, labels, smoothing))
        return Said(loss=summed_loss(picked, weight, bias, labels, smoothing))

    def _bias(self) -> torch.Tensor | None:
        own = cast("torch.Tensor | None", self.head.bias)
        if getattr(self.model, "final_logits_bias", None) is None:
            return own
        added = _added(self.model, cast("torch.Tensor", self.head.weight))
        return added if own is None else own + added

    def _judge(self, logits: torch.Tensor, labels: torch.Tensor) -> Said:
        smoothing = self.token_loss.smoothing
        loss = functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        if torch.is_grad_enabled() and self.token_loss.summed:
            return Said(loss=loss)
        nll = functional.cross_entropy(logits, labels, reduction="none")
        return Said(nll=nll) if torch.is_grad_enabled() else Said(loss, nll, logits.argmax(-1))


def _pick(hidden: torch.Tensor, target: _Target) -> torch.Tensor:
    """What the last layer reads where there is a target, (tokens, width of the model).

    Virtual tokens that a method puts before a text's are none of its places.
    """
    own = hidden[:, hidden.shape[1] - target.width :]
    return own.flatten(0, 1).index_select(0, target.places)
