"""Liger's kernels: used where they are, refused with words where they have to be used and are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.training import kernels
from support.runs import a_run

GENERATION = "text-generation"


def a_config(task: str, **training: str) -> RunConfig:
    run = a_run(Path("/nowhere"), "./rows.csv", "./model", **training)
    return RunConfig.model_validate({**run.config, "task": task})


REFUSED = {
    "another task": (
        ("text-classification", "llama", 1),
        "spec.training.kernels: Always is for preference-optimization and text-generation, and the task is"
        " text-classification",
    ),
    "another architecture": ((GENERATION, "gpt2", 1), "spec.training.kernels: Always: Liger has no kernels for a gpt2"),
    "no GPU": ((GENERATION, "llama", 0), "spec.training.kernels: Always: Liger's kernels need a GPU with CUDA, and"),
}


@pytest.mark.parametrize(("given", "said"), REFUSED.values(), ids=REFUSED)
def test_kernels_that_cannot_be_used_are_refused(given: tuple[str, str, int], said: str) -> None:
    task, model_type, gpus = given
    with pytest.raises(ConfigError) as caught:
        kernels.check_kernels(a_config(task, kernels="Always"), ModelFolder(Path(), model_type), gpus)
    assert caught.value.message.startswith(said)
    assert caught.value.hint
    assert caught.value.reason == "NotSupported"


def test_the_refusal_lists_the_architectures_that_have_some() -> None:
    with pytest.raises(ConfigError) as caught:
        kernels.check_kernels(a_config(GENERATION, kernels="Always"), ModelFolder(Path(), "gpt2"), 1)
    assert {"gemma2", "llama", "mistral", "qwen3"} <= set(caught.value.hint.replace(",", "").split())


def test_kernels_that_are_not_installed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda *_: None)
    with pytest.raises(ConfigError, match="liger-kernel is not installed") as caught:
        kernels.check_kernels(a_config(GENERATION, kernels="Always"), ModelFolder(Path(), "llama"), 1)
    assert caught.value.reason == "NotInstalled"


@pytest.mark.torch
def test_the_architectures_are_those_that_the_library_itself_names() -> None:
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN  # type: ignore[import-untyped]

    assert kernels.architectures() == set(MODEL_TYPE_TO_APPLY_LIGER_FN)


AUTO = {
    "on a GPU": ((GENERATION, "llama", {}, "cuda"), True),
    "on a CPU": ((GENERATION, "llama", {}, "cpu"), False),
    "for a model without any": ((GENERATION, "gpt2", {}, "cuda"), False),
    "where a model classifies": (("text-classification", "llama", {}, "cuda"), False),
    "where layers are compiled": ((GENERATION, "llama", {"compile": "Always"}, "cuda"), False),
    "where they are not wanted": ((GENERATION, "llama", {"kernels": "Never"}, "cuda"), False),
}


@pytest.mark.torch
@pytest.mark.parametrize(("given", "used"), AUTO.values(), ids=AUTO)
def test_kernels_are_used_by_themselves(given: tuple[str, str, dict[str, str], str], used: bool) -> None:
    import torch

    task, model_type, training, device = given
    config, model = a_config(task, **training), ModelFolder(Path(), model_type)
    assert kernels.uses_kernels(config, model, torch.device(device)) is used


@pytest.mark.torch
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_kernels_are_put_into_the_layers_and_never_into_the_loss(adapter: bool) -> None:
    """The norms of the model are Liger's, also below an adapter; what says tokens, and the model's forward, are not."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama import modeling_llama

    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=16, vocab_size=20, **sizes))
    module: torch.nn.Module = model
    if adapter:
        module = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    kept = modeling_llama.apply_rotary_pos_emb
    try:
        kernels.apply_kernels(module)
    finally:
        modeling_llama.apply_rotary_pos_emb = kept
    inner = model.model
    replaced = [inner.norm.forward, inner.layers[0].input_layernorm.forward, inner.layers[0].mlp.forward]
    assert all("liger" in forward.__func__.__module__ for forward in replaced)
    assert model.forward.__func__.__module__ == LlamaForCausalLM.__module__
    assert type(model.lm_head) is torch.nn.Linear
