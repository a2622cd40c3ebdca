"""torch.compile of a model's layers: the same numbers, one translation for all layers, and refused with words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune_api.run import RunConfig
from finetune_api.training import Use
from finetune_trainer.errors import ConfigError
from finetune_trainer.training import compiling
from support.debian import ensure
from support.runs import a_run

if TYPE_CHECKING:
    import torch
    from torch import nn


@pytest.fixture(autouse=True, scope="module")
def with_compiler() -> None:
    ensure("g++")


def a_config(strategy: str = "auto", **training: str) -> RunConfig:
    run = a_run(Path("/nowhere"), "./rows.csv", "./model", **training).with_("parallelism", strategy=strategy)
    return RunConfig.model_validate(run.config)


REFUSED = {
    "texts without padding": (
        {"paddingFree": "Always"},
        "spec.training.compile: Always cannot go with spec.training.paddingFree: Always",
    ),
    "kernels": ({"kernels": "Always"}, "spec.training.compile: Always cannot go with spec.training.kernels: Always"),
    "fsdp": ({"strategy": "fsdp"}, "spec.training.compile: Always cannot go with spec.parallelism.strategy: fsdp"),
}


@pytest.mark.parametrize(("given", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_go_together_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compiling.check_compile(a_config(**{"compile": "Always", **given}), gpus=0)
    assert (caught.value.reason, caught.value.message.startswith(said)) == ("NotSupported", True)
    compiling.check_compile(a_config(**given), gpus=0)


@pytest.mark.torch
@pytest.mark.parametrize("there", [True, False])
def test_headers_are_translated_ahead_only_where_openssl_can_tell_them_apart(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch takes it for granted, and ends a run where it is missing."""
    from torch import nn
    from torch._inductor import config as inductor

    if there:
        (tmp_path / "openssl").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with inductor.patch(cpp_cache_precompile_headers=not there):
        compiling.compile_layers(nn.Linear(1, 1), Use.ALWAYS, None)
        assert inductor.cpp_cache_precompile_headers is there


@pytest.mark.parametrize(("gpus", "variable"), [(0, "CXX"), (1, "CC")], ids=["on a CPU", "on a GPU"])
def test_a_missing_compiler_is_refused(gpus: int, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "no-such-compiler")
    with pytest.raises(ConfigError) as caught:
        compiling.check_compile(a_config(compile="Always"), gpus)
    assert caught.value.reason == "NoCompiler"
    assert (
        caught.value.message == "spec.training.compile: Always needs a compiler, and this image has no no-such-compiler"
    )
    compiling.check_compile(a_config(compile="Auto"), gpus)


def a_model(layers: int = 3) -> Any:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": layers}
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    return BertForSequenceClassification(BertConfig(vocab_size=100, **sizes, **dropout)).train()


CHOSEN = {
    "a long run on a GPU": (("Auto", "cuda", 1_000, "ddp", False), True),
    "a short run on a GPU": (("Auto", "cuda", 999, "ddp", False), False),
    "on a CPU": (("Auto", "cpu", 100_000, "ddp", False), False),
    "texts without padding": (("Auto", "cuda", 1_000, "ddp", True), False),
    "in parts": (("Auto", "cuda", 1_000, "fsdp", False), False),
    "always": (("Always", "cpu", 1, "ddp", True), True),
    "never": (("Never", "cuda", 1_000, "ddp", False), False),
}


@pytest.mark.torch
@pytest.mark.parametrize(("given", "expected"), CHOSEN.values(), ids=CHOSEN)
def test_what_is_compiled_by_itself(
    given: tuple[str, str, int, str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("CC", "sh")
    wanted, device, steps, strategy, special = given
    training = a_config(compile=wanted).training
    assert compiling.compiles(training, a_model(2), torch.device(device), steps, strategy, special) is expected


@pytest.mark.torch
def test_models_that_cannot_be_compiled_are_refused() -> None:
    """Those without layers that repeat, and those whose batch norms look at all rows of a step."""
    import torch
    from torch import nn

    training, reasons = a_config(compile="Always").training, []
    for model in (nn.Linear(2, 2), nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))):
        with pytest.raises(ConfigError) as caught:
            compiling.compiles(training, model, torch.device("cpu"), 10, "ddp", special=False)
        reasons.append(caught.value.message.rpartition(": ")[2])
    assert reasons == ["the model has no layers that repeat", "batch norms take the rows of a step together"]


def gradient(model: nn.Module, rows: int, length: int) -> torch.Tensor:
    """By all parameters, of rows with padding."""
    import torch

    ids = torch.arange(rows * length).reshape(rows, length) % 100
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    model.zero_grad()
    model(input_ids=ids, attention_mask=mask).logits.pow(2).sum().backward()
    return torch.cat([item.grad.flatten() for item in model.parameters() if item.grad is not None])


@pytest.mark.torch
def test_compiled_layers_give_the_same_gradient_with_one_translation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For three layers and batches of several shapes; evaluation goes on without it, to the last bit."""
    import torch
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "ours"))
    plain, compiled = a_model(), a_model()
    compiling.compile_layers(compiled, Use.ALWAYS, None)
    counters.clear()
    for shape in ((3, 7), (4, 9), (2, 2), (6, 6)):
        torch.testing.assert_close(gradient(compiled, *shape), gradient(plain, *shape), rtol=1e-4, atol=1e-6)
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(ids).logits, plain.eval()(ids).logits, rtol=0, atol=0)
    assert (counters["stats"]["unique_graphs"], dict(counters["graph_break"])) == (1, {})
    assert any((tmp_path / "ours").rglob("*.so"))


@pytest.mark.torch
def test_layers_that_cannot_be_translated_end_only_a_run_that_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler fails: with Auto the layers are computed as they are, to the last bit."""
    import torch
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor
    from torch._inductor.exc import InductorError

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    expected = gradient(a_model(), 3, 7)
    with inductor.patch({"cpp.cxx": ("false",)}), dynamo.patch(suppress_errors=False):
        for wanted in (Use.AUTO, Use.ALWAYS):
            torch._dynamo.reset()
            model = a_model()
            compiling.compile_layers(model, wanted, None)
            if wanted is Use.AUTO:
                torch.testing.assert_close(gradient(model, 3, 7), expected, rtol=0, atol=0)
            else:
                with pytest.raises(InductorError):
                    gradient(model, 3, 7)
    torch._dynamo.reset()
