"""The gradient and the weights that transformers.Trainer comes to on the first rows of a run of ours.

The same rows in the same order, encoded and padded by our task, with the labels that the model of transformers takes;
the same weights, new head included. Each way is a process, or two, forked from the warm one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.runs import ARun, WarmTrainer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from finetune_trainer.tasks.base import Example, TaskKind

PATIENCE = 300.0
NO_CLIPPING = 1e9
"""Its norm is told all the same; with 0 it is not computed."""
IGNORED = -100
Tensors = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Cut:
    """How the rows of one optimizer step are spread: over micro-batches, and over processes."""

    accumulation: int = 1
    processes: int = 1

    @property
    def parts(self) -> int:
        return self.accumulation * self.processes


@dataclass(frozen=True)
class Step:
    """An optimizer step: the gradient that the optimizer is given, and what the log says.

    `whole` is the gradient of the model's own loss over all rows of the step at once: torch and the model, nobody's
    loop.
    """

    whole: Tensors
    gradient: Tensors
    loss: float
    norm: float


@dataclass(frozen=True)
class Wanted:
    """What is asked of the trainer in another process."""

    cut: Cut
    max_grad_norm: float
    steps: int
    port: int
    log: str


def first_steps(trainer: WarmTrainer, runs: Mapping[str, ARun], cut: Cut, max_grad_norm: float) -> dict[str, Step]:
    """The first step of each run."""
    return {name: Step(**said) for name, said in _asked(trainer, runs, cut, max_grad_norm, 1)["steps"].items()}


def weights_after(trainer: WarmTrainer, run: ARun, cut: Cut, max_grad_norm: float, steps: int) -> Tensors:
    """The weights after some steps of AdamW."""
    weights: Tensors = _asked(trainer, {"run": run}, cut, max_grad_norm, steps)["weights"]["run"]
    return weights


def _asked(
    trainer: WarmTrainer, runs: Mapping[str, ARun], cut: Cut, max_grad_norm: float, steps: int
) -> dict[str, Any]:
    import torch

    name = f"peer-{cut.accumulation}x{cut.processes}-{max_grad_norm:g}-{steps}"
    out = next(iter(runs.values())).root / f"{name}.pt"
    wanted = Wanted(cut, max_grad_norm, steps, _free_port(), str(out.with_suffix(".log")))
    ranks = [trainer.fork(_peer, (rank, _written(runs), wanted, str(out))) for rank in range(cut.processes)]
    _done(ranks, Path(wanted.log))
    said: dict[str, Any] = torch.load(out)
    return said


def _done(processes: Sequence[Any], log: Path) -> None:
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0, log.read_text() if log.exists() else "no log"


def _written(runs: Mapping[str, ARun]) -> dict[str, str]:
    return {name: str(run.write()) for name, run in runs.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _log_to(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _peer(rank: int, configs: Mapping[str, str], wanted: Wanted, out: str) -> None:
    import torch

    _log_to(wanted.log)
    torch.set_num_threads(1)
    if wanted.cut.processes > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": wanted.cut.processes, "MASTER_PORT": wanted.port}
        os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in names.items()}})
    steps, weights = {}, {}
    for name, config in configs.items():
        steps[name], weights[name] = _trained(Path(config), wanted)
    if rank == 0:
        torch.save({"steps": steps, "weights": weights}, out)


def _trained(config: Path, wanted: Wanted) -> tuple[dict[str, Any], Tensors]:
    """The first step, and the weights after the last."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    task, model, examples = _opened(config)
    model.train()(**labelled(task, examples)).loss.backward()
    caught: list[Tensors] = []
    whole = _gradient(model)
    model.zero_grad()

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            if not caught:
                caught.append(_gradient(model))

    arguments = TrainingArguments(
        output_dir=str(config.parent / "peer"),
        use_cpu=True,
        per_device_train_batch_size=len(examples) // wanted.cut.parts,
        gradient_accumulation_steps=wanted.cut.accumulation,
        max_steps=wanted.steps,
        max_grad_norm=wanted.max_grad_norm,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
    )
    collate = lambda batch: labelled(task, batch)  # noqa: E731
    peer = Trainer(model=model, args=arguments, train_dataset=examples, data_collator=collate, callbacks=[Catch()])  # type: ignore[arg-type]
    peer.train()
    first = next(line for line in peer.state.log_history if "loss" in line)
    said = {"whole": whole, "gradient": caught[0], "loss": first["loss"], "norm": float(first["grad_norm"])}
    return said, {name: item.detach().clone() for name, item in model.named_parameters()}


def _gradient(model: nn.Module) -> Tensors:
    return {name: item.grad.clone() for name, item in model.named_parameters() if item.grad is not None}


def _opened(path: Path) -> tuple[TaskKind, Any, list[Example]]:
    """The task, its model as a run begins with it, and the examples of the run's first step."""
    from finetune_trainer.data.prepare import load_data
    from finetune_trainer.data.sampler import Sampler
    from finetune_trainer.data.split import Side
    from finetune_trainer.encoding import encode_side
    from finetune_trainer.preflight import check_inputs, load_run_config
    from finetune_trainer.tasks import TASKS
    from finetune_trainer.training.state import seed_everything
    from finetune_trainer.training.world import World

    config = load_run_config(path)
    facts, data, world = check_inputs(config, None), load_data(config), World(0, 1, _cpu())
    task = TASKS[config.task].load(facts.folder, data.labels, config)
    sides = {side: encode_side(task, data.sides[side], side, facts) for side in Side}
    seed_everything(config.training.seed)
    model, _ = task.load_model()
    examples = task.prepare(model, sides, world)[Side.TRAIN]
    indices = Sampler(len(examples), config.training.train_batch_size, config.training.seed).indices(0)
    return task, model, [{**examples[index], "training": True, "draw": 0} for index in indices]


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


def labelled(task: TaskKind, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Examples as the forward of transformers' model takes them, with labels."""
    import torch

    batch = task.collate(examples)
    inputs: dict[str, torch.Tensor] = dict(batch.inputs)
    first = examples[0]
    if "target" in first:  # the model shifts them itself
        del inputs["decoder_input_ids"], inputs["decoder_attention_mask"]
        return {**inputs, "labels": _padded([example["target"] for example in examples])}
    if "learned" in first:
        width = inputs["input_ids"].shape[1]
        return {**inputs, "labels": torch.tensor([list(_said(example, width)) for example in examples])}
    if "tokens" in first and "room" in first:
        return {**inputs, "labels": _padded([example["tokens"] for example in examples])}
    return {**inputs, "labels": batch.targets["labels"]}


def _said(example: Example, width: int) -> Iterator[int]:
    """The tokens that are learned, in their places."""
    learned = set(map(int, example["learned"]))
    ids = [int(token) for token in example["input_ids"]]
    for place in range(width):
        yield ids[place] if place in learned else IGNORED


def _padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    import torch

    width = max(map(len, rows))
    return torch.tensor([[*map(int, row), *[IGNORED] * (width - len(row))] for row in rows])
