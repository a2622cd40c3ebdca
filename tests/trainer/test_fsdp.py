"""fsdp: a model in parts is trained as one in replicas, resumes to the same bytes, and on any number of processes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from finetune_api.progress import ExitCode, Result
from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.sharding_limits import check_sharding
from support.methods import few
from support.models import save_model
from support.runs import ARun, Attempt, WarmTrainer, a_run

pytestmark = pytest.mark.torch
STEPS = 10
STOPPED_AT = 4
CLOCK = ("time", "tokens_per_second")
LORA = {"type": "lora", "lora": {"r": 4}}


def in_parts(run: ARun, processes: int = 2, strategy: str = "fsdp") -> ARun:
    return run.with_("parallelism", strategy=strategy).with_processes(processes)


def in_folder(run: ARun, root: Path) -> ARun:
    """The same run in another folder."""
    moved = {"folder": str(root / "run"), "checkpointFolder": str(root / "run" / "checkpoints")}
    return ARun(root, {**run.config, **moved})


def done(trainer: WarmTrainer, run: ARun, root: Path) -> ARun:
    run = in_folder(run, root)
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    return run


def weights_of(run: ARun) -> Mapping[str, Any]:
    """All weights of the model that a run left, an adapter's included."""
    return {f"{path.name}/{name}": own for path in model_files(run) for name, own in load_file(path).items()}


def model_files(run: ARun) -> list[Path]:
    return sorted((run.folder / "model").rglob("*.safetensors"))


def difference(one: ARun, other: ARun) -> float:
    """The largest difference between two weights of the models that two runs left."""
    weights, others = weights_of(one), weights_of(other)
    assert weights.keys() == others.keys()
    return max(float(abs(weights[name] - others[name]).max()) for name in weights)


def metrics_of(run: ARun) -> list[dict[str, Any]]:
    return [{name: line[name] for name in line if name not in CLOCK} for line in run.lines("metrics.jsonl")]


