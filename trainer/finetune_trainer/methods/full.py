"""full: every weight is trained."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, cast

from finetune_api.method import Method

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class Full:
    def __init__(self, method: Method) -> None:
        self.method = method

    def prepare(self, model: PreTrainedModel, new: Collection[str]) -> nn.Module:  # noqa: ARG002
        return model

    def save(self, module: nn.Module, folder: Path, merge_adapter: bool) -> None:  # noqa: ARG002
        cast("PreTrainedModel", module).save_pretrained(str(folder))
