"""Schedules, optimizers and layers do what their names promise elsewhere."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from finetune_api.training import Optimizer, Scheduler, Training
from finetune_trainer.training.schedule import learning_rate_factor
from support import zoo

if TYPE_CHECKING:
    import torch
    from torch import nn

pytestmark = pytest.mark.torch
STEPS = 40


@pytest.mark.parametrize("warmup", [0, 8])
@pytest.mark.parametrize(
    ("kind", "theirs", "fields"),
    [
        pytest.param("linear", "get_linear_schedule_with_warmup", {}, id="linear"),
        pytest.param("cosine", "get_cosine_schedule_with_warmup", {}, id="cosine"),
        pytest.param("constant", "get_constant_schedule_with_warmup", {}, id="constant"),
        pytest.param("inverse_sqrt", "get_inverse_sqrt_schedule", {}, id="inverse_sqrt"),
        pytest.param("polynomial", "get_polynomial_decay_schedule_with_warmup", {"power": 3.0}, id="polynomial"),
    ],
)
def test_schedules_are_those_of_transformers(kind: str, theirs: str, fields: dict[str, float], warmup: int) -> None:
    """Beside the warm-up: theirs wastes the first step at a rate of zero."""
    import torch
    from transformers import optimization

    training = Training(lr_scheduler_type=Scheduler(kind), lr_scheduler_power=3.0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    total = {} if kind in {"constant", "inverse_sqrt"} else {"num_training_steps": STEPS}
    schedule = getattr(optimization, theirs)(optimizer, num_warmup_steps=warmup, **total, **fields)
    expected = [schedule.lr_lambdas[0](step) for step in range(STEPS)]
    ours = [learning_rate_factor(step, STEPS, warmup, training) for step in range(STEPS)]
    assert ours[warmup:] == pytest.approx(expected[warmup:], abs=1e-6)
    assert ours[: max(0, warmup - 1)] == pytest.approx(expected[1:warmup])


def a_small_model() -> nn.Module:
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(70, 80), nn.LayerNorm(80), nn.Linear(80, 3))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> list[float]:
    """Losses of further steps, each on rows of its own."""
    import torch

    losses = []
    for number in numbers:
        rows = torch.randn(16, 70, generator=torch.Generator().manual_seed(number))
        loss = model(rows).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def class_of(kind: str) -> type[torch.optim.Optimizer]:
    import bitsandbytes.optim
    import torch
    from transformers import optimization

    classes: dict[str, Any] = {
        "adamw": torch.optim.AdamW,
        "adamw_8bit": bitsandbytes.optim.AdamW8bit,
        "adafactor": optimization.Adafactor,
        "sgd": torch.optim.SGD,
        "lion": bitsandbytes.optim.Lion,
    }
    found: type[torch.optim.Optimizer] = classes[kind]
    return found


each_optimizer = pytest.mark.parametrize("kind", [kind.value for kind in Optimizer])


@each_optimizer
def test_every_optimizer_learns_and_is_restored_to_the_same_bytes(kind: str) -> None:
    import torch

    from finetune_trainer.training.optimizer import build_optimizer

    training = Training(optimizer=Optimizer(kind), learning_rate=1e-3)
    model = a_small_model()
    optimizer = build_optimizer(model, training)
    assert type(optimizer) is class_of(kind)
    losses = steps(model, optimizer, range(6))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, map_location="cpu", weights_only=True)
    other = a_small_model()
    other.load_state_dict(weights)
    restored = build_optimizer(other, training)
    restored.load_state_dict(state)
    assert steps(model, optimizer, range(6, 12)) == steps(other, restored, range(6, 12))
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))
    assert steps(model, optimizer, range(1)) < losses[:1]


@each_optimizer
def test_biases_and_norms_do_not_decay(kind: str) -> None:
    """A step without a gradient moves the matrices by the decay, and nothing else."""
    import torch

    from finetune_trainer.training.optimizer import build_optimizer

    model = a_small_model()
    optimizer = build_optimizer(model, Training(optimizer=Optimizer(kind), learning_rate=0.1, weight_decay=0.5))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=name)


def test_the_fields_of_an_optimizer_reach_it() -> None:
    from finetune_trainer.training.optimizer import build_optimizer

    fields = {"adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-4, "momentum": 0.5}
    made = {
        kind.value: build_optimizer(a_small_model(), Training(optimizer=kind, **fields)).param_groups[0]  # type: ignore[arg-type]
        for kind in Optimizer
    }
    assert [(made[kind]["betas"], made[kind]["eps"]) for kind in ("adamw", "adamw_8bit")] == [((0.8, 0.9), 1e-4)] * 2
    assert (made["lion"]["betas"], made["sgd"]["momentum"]) == ((0.8, 0.9), 0.5)
    defaults = build_optimizer(a_small_model(), Training(optimizer=Optimizer.LION)).param_groups[0]
    assert defaults["betas"] == (0.9, 0.99)


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], nn.Module]:
    """A small model of one of the zoo's kinds, as its configuration describes it."""

    def make(kind: str) -> nn.Module:
        import transformers

        folder = zoo.save(kind, tmp_path_factory.mktemp(kind), ["a text of words"] * 50)
        config = transformers.AutoConfig.from_pretrained(folder)
        model: nn.Module = getattr(transformers, config.architectures[0])(config)
        return model

    return make