def newest(run: ARun) -> Path:
    return max(run.checkpoints.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def bytes_of(run: ARun) -> dict[str, bytes]:
    """Model, and weights and optimizer of the last checkpoint."""
    paths = [*model_files(run), *sorted(newest(run).glob("part-*"))]
    return {path.name: path.read_bytes() for path in paths}


def interrupted(trainer: WarmTrainer, run: ARun, root: Path, strike: Callable[[Attempt], None]) -> ARun:
    """The next attempt of a run that was struck after some steps."""
    run = in_folder(run, root)
    attempt = trainer.start(run)
    attempt.until_step(STOPPED_AT)
    strike(attempt)
    assert list(run.checkpoints.glob("step-*")), attempt.log
    return run.with_("job", attempt=2)


def stop(attempt: Attempt) -> None:
    attempt.send(signal.SIGTERM)
    assert attempt.end().outcome.outcome is Result.PREEMPTED


def vanish(attempt: Attempt) -> None:
    attempt.vanish()


@pytest.fixture
def run(tmp_path: Path, rows: Path) -> ARun:
    """Steps of three micro-batches and one batch of an evaluation: two processes have unequal numbers of both."""
    model = save_model(tmp_path / "model", dropout=0.0)
    made = a_run(tmp_path, rows.as_uri(), model.as_uri(), maxSteps=STEPS, trainBatchSize=20)
    return made.with_("evaluation", strategy="Steps", steps=3)


def test_a_bert_in_parts_is_the_bert_of_replicas(trainer: WarmTrainer, run: ARun, tmp_path: Path) -> None:
    """With an average of the weights, layers that learn at rates of their own, and unfreezing, all the same."""
    run = run.with_("training", ema=0.9, layerwiseLrDecay=0.8, gradualUnfreezing={"everySteps": 3})
    replicas = done(trainer, in_parts(run, strategy="ddp"), tmp_path / "ddp")
    parts = done(trainer, in_parts(run), tmp_path / "fsdp")
    assert difference(replicas, parts) < 1e-5
    assert parts.read("run.json")["choices"]["strategy"] == "fsdp"
    labels = [[line["label"] for line in one.lines("predictions.jsonl")] for one in (replicas, parts)]
    assert labels[0] == labels[1]


@pytest.mark.parametrize(
    ("name", "method", "precision"),
    [
        pytest.param("text-generation gpt2", LORA, "bf16", id="gpt2 with lora, whose frozen weights are in bf16"),
        pytest.param("summarization t5", {}, "auto", id="t5, which writes in evaluations"),
        pytest.param("preference-optimization gpt2", {}, "auto", id="preferences, against the model before"),
    ],
)
def test_models_that_write(
    trainer: WarmTrainer, name: str, method: dict[str, Any], precision: str, tmp_path: Path
) -> None:
    """The same weights and the same predictions; activations are computed again, which waits for the same peers."""
    settings = {"maxSteps": 3, "trainBatchSize": 20, "microBatchSize": 8, "gradientCheckpointing": "Always"}
    made = few(name, 60).run(tmp_path, precision=precision, **settings)
    made = ARun(made.root, {**made.config, "method": method})
    replicas = done(trainer, in_parts(made, strategy="ddp"), tmp_path / "ddp")
    parts = done(trainer, in_parts(made), tmp_path / "fsdp")
    assert difference(replicas, parts) < 1e-5
    said = [[line.get("generated_text") for line in one.lines("predictions.jsonl")] for one in (replicas, parts)]
    assert said[0] == said[1]


@pytest.mark.parametrize("strike", [stop, vanish])
def test_killed_and_resumed_it_ends_with_the_same_bytes(
    trainer: WarmTrainer, run: ARun, strike: Callable[[Attempt], None], tmp_path: Path
) -> None:
    run = in_parts(run).with_("training", dropout=0.1).with_("checkpoint", everySteps=2)
    whole = done(trainer, run, tmp_path / "whole")
    resumed = interrupted(trainer, run, tmp_path / "resumed", strike)
    assert trainer.run(resumed).code == ExitCode.DONE
    assert resumed.read("status.json")["checkpoint"]["resumedFromStep"] > 0
    assert bytes_of(resumed) == bytes_of(whole)
    assert metrics_of(resumed) == metrics_of(whole)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param((2, "fsdp"), (3, "fsdp"), id="by three"),
        pytest.param((2, "fsdp"), (1, "fsdp"), id="by one"),
        pytest.param((2, "fsdp"), (2, "ddp"), id="in replicas"),
        pytest.param((2, "ddp"), (2, "fsdp"), id="in parts what was replicas"),
    ],
)
def test_other_processes_go_on(
    trainer: WarmTrainer, run: ARun, before: tuple[int, str], after: tuple[int, str], tmp_path: Path
) -> None:
    """The same weights within float error: also where a process has no row of some steps."""
    run = run.with_("training", ema=0.9).with_("checkpoint", everySteps=2)
    whole = done(trainer, in_parts(run, *before), tmp_path / "whole")
    resumed = in_parts(interrupted(trainer, in_parts(run, *before), tmp_path / "resumed", stop), *after)
    ended = trainer.run(resumed)
    assert ended.code == ExitCode.DONE, ended.log
    assert resumed.read("status.json")["checkpoint"]["resumedFromStep"] > 0
    assert difference(whole, resumed) < 1e-5


def test_every_process_writes_its_own_part(trainer: WarmTrainer, run: ARun, tmp_path: Path) -> None:
    """Two files of about half the size, under one manifest; the best weights are an ordinary file all the same."""
    made = done(trainer, in_parts(run), tmp_path / "parts")
    folder = newest(made)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(files) == {"part-0.safetensors", "part-1.safetensors", "state.json"}
    sizes = [files[f"part-{rank}.safetensors"]["bytes"] for rank in (0, 1)]
    assert abs(sizes[0] - sizes[1]) < 0.1 * sum(sizes), sizes
    parts = [read_part(folder / f"part-{rank}.safetensors") for rank in (0, 1)]
    best = load_file(next(made.checkpoints.glob("best-*")) / "model.safetensors")
    held = {name: sum(len(part[f"weights/{name}"]) for part in parts if f"weights/{name}" in part) for name in best}
    assert held == {name: len(weight) for name, weight in best.items()}


