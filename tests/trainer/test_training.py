"""What the optimization is asked for, it does: in whole runs of the real trainer, and exactly so after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune_api.progress import ExitCode
from finetune_api.training import Use
from finetune_trainer.errors import ConfigError
from support import zoo
from support.corpora.files import write_json_lines
from support.models import sentences, write_rows
from support.runs import ARun, WarmTrainer, a_run

if TYPE_CHECKING:
    import torch
    from torch import nn

pytestmark = pytest.mark.torch
EPOCH = 6
"""Steps: 90 training rows in batches of 16."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """90 rows to train on, 60 others to evaluate on, and these with wrong labels."""
    folder, rows = tmp_path_factory.mktemp("rows"), sentences(150)
    labels = sorted({label for _, label in rows})
    wrong = [(text, labels[labels.index(label) - 1]) for text, label in rows[90:]]
    made = {"train": rows[:90], "held": rows[90:], "wrong": wrong}
    return {name: write_rows(folder / f"{name}.csv", some) for name, some in made.items()}


@pytest.fixture
def run(tmp_path: Path, files: dict[str, Path], models: Callable[[str], Path]) -> ARun:
    """Validation and test rows are the same, so that their metrics can be compared."""
    held = {"sources": [{"uri": files["held"].as_uri()}]}
    run = a_run(tmp_path, files["train"].as_uri(), models("bert").as_uri(), numTrainEpochs=4)
    return run.with_("dataset", validation=held, test=held)


def finished(trainer: WarmTrainer, run: ARun) -> ARun:
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    return run


def beside(run: ARun, name: str) -> ARun:
    """The same run in another folder."""
    root = run.root / name
    own = {"folder": str(root / "run"), "checkpointFolder": str(root / "run" / "checkpoints")}
    return ARun(root, {**run.config, **own})


def validations(run: ARun, metric: str) -> dict[int, float]:
    """The metric of each evaluation by its step."""
    lines = [line for line in run.lines("metrics.jsonl") if f"validation_{metric}" in line]
    return {line["step"]: line[f"validation_{metric}"] for line in lines}


def best_folders(run: ARun) -> list[str]:
    return sorted(path.name for path in run.checkpoints.glob("best-*"))


@pytest.fixture
def worsening(run: ARun, files: dict[str, Path]) -> ARun:
    """The more it learns, the worse it is at rows whose labels are wrong: its first evaluation is its best."""
    held = {"sources": [{"uri": files["wrong"].as_uri()}]}
    run = run.with_("dataset", validation=held, test=held, dedup={"acrossSplits": False})
    return run.with_("training", learningRate=1e-3).with_("evaluation", metricForBestModel="loss")


def test_the_best_weights_are_tested_and_saved(trainer: WarmTrainer, worsening: ARun) -> None:
    """The last evaluation is worse, yet the test has the numbers of the best; of two processes both go back to it."""
    run = finished(trainer, worsening.with_processes(2))
    losses, evaluation = validations(run, "loss"), run.read("evaluation.json")
    best = min(losses, key=lambda step: losses[step])
    assert best < max(losses)
    assert evaluation["best"] == {
        "metric": "validation_loss",
        "value": losses[best],
        "step": best,
        "restored": True,
    }
    assert evaluation["metrics"]["test_loss"] == pytest.approx(losses[best], rel=1e-5)
    assert best_folders(run) == [f"best-{best}"]
    assert run.weights() != (run.checkpoints / f"step-{max(losses)}" / "model.safetensors").read_bytes()


def test_without_best_weights_the_last_are_tested(trainer: WarmTrainer, worsening: ARun) -> None:
    """keepBest: 0. What was best is told all the same."""
    run = finished(trainer, worsening.with_("checkpoint", keepBest=0))
    losses, evaluation = validations(run, "loss"), run.read("evaluation.json")
    assert evaluation["metrics"]["test_loss"] == pytest.approx(losses[max(losses)], rel=1e-5)
    assert evaluation["best"]["restored"] is False
    assert best_folders(run) == []


def test_it_stops_early(trainer: WarmTrainer, run: ARun) -> None:
    """After the first evaluation that does not improve enough; the run is finished, and says where it ended."""
    stopping = {"patience": 1, "threshold": 100.0}
    ended = trainer.run(run.with_("evaluation", earlyStopping=stopping))
    assert ended.code == ExitCode.DONE, ended.log
    assert "stopped at step 12 of 24: 1 evaluations were not better than validation_accuracy" in ended.log
    progress = run.read("status.json")["progress"]
    assert (progress["step"], progress["totalSteps"], progress["percentage"], progress["etaSeconds"]) == (
        12,
        24,
        100,
        0,
    )
    assert run.read("evaluation.json")["stoppedEarly"] == {"step": 12, "totalSteps": 24}
    assert sorted(validations(run, "loss")) == [EPOCH, 2 * EPOCH]


EVERYTHING = {
    "optimizer": "adamw_8bit",
    "learningRate": 3e-3,
    "numTrainEpochs": 8,
    "ema": 0.8,
    "layerwiseLrDecay": 0.8,
    "gradualUnfreezing": {"everySteps": 4},
    "gradientCheckpointing": "Always",
    "lrSchedulerType": "polynomial",
    "warmupRatio": 0.1,
}


def without_time(run: ARun) -> list[dict[str, Any]]:
    lines = run.lines("metrics.jsonl")
    return [{name: line[name] for name in line if name not in {"time", "tokens_per_second"}} for line in lines]


def test_killed_with_everything_on_it_ends_with_the_same_bytes(trainer: WarmTrainer, run: ARun) -> None:
    """Average, optimizer in 8 bits, unfreezing, patience and best weights all go on where they were."""
    run = run.with_("training", **EVERYTHING).with_("evaluation", earlyStopping={"patience": 2, "threshold": 100.0})
    run = run.with_("checkpoint", everySteps=7)
    other = finished(trainer, beside(run, "undisturbed"))
    attempt = trainer.start(run)
    attempt.until_step(13)
    attempt.vanish()
    finished(trainer, run.with_("job", attempt=2))
    assert run.read("status.json")["checkpoint"]["resumedFromStep"] > 0
    assert run.weights() == other.weights()
    assert without_time(run) == without_time(other)
    assert best_folders(run) == best_folders(other) != []
    stopped = {"step": 18, "totalSteps": 48}
    assert [one.read("evaluation.json")["stoppedEarly"] for one in (run, other)] == [stopped, stopped]


def test_the_average_of_the_weights_is_saved(trainer: WarmTrainer, run: ARun) -> None:
    """Not the weights themselves; it is evaluated, too, which the best metric shows."""
    from safetensors.torch import load_file

    finished(trainer, run.with_("training", ema=0.9, numTrainEpochs=1))
    checkpoint = run.checkpoints / f"step-{EPOCH}"
    average, raw = load_file(checkpoint / "average.safetensors"), load_file(checkpoint / "model.safetensors")
    saved = load_file(run.folder / "model" / "model.safetensors")
    assert saved.keys() == average.keys()
    assert all((saved[name] == average[name]).all() for name in saved)
    assert any((saved[name] != raw[name]).any() for name in saved)
    evaluation = run.read("evaluation.json")
    assert evaluation["metrics"]["test_loss"] == pytest.approx(validations(run, "loss")[EPOCH], rel=1e-5)


def test_the_average_follows_the_weights() -> None:
    """With a decay that grows to the one that was asked for; buffers of norms are averaged, counters copied."""
    import torch

    from finetune_trainer.training.averaging import WeightAverage

    model = torch.nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.5)
    expected, mean = torch.ones(2), torch.zeros(2)
    for step, decay in enumerate((0.1, 2 / 11, 0.25)):
        with torch.no_grad():
            model.weight += 1.0
            model(torch.full((4, 2), float(step)))
        average.update(step)
        expected = decay * expected + (1 - decay) * model.weight.detach()
        mean = decay * mean + (1 - decay) * model.running_mean
    torch.testing.assert_close(average.tensors["weight"], expected)
    torch.testing.assert_close(average.tensors["running_mean"], mean)
    assert average.tensors["num_batches_tracked"] == 3
    raw = model.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight.detach(), raw)


def test_layers_are_unfrozen_from_the_top(trainer: WarmTrainer, run: ARun) -> None:
    """In three steps the head has moved, then the upper layer; what lies below is bit for bit the pre-trained."""
    from safetensors.torch import load_file

    unfreezing = {"gradualUnfreezing": {"everySteps": 2}, "gradientCheckpointing": "Always"}
    run = run.with_("training", maxSteps=3, **unfreezing).with_("evaluation", strategy="Never").with_processes(2)
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    assert "the run ends before all layers are trained: it comes to 2 of 4" in ended.log
    before = load_file(Path(run.config["model"]["uri"].removeprefix("file://")) / "model.safetensors")
    after = load_file(run.folder / "model" / "model.safetensors")
    moved = {name for name in before if (before[name] != after[f"bert.{name}"]).any()}
    assert all(".layer.1." in name or "pooler" in name for name in moved)
    assert {"pooler.dense.weight", "encoder.layer.1.output.dense.weight"} <= moved


class Counted:
    """How often a module computed something."""

    def __init__(self, module: nn.Module) -> None:
        self.count = 0
        module.register_forward_hook(self._add)

    def _add(self, *_: object) -> None:
        self.count += 1


def gradients(model: nn.Module) -> list[torch.Tensor]:
    """Of a loss with dropout, drawn from a fixed seed."""
    import torch

    torch.manual_seed(0)
    model.zero_grad()
    model(input_ids=torch.arange(12).reshape(2, 6)).logits.square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_activations_are_computed_again_with_the_same_result(models: Callable[[str], Path]) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    from finetune_trainer.training.recomputing import recompute, recomputes

    model = AutoModelForSequenceClassification.from_pretrained(models("bert")).train()
    expected, counted = gradients(model), Counted(model.bert.encoder.layer[0].attention)
    cpu = torch.device("cpu")
    wanted = {kind: recomputes(kind, model, 0, cpu) for kind in Use}
    assert wanted == {"Auto": False, "Always": True, "Never": False}
    recompute(model)
    assert all(map(torch.equal, gradients(model), expected))
    assert counted.count == 2


def test_a_model_that_cannot_compute_again_is_refused(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel

    from finetune_trainer.training.recomputing import recomputes

    model = AutoModel.from_pretrained(zoo.save("resnet", tmp_path))
    with pytest.raises(ConfigError, match=r"spec\.training\.gradientCheckpointing"):
        recomputes(Use.ALWAYS, model, 0, torch.device("cpu"))
    assert recomputes(Use.AUTO, model, 0, torch.device("cpu")) is False


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        pytest.param("bert", {"hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"}, id="bert"),
        pytest.param("gpt2", {"resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"}, id="gpt2"),
        pytest.param("t5", {"dropout_rate", "classifier_dropout"}, id="t5"),
        pytest.param(
            "wav2vec2",
            {
                "hidden_dropout",
                "activation_dropout",
                "attention_dropout",
                "feat_proj_dropout",
                "feat_quantizer_dropout",
                "final_dropout",
            },
            id="wav2vec2: whole layers are not dropped by it",
        ),
        pytest.param(
            "clip", {"text_config.attention_dropout", "vision_config.attention_dropout"}, id="clip: its parts"
        ),
        pytest.param("resnet", set(), id="resnet has none"),
    ],
)
def test_dropout_reaches_every_field(kind: str, fields: set[str], tmp_path: Path) -> None:
    from transformers import AutoConfig

    from finetune_trainer.tasks.pretrained import set_dropout

    config = AutoConfig.from_pretrained(zoo.save(kind, tmp_path, ["some words"] * 50))
    count = set_dropout(config, 0.375)
    document = config.to_dict()
    named = {"": document, **{f"{part}.": document[part] for part in config.sub_configs}}
    found = {f"{part}{name}" for part, values in named.items() for name, value in values.items() if value == 0.375}
    assert (found, count) == (fields, len(fields))


def test_a_dropout_that_goes_nowhere_is_refused(tmp_path: Path) -> None:
    from finetune_trainer.model_folder import ModelFolder
    from finetune_trainer.tasks.pretrained import load_config
    from support.tasks import a_config

    folder = zoo.save("resnet", tmp_path)
    with pytest.raises(ConfigError, match=r"spec\.training\.dropout: a resnet model has no dropout"):
        load_config(ModelFolder(folder, "resnet"), a_config("image-classification", folder, dropout=0.2))


def other_rows(folder: Path) -> str:
    """Texts of another kind than those that are learned."""
    rows = [{"text": f"{number} und noch ein Satz, der anders ist"} for number in range(12)]
    return write_json_lines(folder / "other.jsonl", rows).as_uri()


def test_what_was_forgotten_is_measured(trainer: WarmTrainer, tmp_path: Path) -> None:
    """A language model before and after it has learned something else, on the same rows."""
    texts = [f"the parcel number {number} came late again" for number in range(60)]
    model = zoo.save("gpt2", tmp_path / "model", texts)
    data = write_json_lines(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    forgetting = {"uri": other_rows(tmp_path)}
    run = a_run(tmp_path, data.as_uri(), model.as_uri(), numTrainEpochs=2).with_("evaluation", forgetting=forgetting)
    run = finished(trainer, ARun(run.root, {**run.config, "task": "text-generation"}))
    found = run.read("evaluation.json")["forgetting"]
    assert found["change"] == {name: found["after"][name] - value for name, value in found["before"].items()}
    assert found["change"]["loss"] > 0
    lines = run.lines("metrics.jsonl")
    assert [line["step"] for line in lines if "forgetting_before_loss" in line] == [0]
    (after,) = [line for line in lines if "forgetting_after_loss" in line]
    assert after["forgetting_after_loss"] == found["after"]["loss"]
    assert run.read("run.json")["data"]["forgetting"]["rows"] == 12


def test_a_classifier_forgets_what_it_was_trained_for(trainer: WarmTrainer, run: ARun, files: dict[str, Path]) -> None:
    """Before the second run it has the accuracy with which the first one ended."""
    first = finished(trainer, run)
    second = beside(run, "second").with_("model", uri=(first.folder / "model").as_uri())
    second = second.with_("training", learningRate=0.05, lrSchedulerType="constant", maxSteps=4).with_(
        "evaluation", strategy="Never"
    )
    second = finished(trainer, second.with_("evaluation", forgetting={"uri": files["held"].as_uri()}))
    found, metrics = second.read("evaluation.json")["forgetting"], first.read("evaluation.json")["metrics"]
    assert {f"test_{name}": value for name, value in found["before"].items()} == pytest.approx(
        {name: value for name, value in metrics.items() if "baseline" not in name}, rel=1e-4
    )
    assert found["after"]["accuracy"] < found["before"]["accuracy"]
