"""Models that continue a text: what the tasks share that train one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.method import MethodType
from finetune_api.run import RunConfig
from finetune_trainer.data.rows import Row
from finetune_trainer.model_folder import ModelFolder, Part
from finetune_trainer.tasks import chat, pretrained, texts, writing
from finetune_trainer.tasks.base import Example, TaskKind

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


class CausalLanguageModel(TaskKind):
    """Examples have `row`, which prompts are made from when the model is asked to write."""

    auto_classes = ("AutoModelForCausalLM",)
    parts = (Part.TOKENIZER,)
    evaluation_rows = 8

    def __init__(self, source: ModelFolder, labels: Sequence[str], config: RunConfig) -> None:
        super().__init__(source, labels, config)
        self.tokenizer = pretrained.load_tokenizer(source)
        self.limit = texts.longest(source, self.tokenizer, config)
        writing.check_end(self.tokenizer)

    def load_model(self) -> tuple[PreTrainedModel, list[str]]:
        from transformers import AutoModelForCausalLM

        # The token for padding stays out of the model's configuration: the embedding that is named there is never
        # trained, and without a token of its own a model pads with the end of a text.
        config = pretrained.load_config(self.source, self.config)
        return pretrained.load_weights(AutoModelForCausalLM, self.source, self.config, config)

    def set_lengths(self, model: nn.Module, longest: int, ends: Sequence[int] = ()) -> None:
        """Let the model write `longest` tokens, but never more than half of what it takes: prompts need room too."""
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        writing.set_lengths(model, pad, max(1, min(longest, self.limit // 2)), ends=(end, *ends))

    def pad(self, sequences: Sequence[Sequence[int]], side: str = "right") -> dict[str, torch.Tensor]:
        """Tokens and attention mask, (sequences, longest)."""
        import torch

        width = max(map(len, sequences))
        ids = torch.full((len(sequences), width), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(sequences):
            part = slice(0, len(tokens)) if side == "right" else slice(width - len(tokens), width)
            ids[row, part], mask[row, part] = torch.as_tensor(tokens), 1
        return {"input_ids": ids, "attention_mask": mask}

    def refuse(self, row: Row) -> None:
        """Raise DataError for a row that is too long, if rows are not to be cut."""
        if not self.training.truncation:
            raise texts.too_long(row, self.limit, "row")

    def continued(self, model: nn.Module, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """What the model writes after the prompt of each example."""
        written = self.write(model, [chat.prompt(self.tokenizer, example["row"]) for example in examples])
        return [{"generated_text": text} for text in written]

    def write(self, model: nn.Module, prompts: Sequence[Sequence[int]]) -> list[str]:
        """What the model says after each prompt; of one that leaves no room to answer, after its last part."""
        settings: Any = model.generation_config
        kept = [list(prompt)[-(self.limit - (settings.max_new_tokens or 1)) :] for prompt in prompts]
        if self.config.method.type is MethodType.PROMPT:
            # Between the method's tokens and the text's, peft gives padding positions of its own.
            return [text for prompt in kept for text in self._continue(model, [prompt])]
        return self._continue(model, kept)

    def _continue(self, model: nn.Module, kept: Sequence[Sequence[int]]) -> list[str]:
        device = next(model.parameters()).device
        inputs = {name: tensor.to(device) for name, tensor in self.pad(kept, "left").items()}
        written, width = writing.write(model, inputs), inputs["input_ids"].shape[1]
        return [str(self.tokenizer.decode(tokens[width:], skip_special_tokens=True)) for tokens in written]

    def save(self, folder: Path) -> None:
        pretrained.save_tokenizer(self.tokenizer, folder)
