"""What all sides of a workload start from, in one folder: `python -m benchmarks.trainer.prepare FOLDER`.

`workload.json` in it says which. Left are `base` (the model that is fine-tuned), `data` (files with rows),
`config-ours.json` (our run; `config-ours-auto.json` with the precision of its choice), and for the peers `start` (the
whole model with its new head, as our run begins with it), `rows.jsonl` (the rows as our trainer encodes them) and
`order.json` (the rows of every step, one after the other).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.trainer import corpora, models
from benchmarks.trainer.sides import AUTO, OURS
from benchmarks.trainer.words import Writer, vocabulary
from benchmarks.trainer.workloads import CONFIG, FACTS, SEED, Workload, read_workload

HELD_OUT = 16
"""Rows of validation and test: training is what is measured."""


def write_inputs(workload: Workload, folder: Path, precision: str, gpus: int) -> None:
    """Data, base model, and the configuration of our run."""
    words = vocabulary(workload.words)
    models.save(workload.model, folder / "base", words, workload.shape, workload.dropout)
    data = folder / "data"
    data.mkdir()
    counts = {"train": workload.rows, "validation": HELD_OUT, "test": HELD_OUT}
    for number, (side, count) in enumerate(counts.items()):
        beside = data / side
        beside.mkdir()
        rows = corpora.CORPORA[workload.corpus](Writer(words, SEED + number), workload.lengths, count, beside)
        corpora.write_rows(rows, beside / "rows.jsonl")
    for side, own in ((OURS, precision), (AUTO, "auto")):
        config = run_config(workload, folder, own, gpus)
        (folder / CONFIG.format(side=side)).write_text(json.dumps(config), encoding="utf-8")


def run_config(workload: Workload, folder: Path, precision: str, gpus: int) -> dict[str, Any]:
    """Our run. Optimizer and schedule are those that `peer.arguments` gives the peers."""
    sources = {
        side: [{"uri": (folder / "data" / side / "rows.jsonl").as_uri()}] for side in ("train", "validation", "test")
    }
    training = {
        "numTrainEpochs": workload.epochs,
        "trainBatchSize": workload.batch,
        "learningRate": workload.learning_rate,
        "precision": precision,
        "seed": SEED,
    }
    if workload.max_length is not None:
        training["maxLength"] = workload.max_length
    return {
        "version": "v1",
        "job": {"namespace": "default", "name": "benchmark", "uid": "0a1b2c3d", "run": 1, "attempt": 1},
        "task": workload.task,
        "model": {"uri": (folder / "base").as_uri()},
        "dataset": {
            "train": sources["train"],
            "validation": {"sources": sources["validation"]},
            "test": {"sources": sources["test"]},
        },
        "method": dict(workload.method),
        "training": training,
        "evaluation": {"strategy": "Never"},
        "checkpoint": {"everySeconds": 36_000, "keepLast": 1},
        "output": {},
        "resources": {"processesPerNode": 1, "gpusPerNode": gpus},
        "parallelism": {},
        "folder": str(folder / "run"),
        "checkpointFolder": str(folder / "run" / "checkpoints"),
        "baseFolder": str(folder),
    }


def _tell_flops(module: Any, examples: Sequence[Any], epochs: int, precision: str, folder: Path) -> None:
    """What the run computes, and what the device could at most, for the share of it that was used."""
    from benchmarks.trainer import devices

    lengths = [len(example["input_ids"]) for example in examples] * epochs
    shape = module.config
    flops = devices.training_flops(module, lengths, shape.num_hidden_layers, shape.hidden_size)
    known = {"flops": flops, "peak_flops": devices.peak_flops(precision), "device": devices.name()}
    (folder / FACTS).write_text(json.dumps(known), encoding="utf-8")


def write_start(workload: Workload, folder: Path) -> None:
    """What our run begins with, for the peers: weights, encoded rows, their order."""
    import torch

    from finetune_trainer.data.kept import open_data
    from finetune_trainer.data.sampler import Sampler
    from finetune_trainer.data.split import Side
    from finetune_trainer.encoding import encode_side
    from finetune_trainer.methods import METHODS
    from finetune_trainer.preflight import check_inputs, load_run_config
    from finetune_trainer.tasks import TASKS
    from finetune_trainer.training.state import seed_everything
    from finetune_trainer.training.world import World

    config = load_run_config(folder / CONFIG.format(side=OURS))
    facts = check_inputs(config, None, folder / "kept")
    data = open_data(folder / "kept")
    task = TASKS[config.task].load(facts.folder, data.labels, config)
    examples = {side: encode_side(task, data.sides[side], side, facts) for side in Side}
    seed_everything(config.training.seed)
    model, new = task.load_model()
    module = METHODS[config.method.type](config.method).prepare(model, new)
    task.prepare(module.eval(), examples, World(0, 1, torch.device("cpu")))
    if workload.gpu:
        _tell_flops(module, examples[Side.TRAIN], workload.epochs, config.training.precision, folder)
    _save_start(module, folder / "start", task)
    rows = [peer_row(config.task, example) for example in examples[Side.TRAIN]]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sampler = Sampler(len(rows), config.training.train_batch_size, config.training.seed)
    steps = sampler.steps_per_epoch * int(config.training.num_train_epochs)
    order = [index for step in range(steps) for index in sampler.indices(step)]
    (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")


def _save_start(module: Any, folder: Path, task: Any) -> None:
    """An adapter is saved beside the model that it is put into."""
    if hasattr(module, "peft_config"):
        module.save_pretrained(folder / "adapter")
        module = module.unload()
    module.save_pretrained(folder)
    task.save(folder)
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    (folder / "trained.json").write_text(json.dumps(trained), encoding="utf-8")


def peer_row(task: str, example: Mapping[str, Any]) -> dict[str, Any]:
    """An example of our trainer in the words of transformers: input_ids, labels, and so on."""
    match task:
        case "text-classification":
            return _numbers(example, "input_ids", "token_type_ids") | {"labels": int(example["label"][0])}
        case "image-classification":
            return {"image": str(example["image"].path), "labels": int(example["label"][0])}
        case "question-answering":
            (window,), (target,) = example["windows"], example["targets"]
            start, end = target
            return _numbers(window, "input_ids", "token_type_ids") | {
                "start_positions": int(start),
                "end_positions": int(end),
            }
        case "summarization":
            return _numbers(example, "input_ids") | {"labels": _list(example["target"])}
        case "automatic-speech-recognition":
            return {"audio": str(example["audio"].path), "labels": _list(example["tokens"])}
        case "text-generation":
            ids, learned = _list(example["input_ids"]), set(_list(example["learned"]))
            return {
                "input_ids": ids,
                "labels": [token if place in learned else -100 for place, token in enumerate(ids)],
            }
    raise ValueError(f"no peer knows {task}")


def _numbers(example: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: _list(example[name]) for name in names if name in example}


def _list(numbers: Sequence[Any]) -> list[int]:
    return [int(number) for number in numbers]


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    workload, precision, gpus = read_workload(folder)
    write_inputs(workload, folder, precision, gpus)
    write_start(workload, folder)


if __name__ == "__main__":
    main()
