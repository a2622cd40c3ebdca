"""Memory that does not suffice ends a run in its first minute, and the run says which settings would fit."""

from __future__ import annotations

import re
import resource
import shutil
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
    run.state.step = 15
    expected = max(sum(run.sizes[row] for row in run.sampler.indices(step)) for step in range(11, 22))
    assert longest(run).batch.tokens == expected
    elsewhere = {"folder": str(small_run.root / "padded")}
    padded = built(ARun(small_run.root, {**small_run.config, **elsewhere}).with_("training", paddingFree="Never"))
    taken = [(len(part), max(padded.sizes[row] for row, _ in part)) for step in range(11) for part in padded.cut(step)]
    found = longest(padded).batch.inputs["input_ids"]
    assert found.numel() == max(count * size for count, size in taken)


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


POSITIONS = 512
SPARE = 150 << 20
"""Bytes of memory that a rank is given beside what it has when it begins, some of which it can have free from the
start; the run below wants gigabytes."""


def a_short_rank(environment: Mapping[str, str]) -> int:
    """A rank with a limit of its memory that the kernel keeps to."""

    def limit() -> None:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:"))
        most = int(line.split()[1]) * 1024 + SPARE
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))

    return fork_rank(environment, limit)


def larger(small: Path, folder: Path) -> Path:
    """The model with room for long texts: 32 rows of 512 tokens keep gigabytes for the gradient."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    shutil.copytree(small, folder)
    shape = {"hidden_size": 128, "num_attention_heads": 8, "num_hidden_layers": 4, "max_position_embeddings": POSITIONS}
    AutoModel.from_config(AutoConfig.from_pretrained(small, **shape)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(small, model_max_length=POSITIONS).save_pretrained(folder)
    return folder


def test_a_run_without_enough_memory_says_what_would_fit(
    trainer: WarmTrainer, tmp_path: Path, models: Callable[[str], Path]
) -> None:
    """The longest row comes late, and nevertheless memory runs out before the first step; the fields are named."""
    long = " ".join(text for text, _ in sentences(40))
    data = write_rows(tmp_path / "rows.csv", [*sentences(300), (long, "praise")])
    model = larger(models("bert"), tmp_path / "larger")
    training = {"trainBatchSize": 32, "microBatchSize": 32, "maxSteps": LONG, "paddingFree": "Never"}
    run = a_run(tmp_path, data.as_uri(), model.as_uri(), **training)
    ended = trainer.run(run, a_short_rank)
    failure = ended.outcome.failure
    assert failure is not None, ended.log
    assert (ended.code, failure.class_, failure.reason) == (ExitCode.KILLED, "OutOfMemoryHost", "OutOfMemoryHost")
    assert re.search(
        r"before the first step; the longest micro-batch is 32 rows x 512 \(full, fp32, adamw\)", failure.message
    )
    assert failure.hint is not None
    assert "it fits with spec.training.microBatchSize: " in failure.hint, ended.log
