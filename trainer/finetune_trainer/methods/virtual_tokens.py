"""Tokens of the method's own before those of a row: what prompt and prefix tuning share.

They cannot be merged into a model's weights, and transformers alone does not put them on. `model/` therefore has the
adapter, and in `model/base` the pre-trained model with its trained head:

    PeftModel.from_pretrained(AutoModelFor….from_pretrained("model/base"), "model")

Where peft puts embeddings before the text's, its results have them too; the tasks read theirs by the places of a row's
own tokens, so `without_own_places` takes them away again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from finetune_api.method import Method
from finetune_trainer.methods.head import head_of

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel

BASE = "base"
"""The folder, in that of the model, of the pre-trained model with its trained head."""
BY_PLACES = ("logits", "start_logits", "end_logits")
"""Results of which a model gives one for each token, where it gives one for each token."""
PER_ROW = "SEQ_CLS"


class VirtualTokens(ABC):
    """The pre-trained part is frozen; what is learned are the virtual tokens and the head that labels."""

    def __init__(self, method: Method) -> None:
        self.method = method

    @abstractmethod
    def configure(self, model: PreTrainedModel, task_type: str) -> PeftConfig:
        """What peft is told. Raises ConfigError for a model that cannot have such tokens."""

    @abstractmethod
    def begin(self, model: PeftModel) -> None:
        """Set the values that the tokens begin with, where peft does not."""

    def prepare(self, model: PreTrainedModel, new: Collection[str]) -> nn.Module:
        from peft import get_peft_model

        head = head_of(model, new)
        wrapped = cast("PeftModel", get_peft_model(model, self.configure(model, task_type_of(model))))
        # A head that peft knows by its name is now a copy, which it trains; the others keep their names.
        for name, parameter in model.named_parameters():
            if name in head:
                parameter.requires_grad_(True)
        self.begin(wrapped)
        return without_own_places(wrapped)

    def save(self, module: nn.Module, folder: Path, merge_adapter: bool) -> None:
        """The adapter with its copy of the head, and beside it the base, whose head is the trained one."""
        assert not merge_adapter, "refused by the preflight"
        model = cast("PeftModel", module)
        for config in model.peft_config.values():
            config.base_model_name_or_path = BASE
        model.save_pretrained(str(folder), save_embedding_layers=False)
        base = model.get_base_model()
        _take_heads_back(base)
        cast("PreTrainedModel", base).save_pretrained(str(folder / BASE))


def load(base: PreTrainedModel, folder: Path) -> nn.Module:
    """The model that `save` left in `folder`, whose base was read from there."""
    from peft import PeftModel

    return without_own_places(PeftModel.from_pretrained(base, str(folder)))


def task_type_of(model: PreTrainedModel) -> str:
    """What peft calls the model's kind of answer."""
    if model.config.is_encoder_decoder:
        return "SEQ_2_SEQ_LM"
    endings = {
        "ForSequenceClassification": PER_ROW,
        "ForTokenClassification": "TOKEN_CLS",
        "ForQuestionAnswering": "QUESTION_ANS",
        "ForMaskedLM": "FEATURE_EXTRACTION",
    }
    named = (kind for ending, kind in endings.items() if type(model).__name__.endswith(ending))
    return next(named, "CAUSAL_LM")


def without_own_places(model: PeftModel) -> nn.Module:
    """The same model, whose results are those of the rows' own tokens."""
    config = model.active_peft_config
    adds_places = config.peft_type == "PROMPT_TUNING" and config.task_type not in (PER_ROW, "SEQ_2_SEQ_LM")
    if adds_places:
        own = config.num_virtual_tokens

        def drop(module: nn.Module, arguments: Sequence[Any], outputs: Any) -> Any:  # noqa: ARG001
            for name in BY_PLACES:
                if outputs.get(name) is not None:
                    outputs[name] = outputs[name][:, own:]
            return outputs

        model.register_forward_hook(drop)
    whole: nn.Module = model
    return whole


def _take_heads_back(model: nn.Module) -> None:
    """Put the trained copy of each head where the head was."""
    from peft.utils import ModulesToSaveWrapper

    wrapped = [(name, part) for name, part in model.named_modules() if isinstance(part, ModulesToSaveWrapper)]
    for name, part in wrapped:
        owner, _, last = name.rpartition(".")
        trained: Any = part.modules_to_save
        setattr(model.get_submodule(owner), last, trained["default"])
