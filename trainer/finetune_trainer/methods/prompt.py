"""prompt: embeddings that are learned stand before those of the text (Lester et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune_trainer.errors import ConfigError
from finetune_trainer.methods.virtual_tokens import PER_ROW, VirtualTokens

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

FIELD = "spec.method"


class PromptTuning(VirtualTokens):
    def configure(self, model: PreTrainedModel, task_type: str) -> PeftConfig:
        from peft import PromptTuningConfig

        if task_type == PER_ROW and hasattr(model, "score"):
            message = (
                f"{FIELD}.type: a {model.config.model_type} model labels a text by its last token, which peft does not"
                " find where embeddings stand before the text"
            )
            raise ConfigError("UnsupportedMethod", message, "use prefix, lora or ia3")
        return PromptTuningConfig(
            task_type=task_type,
            num_virtual_tokens=self.method.prompt.virtual_tokens,
            prompt_tuning_init="SAMPLE_VOCAB",
            token_dim=width(model),
            num_layers=model.config.num_hidden_layers,
            num_attention_heads=model.config.num_attention_heads,
            # Of encoder and decoder only the first reads the text.
            num_transformer_submodules=1,
        )

    def begin(self, model: PeftModel) -> None:
        """With the embeddings of the manifest's text, if it gives one."""
        text = self.method.prompt.init_text
        if text is not None:
            import torch

            whole: Any = model
            ids = self._tokens(text, model)
            with torch.no_grad():
                embeddings = whole.word_embeddings(torch.tensor(ids, device=whole.device))
                whole.prompt_encoder[whole.active_adapter].embedding.weight.copy_(embeddings)

    def _tokens(self, text: str, model: PeftModel) -> list[int]:
        """The text's tokens, from the start again until there are as many as are learned."""
        from transformers import AutoTokenizer

        base: Any = model.get_base_model()
        tokenizer = AutoTokenizer.from_pretrained(base.name_or_path)
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            message = f"{FIELD}.prompt.initText: the model's tokenizer sees nothing in {text!r}"
            raise ConfigError("NoTokens", message, "write a few words, or leave it out")
        count = self.method.prompt.virtual_tokens
        return (ids * -(-count // len(ids)))[:count]


def width(model: PreTrainedModel) -> int:
    """How many values an embedding has."""
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[1])
