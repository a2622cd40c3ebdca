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

import torch
from torch import nn

from finetune_api.run import RunConfig
from finetune_api.training import Use
from finetune_trainer.errors import ConfigError
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.training.padding import FIELD, obstacle
from finetune_trainer.training.padding_free.stack import Stack, stacks


def removes_padding(config: RunConfig, folder: ModelFolder, model: nn.Module, device: torch.device) -> bool:
    """Whether the run's texts are not padded; Auto where they need not be, on a CPU. Raises ConfigError if they have to
    be, and may not.
    """
    wanted = config.training.padding_free
    if wanted is Use.NEVER or (wanted is Use.AUTO and device.type != "cpu") or obstacle(config, folder) is not None:
        return False
    if wanted is Use.ALWAYS and not stacks(model):
        message = f"{FIELD}: Always is not possible: the model's attention is not one that could be replaced"
        raise ConfigError("NotSupported", message, "use Auto, which pads then")
    return bool(stacks(model))


def remove_padding(model: nn.Module) -> None:
    """From now on `model` computes texts without padding."""
    for stack in stacks(model):
        Stack(stack)
