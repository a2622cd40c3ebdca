"""Features of a frozen backbone are computed once, and training on them comes to what it comes to without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from support.methods import built, few, take_steps, with_method
from support.runs import ARun, WarmTrainer, a_run

if TYPE_CHECKING:
    from finetune_trainer.training.run import Run

pytestmark = pytest.mark.torch
STEPS = 3
KEPT = {
    "text-classification bert": {"last_hidden_state": "NOTHING", "pooler_output": "ALL"},
    "text-classification roberta": {"last_hidden_state": "FIRST"},
    "text-classification gpt2": {"last_hidden_state": "ALL"},
    "text-regression distilbert": {"last_hidden_state": "FIRST"},
    "token-classification bert": {"last_hidden_state": "ALL"},
    "question-answering distilbert": {"last_hidden_state": "ALL"},
    "image-classification-resnet": {"last_hidden_state": "NOTHING", "pooler_output": "ALL"},
    "image-classification-efficientnet": {"last_hidden_state": "NOTHING", "pooler_output": "ALL"},
    "image-classification-vit": {"last_hidden_state": "FIRST"},
    "audio-classification-wav2vec2": {"last_hidden_state": "ALL", "extract_features": "NOTHING"},
    "audio-classification-wav2vec2-layer-norm": {"last_hidden_state": "ALL", "extract_features": "NOTHING"},
    "automatic-speech-recognition-wav2vec2-layer-norm": {"last_hidden_state": "ALL", "extract_features": "NOTHING"},
}
"""What the head of each case reads of its backbone."""


def frozen(root: Path, name: str, cache: str = "Auto", **training: Any) -> ARun:
    dropout = {} if "resnet" in name else {"dropout": 0.1}
    run = few(name).run(root, maxSteps=STEPS, **dropout, **training)
    return with_method(run, type="freeze", freeze={"backbone": True, "cacheFeatures": cache})


def other(run: ARun, folder: str, cache: str) -> ARun:
    """The same run in another folder."""
    root = run.root / folder
    changed = {**run.config, "folder": str(root / "run"), "checkpointFolder": str(root / "checkpoints")}
    return with_method(ARun(root, changed), type="freeze", freeze={"backbone": True, "cacheFeatures": cache})


class Calls:
    """How often a run's backbone computes, by its first part that has weights."""

    def __init__(self, run: Run) -> None:
        self.count = 0
        base = getattr(run.model, str(run.model.base_model_prefix))
        next(base.children()).register_forward_hook(self._called)

    def _called(self, *_: Any) -> None:
        self.count += 1


def evaluated(run: Run) -> dict[str, float]:
    from finetune_trainer.training.evaluate import evaluate

    found = evaluate(run.model, run.task, run.test, run.world, run.stop)
    assert found is not None
    return found.report.metrics


def watch_what_is_kept(patch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """How much of each of the backbone's outputs each cache keeps from now on."""
    from finetune_trainer.training import features

    found: list[dict[str, str]] = []
    serve = features.Cache.serve

    def told(cache: features.Cache) -> None:
        found.append({name: kept.part.name for name, kept in cache.plan.kept.items()})
        serve(cache)

    patch.setattr(features.Cache, "serve", told)
    return found


@pytest.mark.parametrize(("name", "kept"), KEPT.items())
def test_training_on_features_is_training(
    name: str, kept: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights and metrics within 1e-5, dropout of the head included; the backbone is not asked again, and
    only what the head reads of it is kept.
    """
    import torch

    first, found = frozen(tmp_path, name), watch_what_is_kept(monkeypatch)
    runs = [built(first), built(other(first, "never", "Never"))]
    assert found == [kept]
    calls = [Calls(run) for run in runs]
    for run in runs:
        take_steps(run, STEPS)
    metrics = [evaluated(run) for run in runs]
    assert calls[0].count == 0
    assert calls[1].count > STEPS
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-5, rel=1e-5)
    # A bias that softmax takes no notice of moves by the rounding of its gradient, so biases are left out.
    for one, two in zip(*(run.parameters for run in runs), strict=True):
        if one.ndim > 1:
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("dataset", "freeze", "expected"),
    [
        pytest.param({}, {"backbone": True}, True, id="frozen"),
        pytest.param({}, {"backbone": True, "cacheFeatures": "Never"}, False, id="turned off"),
        pytest.param({}, {"layers": "0"}, False, id="layers"),
        pytest.param({"augment": {"text": {"wordDropout": 0.1}}}, {"backbone": True}, False, id="rows that change"),
    ],
)
def test_when_features_are_kept(dataset: dict[str, Any], freeze: dict[str, Any], expected: bool) -> None:
    from finetune_trainer.training.features import wanted

    run = a_run(Path("/run"), "./rows.csv", "./model").with_("dataset", **dataset)
    config = RunConfig.model_validate(with_method(run, type="freeze", freeze=freeze).config)
    assert wanted(config) is expected


def test_any_number_of_processes_comes_to_the_same(trainer: WarmTrainer, tmp_path: Path) -> None:
    """Each computes a share of the features, and reads those of the others."""
    one = frozen(tmp_path / "one", "question-answering distilbert")
    two = ARun(tmp_path / "two", {**one.config, "folder": str(tmp_path / "two" / "run")}).with_processes(2)
    two = ARun(two.root, {**two.config, "checkpointFolder": str(two.root / "checkpoints")})
    for run in (one, two):
        ended = trainer.run(run)
        assert ended.code == ExitCode.DONE, ended.log
        assert "rows were computed once" in ended.log
    metrics = [run.read("evaluation.json")["metrics"] for run in (one, two)]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-4)
