"""What each precision computes in, what it costs in exactness, and who may have it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_api.training import Precision
from finetune_trainer.errors import ConfigError
from finetune_trainer.preflight import check_inputs
from finetune_trainer.training.precision import check_precision, choose_precision, multiplies_bf16
from support.runs import ARun, WarmTrainer

if TYPE_CHECKING:
    import torch
    from torch import nn

pytestmark = pytest.mark.torch
LOW = [pytest.param("bf16", id="bf16"), pytest.param("fp16", id="fp16")]


def a_model(width: int = 64) -> nn.Module:
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5000, width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def the_cpu() -> torch.device:
    import torch

    return torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param("fpu avx512f avx512_bf16 avx2", True, id="avx512"),
        pytest.param("fpu amx_bf16 amx_tile", True, id="amx"),
        pytest.param("fpu avx2 avx512f", False, id="neither"),
        pytest.param(None, False, id="no such file"),
    ],
)
def test_bf16_is_known_by_the_processors_flags(flags: str | None, expected: bool, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    if flags is not None:
        path.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert multiplies_bf16(path) is expected


@pytest.mark.parametrize(
    ("able", "width", "expected"),
    [
        pytest.param(True, 64, "fp32", id="a small model gains nothing"),
        pytest.param(True, 2300, "bf16", id="a large one does"),
        pytest.param(False, 2300, "fp32", id="not on any processor"),
    ],
)
def test_auto_is_bf16_where_it_pays(able: bool, width: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings do not count: they are looked up, not multiplied with."""
    import torch

    monkeypatch.setattr("finetune_trainer.training.precision.multiplies_bf16", lambda: able)
    with torch.device("meta"):
        model = a_model(width)
    assert choose_precision(Precision.AUTO, model, the_cpu()).value == expected
    assert choose_precision(Precision.FP32, model, the_cpu()) is Precision.FP32


@pytest.mark.parametrize(
    ("gpus", "method", "why"),
    [
        pytest.param(0, "full", r"spec\.training\.precision: fp8 needs a GPU of compute capability 8\.9", id="no GPU"),
        pytest.param(1, "qlora", r"spec\.training\.precision: the weights of qlora have four bits", id="four bits"),
        pytest.param(1, "full", None, id="a GPU"),
    ],
)
def test_fp8_is_refused_before_torch_is_imported(gpus: int, method: str, why: str | None, small_run: ARun) -> None:
    run = ARun(small_run.root, {**small_run.config, "method": {"type": method}}).with_("training", precision="fp8")
    config = RunConfig.model_validate(run.config)
    if why is None:
        check_precision(config, gpus)
        return
    with pytest.raises(ConfigError, match=why) as refused:
        check_precision(config, gpus)
    assert (refused.value.reason, bool(refused.value.hint)) == ("NotSupported", True)


def test_a_run_that_asks_for_fp8_on_a_cpu_ends_before_its_rows_are_read(small_run: ARun) -> None:
    run = small_run.with_("training", precision="fp8").with_("dataset", train=[{"uri": "file:///nowhere.csv"}])
    with pytest.raises(ConfigError, match="fp8 needs a GPU"):
        check_inputs(RunConfig.model_validate(run.config), None)


def test_fp8_is_for_wide_linear_layers() -> None:
    """They compute about what they did, emulated; what is saved has the names and the bits it had."""
    import torch

    from finetune_trainer.training.precision import compute_in

    model, rows = a_model(), torch.arange(40).reshape(4, 10)
    expected, names = model(rows).detach(), list(model.state_dict())
    compute_in(model, "fp8", the_cpu(), emulate=True)
    from torchao.float8.float8_linear import Float8Linear  # the trainer hides it from all but fp8

    assert [type(part) is Float8Linear for part in model] == [False, True, False, False]  # type: ignore[attr-defined]
    found = model(rows)
    assert found.dtype is torch.float32
    assert 1e-4 < (found - expected).abs().max() < 0.1
    found.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("precision", LOW)
