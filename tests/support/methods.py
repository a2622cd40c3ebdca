"""Runs of a matrix's case with another method, built in this process: what a rank would build, to look into."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.run import RunConfig
from support import cases_generation, cases_media, cases_text
from support.matrix import Case
from support.runs import ARun

if TYPE_CHECKING:
    from torch import nn

    from finetune_trainer.tasks.base import Example
    from finetune_trainer.training.run import Run

CASES = {case.id: case for case in (*cases_text.CASES, *cases_media.CASES, *cases_generation.CASES)}
ROWS = 40


def few(name: str, rows: int = ROWS) -> Case:
    """The case with its first rows alone."""
    corpus = CASES[name].corpus
    return replace(CASES[name], corpus=lambda folder: corpus(folder)[:rows])


def with_method(run: ARun, **method: Any) -> ARun:
    return ARun(run.root, {**run.config, "method": method})


def built(run: ARun) -> Run:
    """What one process trains with, at step 0."""
    import torch

    from finetune_trainer.methods import METHODS
    from finetune_trainer.preflight import check_inputs
    from finetune_trainer.report.reporter import Reporter
    from finetune_trainer.training.build import build_run
    from finetune_trainer.training.world import World

    config = RunConfig.model_validate(run.config)
    Path(config.folder).mkdir(parents=True, exist_ok=True)
    method, world = METHODS[config.method.type](config.method), World(0, 1, torch.device("cpu"))
    return build_run(config, check_inputs(config, None), method, world, Reporter([], None, time.time), threads=1)


def take_steps(run: Run, count: int) -> None:
    """Optimizer steps as the loop takes them."""
    from finetune_trainer.training.feeding import next_batches
    from finetune_trainer.training.loop import agree
    from finetune_trainer.training.updating import optimize

    for _ in range(count):
        parts = next_batches(run)
        optimize(run, parts, agree(run, parts).count)
        run.state.step += 1


def predictions(run: Run, model: nn.Module, examples: Sequence[Example]) -> list[Mapping[str, Any]]:
    """What a model says of each example alone, so that none has padding."""
    import torch

    model.eval()
    said: list[Any] = []
    with torch.no_grad():
        for example in examples:
            batch = run.task.collate([example])
            said += run.task.predict(model, batch, model(**batch.inputs))
    return [run.task.present(one) for one in said]
