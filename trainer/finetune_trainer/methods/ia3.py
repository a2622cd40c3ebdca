"""ia3: a factor for each value that attention's keys and values give and feed-forward parts take (Liu et al. 2022)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune_trainer.methods.adapters import Adapters, named_layers

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

FIELD = "spec.method.ia3"
KEYS_AND_VALUES = re.compile(r"^(k|v|key|value|keys|values|k_proj|v_proj|k_lin|v_lin|key_proj|value_proj)$")
JOINED = re.compile(r"^(c_attn|qkv|qkv_proj|query_key_value|in_proj|Wqkv)$")
"""Layers that make queries, keys and values at once: GPT-2, Falcon, …"""


class Factors(Adapters):
    def configure(self, model: PreTrainedModel, layers: Sequence[str]) -> PeftConfig:
        from peft import IA3Config
        from transformers.pytorch_utils import Conv1D

        targets, inputs = self._targets(model, layers)
        columns = isinstance(model.get_submodule(targets[0]), Conv1D)
        return IA3Config(target_modules=targets, feedforward_modules=inputs, fan_in_fan_out=columns)

    def _targets(self, model: PreTrainedModel, layers: Sequence[str]) -> tuple[list[str], list[str]]:
        """The layers with factors, and those of them whose inputs have them."""
        ia3 = self.method.ia3
        ends = [name for name in layers if _ends_feed_forward(model, name)]
        targets = ends + [name for name in layers if _makes_keys_or_values(name)]
        if ia3.target_modules is not None:
            targets = named_layers(layers, ia3.target_modules, f"{FIELD}.targetModules")
        elif ia3.feedforward_modules is not None:
            ends = named_layers(layers, ia3.feedforward_modules, f"{FIELD}.feedforwardModules")
            targets = list(dict.fromkeys([*ends, *targets]))
        targets = targets or list(layers)
        if ia3.feedforward_modules is not None:
            ends = named_layers(targets, ia3.feedforward_modules, f"{FIELD}.feedforwardModules")
        return targets, [name for name in ends if name in targets]


def _makes_keys_or_values(name: str) -> bool:
    last = name.rpartition(".")[2]
    return bool(KEYS_AND_VALUES.match(last) or JOINED.match(last))


def _ends_feed_forward(model: PreTrainedModel, name: str) -> bool:
    """Whether the layer brings a wider value back to the model's width. Only layers within lists of layers do."""
    from transformers.pytorch_utils import Conv1D

    layer: Any = model.get_submodule(name)
    rows, columns = layer.weight.shape
    taken, given = (rows, columns) if isinstance(layer, Conv1D) else (columns, rows)
    return taken > given and any(part.isdecimal() for part in name.split(".")) and not _makes_keys_or_values(name)
