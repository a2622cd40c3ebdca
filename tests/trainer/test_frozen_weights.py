"""Frozen matrices are kept in the type that they are multiplied in: the same to the last bit, in half the memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune_api.method import MethodType
from finetune_api.progress import ExitCode
from support.methods import built, few, predictions, take_steps, with_method
from support.runs import ARun, WarmTrainer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from finetune_trainer.training.run import Run

pytestmark = pytest.mark.torch
STEPS = 2
LORA: Mapping[str, Any] = {"type": "lora", "lora": {"r": 4}}
PREFIX: Mapping[str, Any] = {"type": "prefix", "prefix": {"virtualTokens": 4}}
CASES = [
    ("text-classification bert", LORA),
    ("text-classification gpt2", PREFIX),
    ("text-classification bert", {"type": "prompt", "prompt": {"virtualTokens": 4}}),
    ("text-generation gpt2", {"type": "ia3"}),
    ("text-generation qwen3", LORA),
    ("summarization t5", LORA),
    ("summarization t5", {"type": "freeze", "freeze": {"layers": "0"}}),
    ("image-classification-vit", LORA),
    ("audio-classification-wav2vec2", LORA),
]


def half(root: Path, case: str, method: Mapping[str, Any], **training: Any) -> ARun:
    run = few(case).run(root, maxSteps=STEPS, learningRate=1e-2, precision="bf16", **training)
    return with_method(run, **method)


def kept_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on runs are built as if nothing were kept narrow."""
    monkeypatch.setattr("finetune_trainer.training.build.narrow_type", lambda *_: None)


def trained(run: Run) -> dict[str, torch.Tensor]:
    return {name: item.detach().clone() for name, item in run.model.named_parameters() if item.requires_grad}


@pytest.mark.parametrize(("case", "method"), [pytest.param(*one, id=f"{one[1]['type']} of {one[0]}") for one in CASES])
def test_nothing_that_is_computed_changes(
    case: str, method: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights after two steps and predictions are those of a run whose frozen weights have 32 bits."""
    import torch

    narrow = built(half(tmp_path / "narrow", case, method))
    kept_wide(monkeypatch)
    wide = built(half(tmp_path / "wide", case, method))
    assert narrow.narrowed.layers.keys() > set()
    assert {item.dtype for part in narrow.narrowed.layers.values() for item in part.parameters()} == {torch.bfloat16}
    assert all(item.dtype is torch.float32 for item in wide.model.parameters())
    for run in (narrow, wide):
        take_steps(run, STEPS)
    torch.testing.assert_close(trained(narrow), trained(wide), rtol=0, atol=0)
    examples = narrow.test.examples[:4]
    assert predictions(narrow, narrow.model, examples) == predictions(wide, wide.model, examples)


@pytest.mark.parametrize(
    ("case", "method"),
    [
        pytest.param("text-classification bert", LORA, id="lora of an encoder"),
        pytest.param("text-classification bert", PREFIX, id="prefix, whose head is a copy"),
        pytest.param("summarization t5", LORA, id="lora of encoder and decoder"),
    ],
)
def test_the_saved_model_has_the_weights_of_its_file(
    case: str, method: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what has more digits than were kept; the file is read again only for those."""
    import torch

    from finetune_trainer.training.build import load
    from finetune_trainer.training.frozen_weights import widen

    run = built(half(tmp_path / "narrow", case, method))
    kept_wide(monkeypatch)
    wide = built(half(tmp_path / "wide", case, method))
    assert run.narrowed.lost
    widen(run.model, run.narrowed, lambda: load(run.task, run.config.training.seed)[0])
    torch.testing.assert_close(run.model.state_dict(), wide.model.state_dict(), rtol=0, atol=0)


def test_a_file_without_further_digits_is_not_read_again() -> None:
    import torch

    from finetune_trainer.training.frozen_weights import narrow, widen

    model = two_layers()
    weight = model.get_parameter("0.weight")
    weight.data = weight.data.bfloat16().float()
    expected = weight.data.clone()
    narrowed = narrow(model, {part: name for name, part in model.named_modules()}, torch.bfloat16)
    assert (list(narrowed.layers), narrowed.lost) == (["0"], False)

    def never() -> nn.Module:
        raise AssertionError("the file is read")

    widen(model, narrowed, never)
    assert weight.dtype is torch.float32
    assert torch.equal(weight, expected)


def two_layers() -> nn.Module:
    """One is frozen, one trained."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8))
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("method", "precision", "kind"),
    [
        ("lora", "bf16", "bfloat16"),
        ("freeze", "fp16", "float16"),
        ("lora", "fp32", None),
        ("lora", "fp8", None),
        ("dora", "bf16", None),
        ("qlora", "bf16", None),
    ],
)
def test_what_frozen_matrices_are_kept_in(method: str, precision: str, kind: str | None) -> None:
    """Not where their scales or lengths are read, too: fp8, dora; qlora has a type of its own."""
    import torch

    from finetune_trainer.training.frozen_weights import narrow_type

    expected = None if kind is None else getattr(torch, kind)
    assert narrow_type(MethodType(method), precision) is expected


def test_weights_that_others_read_as_well_stay_wide() -> None:
    """A word's row of an embedding is no factor of a product; the same weights say words in the last layer."""
    import torch
    from torch import nn

    from finetune_trainer.training.frozen_weights import held_bytes, narrowable

    words, says, inner = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False), nn.Linear(4, 4, bias=False)
    says.weight = words.weight
    model = nn.Sequential(words, inner, nn.LayerNorm(4), says).requires_grad_(False)
    assert list(narrowable(model)) == [inner]
    assert held_bytes(model, torch.bfloat16) == 4 * (40 + 8) + 2 * 16
    assert held_bytes(model, None) == 4 * (40 + 8 + 16)
    inner.requires_grad_(True)
    assert list(narrowable(model)) == []
    assert held_bytes(model, torch.bfloat16) == 4 * (40 + 8) + 16 * 16


@pytest.mark.parametrize("case", ["summarization t5", "automatic-speech-recognition-whisper"])
def test_a_run_that_writes_ends_with_a_model_that_transformers_loads(
    case: str, tmp_path: Path, trainer: WarmTrainer
) -> None:
    """Writing calls parts of a model by themselves: they compute in bf16 as well. What is merged has 32 bits."""
    from safetensors.torch import load_file

    run = half(tmp_path, case, LORA).with_("output", mergeAdapter=True)
    assert trainer.run(run).code == ExitCode.DONE
    files = [load_file(path) for path in run.folder.joinpath("model").glob("*.safetensors")]
    assert {str(item.dtype) for file in files for item in file.values()} == {"torch.float32"}
    before = load_file(next(Path(run.root, "model").glob("*.safetensors")))
    same = [name for file in files for name, item in file.items() if name in before and item.equal(before[name])]
    assert any("embed" in name or "shared" in name for name in same)
