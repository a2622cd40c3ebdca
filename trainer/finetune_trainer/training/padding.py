"""Which models can compute texts without padding; known before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_api.job import Task
from finetune_api.method import VIRTUAL_TOKENS
from finetune_api.run import RunConfig
from finetune_api.training import Use
from finetune_trainer.errors import ConfigError
from finetune_trainer.files import read_json
from finetune_trainer.methods.limits import READING
from finetune_trainer.model_folder import ModelFolder

FIELD = "spec.training.paddingFree"
SIDE_BY_SIDE = READING - {Task.PREFERENCE_OPTIMIZATION}
"""Tasks whose batches have the texts of each row side by side, in the order of the rows."""
STACKS: Mapping[str, tuple[str, ...]] = {
    "bart": ("BartEncoder", "BartDecoder"),
    "bert": ("BertModel",),
    "camembert": ("CamembertModel",),
    "distilbert": ("DistilBertModel",),
    "electra": ("ElectraModel",),
    "gpt2": ("GPT2Model",),
    "llama": ("LlamaModel",),
    "mbart": ("MBartEncoder", "MBartDecoder"),
    "mt5": ("MT5Stack",),
    "qwen2": ("Qwen2Model",),
    "qwen3": ("Qwen3Model",),
    "roberta": ("RobertaModel",),
    "t5": ("T5Stack",),
    "xlm-roberta": ("XLMRobertaModel",),
}
"""Model type to the classes of transformers that read tokens and say a state for each; each is tested."""


def obstacle(config: RunConfig, model: ModelFolder) -> str | None:
    """Why the texts of this run have to be padded; None if they need not be."""
    if config.task not in READING:
        return f"{config.task} does not read text alone"
    if config.method.type in VIRTUAL_TOKENS:
        return f"{config.method.type} puts tokens before those of each text"
    if model.model_type not in STACKS:
        return f"of a {model.model_type} model it is not known how; it is of {', '.join(STACKS)}"
    settings = read_json(model.path / "config.json")
    if isinstance(settings, Mapping) and settings.get("use_sliding_window"):
        return "the model's attention sees a window of each text (use_sliding_window)"
    return None


def check_padding(config: RunConfig, model: ModelFolder) -> None:
    """Raise ConfigError where texts are never to be padded, but have to be."""
    if config.training.padding_free is Use.ALWAYS and (why := obstacle(config, model)) is not None:
        raise ConfigError("NotSupported", f"{FIELD}: Always is not possible: {why}", "use Auto, which pads then")