def test_weights_that_are_cast_once_a_step_have_the_same_gradient(precision: str) -> None:
    """To the last bit, and also after a pass without a gradient, whose casts lead nowhere."""
    import torch

    from finetune_trainer.training.precision import compute_in, kept_casts

    model = a_model()
    compute_in(model, precision, the_cpu())
    parts = [torch.arange(10 * number, 10 * number + 40).reshape(4, 10) for number in range(3)]

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        for part in parts:
            with torch.no_grad():
                model(part)
            model(part).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    expected = gradients()
    with kept_casts(model):
        found = gradients()
    assert len(found) == len(list(model.parameters()))
    assert all(map(torch.equal, found, expected))
    with torch.no_grad():
        before = model(parts[0])
        model[3].weight.mul_(2.0)  # type: ignore[index,operator,union-attr]
        assert not torch.equal(model(parts[0]), before)


def beside(run: ARun, name: str) -> ARun:
    folder = run.root.parent / name
    paths = {"folder": str(folder), "checkpointFolder": str(folder / "checkpoints"), "baseFolder": str(folder.parent)}
    return ARun(folder, {**run.config, **paths})


def without_time(run: ARun) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name not in {"time", "tokens_per_second", "timestamp"}}
        for line in run.lines("metrics.jsonl")
    ]


@pytest.mark.parametrize("precision", LOW)
def test_it_learns_and_resumes_to_the_same_bytes(precision: str, trainer: WarmTrainer, small_run: ARun) -> None:
    run = small_run.with_("training", precision=precision, learningRate=6e-3, numTrainEpochs=4)
    other = beside(run, f"other-{precision}")
    ended = trainer.run(other)
    assert ended.code == ExitCode.DONE, ended.log
    assert ended.outcome.metrics["test_accuracy"] >= ended.outcome.metrics["test_baseline_accuracy"] + 0.2
    assert other.read("run.json")["choices"]["precision"] == precision
    attempt = trainer.start(run)
    attempt.until_step(20)
    attempt.send(signal.SIGTERM)
    assert attempt.end().code == ExitCode.PREEMPTED
    assert trainer.run(run.with_("job", attempt=2)).code == ExitCode.DONE
    assert run.weights() == other.weights()
    assert without_time(run) == without_time(other)
    if precision == "fp16":
        scale = without_time(run)[0]
        assert scale["loss_scale"] > 0


def an_optimizer(model: nn.Module, kind: str) -> torch.optim.Optimizer:
    import torch

    made: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "fused": lambda: torch.optim.AdamW(model.parameters(), fused=True),
        "not fused": lambda: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    }
    return made[kind]()


@pytest.mark.parametrize("kind", ["fused", "not fused"])
def test_a_step_that_overflows_is_left_out_and_told(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither weights nor means move; the scale halves; the norm stays that of the last step that was taken."""
    import torch

    from finetune_trainer.training.scaling import LossScale
    from finetune_trainer.training.updating import scale_gradients, total_norm

    model = a_model()
    optimizer, scaler = an_optimizer(model, kind), LossScale(True, the_cpu())
    parameters = list(model.parameters())

    def step(worth: float) -> float:
        loss = model(torch.arange(8)).square().mean() * worth
        scaler.scaled(loss).backward()
        scaler.unscale(optimizer)
        norm = total_norm(parameters)
        scale_gradients(optimizer, parameters, [], torch.tensor(0.5))
        norm = scaler.step(optimizer, norm)
        optimizer.zero_grad()
        return norm.item()

    norm = step(1.0)
    before = [parameter.detach().clone() for parameter in parameters]
    moved = [tensor.clone() for state in optimizer.state.values() for tensor in state.values()]
    assert step(1e38) == norm
    assert all(map(torch.equal, parameters, before))
    assert all(map(torch.equal, [t for state in optimizer.state.values() for t in state.values()], moved))
    caplog.set_level("INFO")
    assert scaler.report() == {"loss_scale": 32768.0, "skipped_steps": 1}
    assert "the gradients of 1 steps overflowed" in caplog.text
    resumed = LossScale(True, the_cpu())
    resumed.load(scaler.state())
    assert resumed.state() == scaler.state()
    assert step(1.0) != norm
    assert not all(map(torch.equal, parameters, before))
