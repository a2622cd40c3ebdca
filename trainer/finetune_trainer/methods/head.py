"""Which part of a model answers: it is trained by every method, and by `freeze` alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def head_of(model: PreTrainedModel, new: Collection[str]) -> set[str]:
    """Parameters that the weights' file did not have (`new`), and of a head that labels also those that it had.

    A head that says tokens was learned with the whole model and stays as it is.
    """
    inside = f"{model.base_model_prefix}."
    names = {name for name, _ in model.named_parameters()}
    outside = {name for name in names if not name.startswith(inside)}
    return set(new) if output_embeddings(model) is not None or outside == names else outside | set(new)


def output_embeddings(model: PreTrainedModel) -> nn.Module | None:
    """What says tokens, if the model does."""
    found: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return found