def read_part(path: Path) -> dict[str, Any]:
    with safe_open(path, "numpy") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def test_a_torn_part_falls_back_to_the_checkpoint_before(trainer: WarmTrainer, run: ARun, tmp_path: Path) -> None:
    run = in_parts(run).with_("checkpoint", everySteps=2, keepLast=2)
    resumed = interrupted(trainer, run, tmp_path / "torn", stop)
    steps = sorted(int(path.name.removeprefix("step-")) for path in resumed.checkpoints.glob("step-*"))
    with (newest(resumed) / "part-1.safetensors").open("r+b") as file:
        file.truncate(100)
    ended = trainer.run(resumed)
    assert ended.code == ExitCode.DONE, ended.log
    assert f"step-{steps[-1]} is of no use: part-1.safetensors is not whole" in ended.log
    assert resumed.read("status.json")["checkpoint"]["resumedFromStep"] == steps[-2]


def test_one_process_is_told_that_it_has_everything(trainer: WarmTrainer, run: ARun, tmp_path: Path) -> None:
    alone = in_folder(in_parts(run.with_("training", maxSteps=2), processes=1), tmp_path / "alone")
    ended = trainer.run(alone)
    assert ended.code == ExitCode.DONE, ended.log
    assert "one process has all of the model; fsdp is the same as ddp" in ended.log


@pytest.mark.parametrize(
    ("section", "fields", "said"),
    [
        ("training", {"optimizer": "adafactor"}, "optimizer: adafactor, which keeps the means of whole rows"),
        ("training", {"optimizer": "adamw_8bit"}, "optimizer: adamw_8bit"),
        ("training", {"optimizer": "lion"}, "optimizer: lion"),
        ("training", {"precision": "fp16"}, "precision: fp16"),
        ("training", {"precision": "fp8"}, "precision: fp8"),
        ("training", {"compile": "Always"}, "compile: Always"),
        ("method", {"type": "qlora"}, "weights of four bits"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(
    run: ARun, section: str, fields: dict[str, Any], said: str
) -> None:
    """Before torch is imported; with the field, the reason, and what would work."""
    config = RunConfig.model_validate(in_parts(run.with_(section, **fields)).config)
    with pytest.raises(ConfigError, match=said) as caught:
        check_sharding(config, ModelFolder(Path(), "bert"))
    assert caught.value.reason == "NotSupported"
    assert caught.value.hint.endswith("or use ddp")


@pytest.mark.parametrize(
    ("task", "kind", "said"),
    [
        ("image-text-contrastive", "clip", "compares all rows"),
        ("automatic-speech-recognition", "whisper", "writes what it hears"),
    ],
)
def test_tasks_that_cannot_be_shared_like_this_are_refused(run: ARun, task: str, kind: str, said: str) -> None:
    made = in_parts(ARun(run.root, {**run.config, "task": task}))
    with pytest.raises(ConfigError, match=said):
        check_sharding(RunConfig.model_validate(made.config), ModelFolder(Path(), kind))


def test_models_whose_processes_would_part_are_refused() -> None:
    """Batch norms, and layers that are left out at random."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    from finetune_trainer.training.sharded import check_shardable

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": (8,), "conv_kernel": (3,), "conv_stride": (2,), "num_feat_extract_layers": 1}
    shared = {**small, **convolutions, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    with pytest.raises(ConfigError, match="layers at random"):
        check_shardable(Wav2Vec2Model(Wav2Vec2Config(**shared, layerdrop=0.1)))
    check_shardable(Wav2Vec2Model(Wav2Vec2Config(**shared, layerdrop=0.0)))


def test_batch_norms_are_refused() -> None:
    from torch import nn

    from finetune_trainer.training.sharded import check_shardable

    with pytest.raises(ConfigError, match="batch norms"):
        check_shardable(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
