"""Memory that does not suffice ends a run in its first minute, with the settings that would fit; nothing depends on it."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from finetune_api.progress import ExitCode
from support.methods import built
from support.models import sentences, write_rows
from support.runs import ARun, WarmTrainer, a_run, fork_rank

pytestmark = pytest.mark.torch
LONG = 900
"""Steps of a run that the longest batch comes first in."""


@pytest.fixture
def long_run(tmp_path: Path, rows: Path, models: Callable[[str], Path]) -> ARun:
    """A run that is long enough for the longest batch to come first, and is over before it comes far."""
    return a_run(tmp_path, rows.as_uri(), models("bert").as_uri(), trainBatchSize=4, maxSteps=200)


def test_the_longest_micro_batch_of_the_run_is_found(small_run: ARun) -> None:
    from finetune_trainer.training.warming import longest

    run = built(small_run)
    taken = [(len(part), max(run.sizes[row] for row, _ in part)) for step in range(16) for part in run.cut(step)]
    found = longest(run)
    assert len(found) * max(run.sizes[row] for row, _ in found) == max(count * size for count, size in taken)


def test_nothing_is_left_of_the_longest_micro_batch(long_run: ARun) -> None:
    """Weights, buffers, gradients, loss, and the gradient of the next step are what they would be without it."""
    import torch

    from finetune_trainer.training.feeding import next_batches
    from finetune_trainer.training.gradients import accumulate
    from finetune_trainer.training.warming import warm_up

    run = built(long_run)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    accumulate(run, next_batches(run))
    plain = {name: weight.grad for name, weight in run.model.named_parameters()}
    run.optimizer.zero_grad(set_to_none=True)
    for table in run.tables:
        table.clear()
    loss = run.loss.item()
    run.loss.zero_()

    warm_up(run)
    assert all(weight.grad is None for weight in run.parameters)
    assert (run.loss.item(), run.data_wait) == (0.0, run.data_wait)
    after = run.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    accumulate(run, next_batches(run))
    assert run.loss.item() == loss
    again = {name: weight.grad for name, weight in run.model.named_parameters()}
    assert all(torch.equal(plain[name], again[name]) for name in plain if plain[name] is not None)