@pytest.mark.parametrize(
    ("kind", "depths"),
    [
        pytest.param(
            "bert",
            {
                "pooler.dense.weight": 0,
                "encoder.layer.1.output.dense.weight": 1,
                "encoder.layer.0.output.dense.weight": 2,
                "embeddings.word_embeddings.weight": 3,
            },
            id="bert",
        ),
        pytest.param(
            "gpt2",
            {"transformer.ln_f.weight": 0, "transformer.h.0.ln_1.weight": 2, "transformer.wte.weight": 3},
            id="gpt2",
        ),
        pytest.param(
            "t5",
            {
                "decoder.final_layer_norm.weight": 0,
                "encoder.block.1.layer.0.SelfAttention.q.weight": 1,
                "decoder.block.0.layer.0.SelfAttention.q.weight": 2,
                "shared.weight": 3,
            },
            id="encoder and decoder side by side",
        ),
        pytest.param(
            "resnet",
            {"encoder.stages.1.layers.0.shortcut.convolution.weight": 1, "embedder.embedder.convolution.weight": 3},
            id="stages of convolutions",
        ),
        pytest.param(
            "wav2vec2",
            {"encoder.layers.1.attention.k_proj.weight": 1, "feature_extractor.conv_layers.0.conv.weight": 3},
            id="convolutions below layers",
        ),
        pytest.param(
            "clip",
            {"logit_scale": 0, "text_projection.weight": 0, "vision_model.encoder.layers.1.layer_norm1.weight": 1},
            id="two towers",
        ),
    ],
)
def test_the_depth_of_a_weight(kind: str, depths: dict[str, int], architecture: Callable[[str], nn.Module]) -> None:
    from finetune_trainer.training.layers import Layers

    layers = Layers(architecture(kind))
    assert {name: layers.depth(name) for name in depths} == depths
    assert layers.deepest == 3


def test_a_model_without_layers_is_refused() -> None:
    from finetune_trainer.errors import ConfigError
    from finetune_trainer.training.layers import Layers

    with pytest.raises(ConfigError, match="no list of layers"):
        Layers(a_small_model())


def test_each_layer_has_its_learning_rate(architecture: Callable[[str], nn.Module]) -> None:
    """The head all of it, a factor less from layer to layer, also after the schedule has changed it."""
    from finetune_trainer.training.optimizer import build_optimizer, set_learning_rate

    model = architecture("bert")
    optimizer = build_optimizer(model, Training(learning_rate=0.1, layerwise_lr_decay=0.5))
    set_learning_rate(optimizer, 0.01)
    names = {parameter: name for name, parameter in model.named_parameters()}
    rates = {names[item]: group["lr"] for group in optimizer.param_groups for item in group["params"]}
    assert rates.keys() == set(names.values())
    assert {rate for name, rate in rates.items() if "pooler" in name} == {0.01}
    assert {rate for name, rate in rates.items() if ".layer.1." in name} == {0.005}
    assert {rate for name, rate in rates.items() if ".layer.0." in name} == {0.0025}
    assert {rate for name, rate in rates.items() if "embeddings" in name} == {0.00125}
