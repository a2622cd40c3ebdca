"""What a run will need is known before it starts: the estimate is compared with what the kernel measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune_api.run import RunConfig
from finetune_api.training import Optimizer, Training
from finetune_trainer.optimizer_bytes import state_bytes
from finetune_trainer.planning.footprint import GIB, Footprint, Need, Room, Sharing, Step, footprint
from finetune_trainer.planning.remedies import Change, remedy
from finetune_trainer.planning.room import quantity
from support.memory import enlarged, measured_peak
from support.methods import few
from support.runs import ARun, WarmTrainer

pytestmark = pytest.mark.torch
CLOSE = 0.25
"""Share by which an estimate may be off."""
CHECKPOINTING = {"spec.training.gradientCheckpointing": "Always"}
BF16 = {"spec.training.precision": "bf16"}
LORA = {"spec.method.type": "lora"}


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_the_bytes_of_an_optimizer_are_those_that_it_keeps(optimizer: Optimizer) -> None:
    import torch

    from finetune_trainer.training.optimizer import build_optimizer

    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Linear(128, 10))
    made = build_optimizer(model, Training(optimizer=optimizer))
    model(torch.ones(2, 64)).sum().backward()
    made.step()
    kept = [value for state in made.state.values() for name, value in state.items() if not name.startswith("qmap")]
    tensors = [value for value in kept if isinstance(value, torch.Tensor) and value.numel() > 1]
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) == sum(
        state_bytes(optimizer, weight.shape) for weight in model.parameters()
    )


STEP = Step(parameters=1000, weights=4000, trained=((10, 100),), peak=10_000, evaluated=500, layer=300)
NOTHING = Footprint(4000, 4000, 8000, 0, 6000, 0, 50)


@pytest.mark.parametrize(
    ("sharing", "expected"),
    [
        pytest.param(Sharing(1), NOTHING, id="one process"),
        pytest.param(Sharing(2), Footprint(4000, 4000, 8000, 0, 6000, 4000, 50), id="ddp sums in a copy"),
        pytest.param(Sharing(4, 2, True), Footprint(1000, 1000, 2000, 0, 6000, 900, 50), id="fsdp divides"),
    ],
)
def test_what_processes_share(sharing: Sharing, expected: Footprint) -> None:
    assert footprint(STEP, sharing, Optimizer.ADAMW, averaged=False, libraries=50) == expected


@pytest.mark.parametrize(
    ("need", "room", "fits"),
    [
        pytest.param(Need(None, 5), Room(None, 5), True, id="just"),
        pytest.param(Need(None, 6), Room(None, 5), False, id="the host"),
        pytest.param(Need(7, 1), Room(6, 5), False, id="a GPU"),
        pytest.param(Need(7, 1), Room(None, 5), True, id="nobody knows"),
    ],
)
def test_what_fits(need: Need, room: Room, fits: bool) -> None:
    assert need.fits(room) is fits


def takes(most: float) -> Callable[[Change], bool]:
    """Whether a run fits into `most`: 8 a row, half with each of two changes, and 32 without lora."""

    def fits(change: Change) -> bool:
        rows = change.get("spec.training.microBatchSize", 8)
        part = 0.5 ** sum(name in change for name in ("spec.training.gradientCheckpointing", "spec.training.precision"))
        return bool((0 if "spec.method.type" in change else 32) + 8 * rows * part <= most)

    return fits


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        pytest.param(96, {}, id="as it is"),
        pytest.param(64, {"spec.training.microBatchSize": 4}, id="fewer rows"),
        pytest.param(36, {"spec.training.microBatchSize": 1, **CHECKPOINTING}, id="and twice computed"),
        pytest.param(8, {"spec.training.microBatchSize": 1, **LORA}, id="what became needless is left out"),
        pytest.param(1, None, id="nothing helps"),
    ],
)
def test_what_costs_least_comes_first(most: float, expected: Mapping[str, Any] | None) -> None:
    assert remedy(8, [CHECKPOINTING, BF16, LORA], takes(most)) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("3Gi", 3 * GIB), ("500M", 500_000_000), ("1.5Ki", 1536), ("2000", 2000)]
)
def test_quantities_of_kubernetes(text: str, expected: int) -> None:
    assert quantity(text) == expected


SHAPES = {
    "text-classification bert": (
        "AutoModel",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536},
    ),
    "text-generation gpt2": ("AutoModelForCausalLM", {"n_embd": 384, "n_layer": 6, "n_head": 6}),
    "summarization t5": (
        "AutoModelForSeq2SeqLM",
        {"d_model": 512, "num_layers": 4, "d_ff": 2048, "num_heads": 8, "d_kv": 64},
    ),
    "image-classification-vit": (
        "AutoModelForImageClassification",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536},
    ),
}


def small_and_large(name: str, root: Path) -> tuple[ARun, ARun]:
    """A case of the matrix; and with a model of 10 to 30 million weights, and micro-batches that take about as much."""
    training = {"trainBatchSize": 128, "microBatchSize": 128}
    small = few(name, 160).run(root / "small", **training)
    run = ARun(root / "large", {**small.config, "folder": str(root / "large" / "run")})
    auto_class, shape = SHAPES[name]
    folder = enlarged(Path(run.config["model"]["uri"].removeprefix("file://")), root / "model", auto_class, shape)
    return small, run.with_("model", uri=folder.as_uri())


def estimated(run: ARun) -> int:
    """Bytes of a process, without the libraries."""
    from finetune_trainer.data.prepare import load_data
    from finetune_trainer.planning.plan import Planner
    from finetune_trainer.preflight import find_model
    from finetune_trainer.tasks import TASKS

    config = RunConfig.model_validate(run.config)
    planner = Planner(config, load_data(config), find_model(config, TASKS[config.task], weights=False), Room())
    own = planner.estimate(config).own
    return own.total - own.libraries


@pytest.mark.parametrize("name", SHAPES)
def test_the_estimate_is_within_a_quarter_of_the_measured_peak(trainer: WarmTrainer, tmp_path: Path, name: str) -> None:
    small, run = small_and_large(name, tmp_path)
    found, peak = estimated(run), measured_peak(trainer, small, run)
    print(f"{name}: estimated {found / 2**20:.0f} MiB, measured {peak / 2**20:.0f} MiB, {found / peak:.2f}")
    assert found == pytest.approx(peak, rel=CLOSE)
