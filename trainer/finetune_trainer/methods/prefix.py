"""prefix: keys and values that are learned stand before those of the text, in every layer (Li and Liang 2021)."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from finetune_trainer.errors import ConfigError
from finetune_trainer.methods.prompt import FIELD, width
from finetune_trainer.methods.virtual_tokens import VirtualTokens

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

PAST = "past_key_values"


class PrefixTuning(VirtualTokens):
    """In a model of encoder and decoder the decoder has them."""

    def configure(self, model: PreTrainedModel, task_type: str) -> PeftConfig:
        from peft import PrefixTuningConfig

        whole: Any = model
        reads = whole.get_decoder() if model.config.is_encoder_decoder else whole.base_model
        if PAST not in inspect.signature(reads.forward).parameters:
            message = f"{FIELD}.type: a {model.config.model_type} model takes no keys and values from outside"
            raise ConfigError("UnsupportedMethod", message, "use prompt, lora or ia3")
        count = self.method.prefix.virtual_tokens
        sizes: Any = _sizes(model)
        return PrefixTuningConfig(task_type=task_type, num_virtual_tokens=count, **sizes)

    def begin(self, model: PeftModel) -> None:
        """At random, as peft does."""


def _sizes(model: PreTrainedModel) -> dict[str, int]:
    """Layers, heads and width of a decoder's keys, where peft takes those of the encoder."""
    config: Any = model.config
    if not config.is_encoder_decoder:
        return {}
    layers = getattr(config, "num_decoder_layers", None) or config.decoder_layers
    heads = getattr(config, "decoder_attention_heads", None) or config.num_attention_heads
    keys = getattr(config, "d_kv", None) or width(model) // heads
    return {"num_layers": int(layers), "num_attention_heads": int(heads), "token_dim": int(heads * keys)}
