"""qlora: low-rank adapters on weights of four bits (Dettmers et al. 2023).

The pre-trained weights are NF4, their scales quantized a second time, and computed with in bfloat16; adapters, head and
norms have 32 bits. It needs a GPU that bitsandbytes works on, which the preflight sees to.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.methods.lora import LowRank

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def four_bits() -> dict[str, Any]:
    """How `from_pretrained` is told to load the weights."""
    import torch
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    place = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": how, "dtype": torch.bfloat16, "device_map": {"": place}}


class Quantized(LowRank):
    """The model comes in four bits already, from `tasks.pretrained.load_weights`."""

    def prepare(self, model: PreTrainedModel, new: Collection[str]) -> nn.Module:
        from peft import prepare_model_for_kbit_training

        prepare: Any = prepare_model_for_kbit_training
        return super().prepare(prepare(model, use_gradient_checkpointing=False), new)

    def save(self, module: nn.Module, folder: Path, merge_adapter: bool) -> None:
        """The base in four bits, as it was trained and evaluated with, and the adapter beside it."""
        assert not merge_adapter, "refused by the preflight"
        super().save(module, folder, merge_adapter)
